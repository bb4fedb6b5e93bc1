"""Signals as callbacks of the loop.

The interpreter's own handler writes the number of a signal into the self-pipe (``signal.set_wakeup_fd``); the
loop reads it there and queues the handle. Nothing of a user's runs inside a signal handler. ``signal``,
``sys`` and the logger are looked up in ``asyncio.unix_events``, where others expect to replace them.
"""

from __future__ import annotations

import errno
import signal
import warnings
from asyncio import coroutines, unix_events
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Any

from .loop_part import LoopPart

_standard: Any = unix_events
# 3.14 deprecates the public name, and warns at each call.
_is_coroutine_function: Callable[[object], bool] = (
    getattr(coroutines, "_iscoroutinefunction", None) or coroutines.iscoroutinefunction
)


def _do_nothing(signum: int, frame: FrameType | None) -> None:
    """Stands as the handler of a signal that the loop handles: with none, no number reaches the self-pipe."""


class SignalsMixin(LoopPart):
    """Signal handlers of a loop; they can be added in the main thread only, as the interpreter demands."""

    _signal_handlers: dict[int, Any]

    def _init_signals(self) -> None:
        self._signal_handlers = {}

    def _close_signals(self) -> None:
        """Gives every signal back. For ``close``, after which the self-pipe has gone."""
        if not _standard.sys.is_finalizing():
            for signum in list(self._signal_handlers):
                self.remove_signal_handler(signum)
        elif self._signal_handlers:
            warnings.warn(
                f"Closing the loop {self!r} on interpreter shutdown stage, skipping signal handlers removal",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
            self._signal_handlers.clear()

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        """Calls ``callback(*args)`` in the loop when the signal arrives.

        Raises ValueError for a number that is no signal, RuntimeError for one that cannot be caught and from
        any thread but the main one.
        """
        if coroutines.iscoroutine(callback) or _is_coroutine_function(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        try:
            # First of all, because it is what raises in any thread but the main one.
            _standard.signal.set_wakeup_fd(self._csock.fileno())
        except (ValueError, OSError) as error:
            raise RuntimeError(str(error)) from error
        self._signal_handlers[sig] = self._new_handle(callback, args, None)
        try:
            _standard.signal.signal(sig, _do_nothing)
            # Interrupted system calls are to be begun again, in C code too that knows nothing of EINTR.
            _standard.signal.siginterrupt(sig, False)
        except OSError as error:
            del self._signal_handlers[sig]
            if not self._signal_handlers:
                _release_wakeup_fd()
            if error.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from error
            raise

    def remove_signal_handler(self, sig: int) -> bool:
        """Gives the signal back to its default; False where the loop had no handler for it."""
        self._check_signal(sig)
        if self._signal_handlers.pop(sig, None) is None:
            return False
        default = _standard.signal.default_int_handler if sig == signal.SIGINT else _standard.signal.SIG_DFL
        try:
            _standard.signal.signal(sig, default)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise RuntimeError(f"sig {sig} cannot be caught") from error
            raise
        if not self._signal_handlers:
            _release_wakeup_fd()
        return True

    def _handle_signal(self, sig: int) -> None:
        handle = self._signal_handlers.get(sig)
        if handle is None:
            # Removed after it had arrived.
            return
        if handle._cancelled:
            self.remove_signal_handler(sig)
        else:
            if self._recorder is not None:
                # The same handle may wait in the queue for the same signal's last arrival.
                self._recorder.stamps.setdefault(id(handle), []).append((monotonic(), sig))
            self._add_callback_signalsafe(handle)

    def _check_signal(self, sig: object) -> None:
        if not isinstance(sig, int):
            raise TypeError(f"sig must be an int, not {sig!r}")
        if sig not in _standard.signal.valid_signals():
            raise ValueError(f"invalid signal number {sig}")


def _release_wakeup_fd() -> None:
    try:
        _standard.signal.set_wakeup_fd(-1)
    except (ValueError, OSError) as error:
        _standard.logger.info("set_wakeup_fd(-1) failed: %s", error)
