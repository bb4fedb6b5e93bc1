"""Starting child processes, and connecting pipes to protocols."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import warnings
from asyncio import base_events, events
from collections.abc import Callable
from typing import Any

from ..loop_part import LoopPart
from .child_watchers import PidfdChildWatcher, ThreadedChildWatcher, make_watcher
from .pipe_transport import _UnixReadPipeTransport, _UnixWritePipeTransport
from .subprocess_transport import _UnixSubprocessTransport

_base: Any = base_events

_Connected = tuple[Any, Any]


class SubprocessesMixin(LoopPart):
    """subprocess_exec and subprocess_shell, connect_read_pipe and connect_write_pipe; for the loop's
    thread."""

    _watcher: PidfdChildWatcher | ThreadedChildWatcher | None

    def _init_subprocesses(self) -> None:
        # Below 3.14 the policy's is used, and one of our own is only made where it has none.
        self._watcher = make_watcher() if sys.version_info >= (3, 14) else None

    # -- pipes

    async def connect_read_pipe(self, protocol_factory: Callable[[], Any], pipe: Any) -> _Connected:
        """Reads ``pipe``, a file object, into a protocol; returns ``(transport, protocol)``.

        The transport owns the file from then on. ValueError if it is none that can be polled.
        """
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = self._make_read_pipe_transport(pipe, protocol, waiter)
        await _connected(waiter, transport)
        if self._debug:
            _base.logger.debug("Read pipe %r connected: (%r, %r)", pipe.fileno(), transport, protocol)
        return transport, protocol

    async def connect_write_pipe(self, protocol_factory: Callable[[], Any], pipe: Any) -> _Connected:
        """Opens ``pipe``, a file object, for writing; returns ``(transport, protocol)``. As
        connect_read_pipe."""
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = self._make_write_pipe_transport(pipe, protocol, waiter)
        await _connected(waiter, transport)
        if self._debug:
            _base.logger.debug("Write pipe %r connected: (%r, %r)", pipe.fileno(), transport, protocol)
        return transport, protocol

    def _make_read_pipe_transport(self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None) -> Any:
        return _UnixReadPipeTransport(self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None) -> Any:
        return _UnixWritePipeTransport(self, pipe, protocol, waiter, extra)

    # -- processes

    async def subprocess_exec(
        self,
        protocol_factory: Callable[[], Any],
        program: Any,
        *args: Any,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        universal_newlines: bool = False,
        shell: bool = False,
        bufsize: int = 0,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        **kwargs: Any,
    ) -> _Connected:
        """Starts ``program`` with ``args``; further options go to ``subprocess.Popen``.

        Returns ``(transport, protocol)`` once its pipes are connected. ValueError for the options that only
        make sense with text or with Popen's own buffers; OSError where the program cannot be started.
        """
        _refuse_text(universal_newlines, bufsize, encoding, errors, text, shell, shell_wanted=False)
        return await self._start_process(
            protocol_factory, "execute program", (program, *args), False, stdin, stdout, stderr, bufsize, kwargs
        )

    async def subprocess_shell(
        self,
        protocol_factory: Callable[[], Any],
        cmd: str | bytes,
        *,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        universal_newlines: bool = False,
        shell: bool = True,
        bufsize: int = 0,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        **kwargs: Any,
    ) -> _Connected:
        """Runs the command line ``cmd`` in the shell. As subprocess_exec in all else."""
        if not isinstance(cmd, (bytes, str)):
            raise ValueError("cmd must be a string")
        _refuse_text(universal_newlines, bufsize, encoding, errors, text, shell, shell_wanted=True)
        return await self._start_process(
            protocol_factory, "run shell command", cmd, True, stdin, stdout, stderr, bufsize, kwargs
        )

    async def _start_process(
        self,
        protocol_factory: Callable[[], Any],
        action: str,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        options: dict[str, Any],
    ) -> _Connected:
        protocol = protocol_factory()
        message = ""
        if self._debug:
            # Arguments are left out: passwords stand in them.
            message = f"{action} {(args if shell else args[0])!r}"
            self._log_subprocess(message, stdin, stdout, stderr)
        transport = await self._make_subprocess_transport(
            protocol, args, shell, stdin, stdout, stderr, bufsize, **options
        )
        if message and self._debug:
            _base.logger.info("%s: %r", message, transport)
        return transport, protocol

    def _log_subprocess(self, msg: str, stdin: Any, stdout: Any, stderr: Any) -> None:
        info = [msg]
        if stdin is not None:
            info.append(f"stdin={_format_pipe(stdin)}")
        if stdout is not None and stderr == subprocess.STDOUT:
            info.append(f"stdout=stderr={_format_pipe(stdout)}")
        else:
            if stdout is not None:
                info.append(f"stdout={_format_pipe(stdout)}")
            if stderr is not None:
                info.append(f"stderr={_format_pipe(stderr)}")
        _base.logger.debug(" ".join(info))

    async def _make_subprocess_transport(
        self,
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: Any = None,
        **kwargs: Any,
    ) -> Any:
        watcher = self._find_watcher()
        # Watchers of the policy want the start of a process between their __enter__ and __exit__.
        with watcher if hasattr(watcher, "__enter__") else contextlib.nullcontext(watcher) as entered:
            if sys.version_info < (3, 12):
                # Which its documentation says is the watcher itself; 3.12 no longer looks at it.
                watcher = entered
            if not getattr(watcher, "is_active", _always)():
                # Raised before the process exists: it would never be reaped.
                raise RuntimeError("asyncio.get_child_watcher() is not activated, subprocess support is not installed.")
            waiter = self.create_future()
            transport = _UnixSubprocessTransport(
                self,
                protocol,
                args,
                shell,
                stdin,
                stdout,
                stderr,
                bufsize,
                waiter=waiter,
                extra=extra,
                **kwargs,
            )
            watcher.add_child_handler(transport.get_pid(), self._child_watcher_callback, transport)
            try:
                await waiter
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException:
                transport.close()
                # Shielded: a second cancellation must not leave the child unreaped.
                await _base.tasks.shield(transport._wait())
                raise
        return transport

    def _find_watcher(self) -> Any:
        if sys.version_info >= (3, 14):
            return self._watcher
        try:
            with warnings.catch_warnings():
                # Asking is deprecated for users since 3.12; the loop is no user.
                warnings.simplefilter("ignore", DeprecationWarning)
                return events.get_child_watcher()
        except NotImplementedError:
            if self._watcher is None:
                self._watcher = make_watcher()
            return self._watcher

    def _child_watcher_callback(self, pid: int, returncode: int, transport: _UnixSubprocessTransport) -> None:
        if sys.version_info >= (3, 14):
            transport._process_exited(returncode)
        elif sys.version_info >= (3, 12):
            # A policy's watcher may call from any thread.
            self.call_soon_threadsafe(transport._process_exited, returncode)
        else:
            # 3.11 lets one iteration pass, so that what the child wrote last is read first.
            self.call_soon_threadsafe(self.call_soon, transport._process_exited, returncode)


def _always() -> bool:
    return True


async def _connected(waiter: Any, transport: Any) -> None:
    try:
        await waiter
    except BaseException:
        transport.close()
        raise


def _refuse_text(
    universal_newlines: bool,
    bufsize: int,
    encoding: str | None,
    errors: str | None,
    text: bool | None,
    shell: bool,
    *,
    shell_wanted: bool,
) -> None:
    if universal_newlines:
        raise ValueError("universal_newlines must be False")
    if bool(shell) is not shell_wanted:
        raise ValueError(f"shell must be {shell_wanted}")
    if bufsize != 0:
        raise ValueError("bufsize must be 0")
    if text:
        raise ValueError("text must be False")
    if encoding is not None:
        raise ValueError("encoding must be None")
    if errors is not None:
        raise ValueError("errors must be None")


def _format_pipe(stream: Any) -> str:
    if stream == subprocess.PIPE:
        return "<pipe>"
    if stream == subprocess.STDOUT:
        return "<stdout>"
    return repr(stream)
