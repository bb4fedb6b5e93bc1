"""The selector, and the readers and writers registered with it.

What is registered for a descriptor is a pair (reader handle, writer handle), as in the standard loop: other
libraries look into ``loop._selector.get_map()``, and selectors given by the user know nothing of handles.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import weakref
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVarTuple, Unpack

from ..core.standard import selector_events
from ..record import layout
from .loop_part import LoopPart
from .network.io_counters import IOCounters

_Ts = TypeVarTuple("_Ts")

_READ = selectors.EVENT_READ
_WRITE = selectors.EVENT_WRITE


class PollerMixin(LoopPart):
    """add_reader and its family. For the loop's own thread."""

    _selector: Any  # a selectors.BaseSelector; None once the loop is closed
    _io_counters: IOCounters

    def _init_poller(self, selector: selectors.BaseSelector | None) -> None:
        """Called once by the loop's constructor, when ``_internal_fds`` and the scheduling are there."""
        if selector is None:
            selector = selectors.DefaultSelector()
        selector_events.logger.debug("Using selector: %s", type(selector).__name__)
        self._selector = selector
        self._io_counters = IOCounters()
        self._make_self_pipe()
        self._transports: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._unix_server_sockets: dict[Any, int] = {}

    def _close_poller(self) -> None:
        """Called once by ``close()``, after ``_closed`` is set: what is registered goes with the selector."""
        self._close_self_pipe()
        if self._selector is not None:
            self._selector.close()
            self._selector = None

    # Mapping.get of the older selectors works by exception, so nothing is lost by asking for the key there; and
    # CPython's tests replace the one or the other, by version.
    if sys.version_info >= (3, 13):

        def _selector_key(self, fd: Any) -> Any:
            return self._selector.get_map().get(fd)

    else:

        def _selector_key(self, fd: Any) -> Any:
            try:
                return self._selector.get_key(fd)
            except KeyError:
                return None

    def _add_reader(
        self, fd: Any, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        self._check_closed()
        handle: asyncio.Handle = self._new_handle(callback, args, context)
        key = self._selector_key(fd)
        if key is None:
            self._selector.register(fd, _READ, (handle, None))
        else:
            reader, writer = key.data
            self._selector.modify(fd, key.events | _READ, (handle, writer))
            if reader is not None:
                reader.cancel()
        return handle

    def _remove_reader(self, fd: Any) -> bool:
        if self.is_closed():
            return False
        key = self._selector_key(fd)
        if key is None:
            return False
        reader, writer = key.data
        events = key.events & ~_READ
        if events:
            self._selector.modify(fd, events, (None, writer))
        else:
            self._selector.unregister(fd)
        if reader is None:
            return False
        reader.cancel()
        return True

    def _add_writer(
        self, fd: Any, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        self._check_closed()
        handle: asyncio.Handle = self._new_handle(callback, args, context)
        key = self._selector_key(fd)
        if key is None:
            self._selector.register(fd, _WRITE, (None, handle))
        else:
            reader, writer = key.data
            self._selector.modify(fd, key.events | _WRITE, (reader, handle))
            if writer is not None:
                writer.cancel()
        return handle

    def _remove_writer(self, fd: Any) -> bool:
        if self.is_closed():
            return False
        key = self._selector_key(fd)
        if key is None:
            return False
        reader, writer = key.data
        events = key.events & ~_WRITE
        if events:
            self._selector.modify(fd, events, (reader, None))
        else:
            self._selector.unregister(fd)
        if writer is None:
            return False
        writer.cancel()
        return True

    def add_reader(self, fd: Any, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts) -> None:
        """Calls ``callback(*args)`` whenever ``fd`` can be read, until `remove_reader`."""
        self._ensure_fd_no_transport(fd)
        self._add_reader(fd, callback, *args)

    def remove_reader(self, fd: Any) -> bool:
        """Ends what `add_reader` began; tells whether there was a reader."""
        self._ensure_fd_no_transport(fd)
        return self._remove_reader(fd)

    def add_writer(self, fd: Any, callback: Callable[[Unpack[_Ts]], object], *args: *_Ts) -> None:
        """Calls ``callback(*args)`` whenever ``fd`` can be written to, until `remove_writer`."""
        self._ensure_fd_no_transport(fd)
        self._add_writer(fd, callback, *args)

    def remove_writer(self, fd: Any) -> bool:
        """Ends what `add_writer` began; tells whether there was a writer."""
        self._ensure_fd_no_transport(fd)
        return self._remove_writer(fd)

    def _ensure_fd_no_transport(self, fd: Any) -> None:
        fileno = fd
        if not isinstance(fileno, int):
            try:
                fileno = int(fileno.fileno())
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"Invalid file object: {fd!r}") from None
        transport = self._transports.get(fileno)
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

    def _process_events(self, event_list: list[tuple[selectors.SelectorKey, int]]) -> None:
        """Puts the handles of what the selector found into the ready queue, readers first."""
        for key, events in event_list:
            reader, writer = key.data
            if reader is not None and events & _READ:
                if reader._cancelled:
                    self._remove_reader(key.fileobj)
                else:
                    self._add_callback(reader)
            if writer is not None and events & _WRITE:
                if writer._cancelled:
                    self._remove_writer(key.fileobj)
                else:
                    recorder = self._recorder
                    if recorder is not None:
                        recorder.record.add(len(self._ready), layout.R_WRITER, 0.0)
                    self._add_callback(writer)
