"""The transport of a child process: its three pipes, its exit, and the signals that are sent to it.

The child's end is reported twice: by the child watcher, and by the end of each of its pipes, in any order.
``wait`` is over when the process has exited (gh-119710: a grandchild may hold the pipes open for ever);
``connection_lost`` comes when the pipes have ended too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import warnings
from asyncio import base_subprocess, unix_events
from collections import deque
from collections.abc import Callable
from typing import Any

from ..network.no_running_loop import no_running_loop

_standard: Any = unix_events
_base: Any = base_subprocess
_PIPE = -1


class WriteSubprocessPipeProto(asyncio.BaseProtocol):
    """The protocol of the child's standard input; passes everything on to the process' transport."""

    def __init__(self, process: _UnixSubprocessTransport, fd: int) -> None:
        self.proc: _UnixSubprocessTransport | None = process
        self.fd = fd
        self.pipe: Any = None
        self.disconnected = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} fd={self.fd} pipe={self.pipe!r}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.pipe = transport

    def connection_lost(self, exc: BaseException | None) -> None:
        self.disconnected = True
        assert self.proc is not None
        self.proc._pipe_connection_lost(self.fd, exc)
        self.proc = None

    def pause_writing(self) -> None:
        assert self.proc is not None
        self.proc._protocol.pause_writing()

    def resume_writing(self) -> None:
        assert self.proc is not None
        self.proc._protocol.resume_writing()


class ReadSubprocessPipeProto(WriteSubprocessPipeProto, asyncio.Protocol):
    """The protocol of the child's standard output or error."""

    def data_received(self, data: bytes) -> None:
        assert self.proc is not None
        self.proc._pipe_data_received(self.fd, data)


class _UnixSubprocessTransport(asyncio.SubprocessTransport):
    """A child process and its pipes. All of it is for the loop's thread.

    ``waiter`` is done when the pipes are connected. What the pipes say before ``connection_made`` is held
    back.
    """

    _loop: Any
    _protocol: Any
    _proc: Any
    _extra: dict[str, Any]

    def __init__(
        self,
        loop: Any,
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(extra)
        self._closed = False
        self._protocol = protocol
        self._loop = loop
        self._proc = None
        self._pid: int | None = None
        self._returncode: int | None = None
        self._exit_waiters: set[asyncio.Future[int]] | None = set()
        self._pending_calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] | None = deque()
        self._finished = False
        self._pipes: dict[int, Any] = {
            fd: None for fd, stream in enumerate((stdin, stdout, stderr)) if stream == _PIPE
        }
        try:
            self._start(args, shell, stdin, stdout, stderr, bufsize, **kwargs)
        except BaseException:
            self.close()
            raise
        self._pid = self._proc.pid
        self._extra["subprocess"] = self._proc
        if loop.get_debug():
            program = args if isinstance(args, (bytes, str)) else args[0]
            _base.logger.debug("process %r created: pid %s", program, self._pid)
        # The loop holds only weak references to tasks: this one is kept by its waiting for the loop's own
        # handles.
        loop.create_task(self._connect_pipes(waiter))

    def _start(
        self, args: Any, shell: bool, stdin: Any, stdout: Any, stderr: Any, bufsize: int, **kwargs: Any
    ) -> None:
        ours = None
        if stdin == _PIPE and sys.platform.startswith("aix"):
            # There the writing end of a pipe does not tell of the reader's close; a socket's does.
            stdin, ours = socket.socketpair()
        try:
            with no_running_loop():
                self._proc = _standard.subprocess.Popen(
                    args,
                    shell=shell,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    universal_newlines=False,
                    bufsize=bufsize,
                    **kwargs,
                )
            if ours is not None:
                self._proc.stdin = open(ours.detach(), "wb", buffering=bufsize)  # noqa: SIM115
        finally:
            if ours is not None:
                stdin.close()
                ours.close()

    def __repr__(self) -> str:
        info = [type(self).__name__]
        if self._closed:
            info.append("closed")
        if self._pid is not None:
            info.append(f"pid={self._pid}")
        if self._returncode is not None:
            info.append(f"returncode={self._returncode}")
        else:
            info.append("not started" if self._pid is None else "running")
        protocol_of: Any = self._pipes.get
        stdin, stdout, stderr = protocol_of(0), protocol_of(1), protocol_of(2)
        if stdin is not None:
            info.append(f"stdin={stdin.pipe}")
        if stderr is not None and stdout is stderr:
            info.append(f"stdout=stderr={stderr.pipe}")
        else:
            if stdout is not None:
                info.append(f"stdout={stdout.pipe}")
            if stderr is not None:
                info.append(f"stderr={stderr.pipe}")
        return f"<{' '.join(info)}>"

    def set_protocol(self, protocol: Any) -> None:
        """Sets the protocol."""
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """The protocol, None after ``connection_lost``."""
        return self._protocol

    def is_closing(self) -> bool:
        """True once ``close()`` was called."""
        return self._closed

    def close(self) -> None:
        """Closes the pipes, and kills the process if it still runs."""
        if self._closed:
            return
        self._closed = True
        # On a closed loop the pipes' transports cannot say good-bye any more (gh-114177).
        if self._loop is not None and not self._loop.is_closed():
            for pipe_protocol in self._pipes.values():
                if pipe_protocol is not None:
                    pipe_protocol.pipe.close()
        # Polled, because it may have exited and the watcher not have said so yet.
        if self._proc is not None and self._returncode is None and self._proc.poll() is None:
            if self._loop.get_debug():
                _base.logger.warning("Close running child process: kill %r", self)
            try:
                self._proc.kill()
            except (ProcessLookupError, PermissionError):
                # Gone in this moment, or running as another user (setuid).
                pass
        # _proc stays: _connect_pipes may be under way, and the exit is still to be reported.

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not getattr(self, "_closed", True):
            _warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self.close()

    def get_pid(self) -> int | None:  # type: ignore[override]
        """The process id."""
        return self._pid

    def get_returncode(self) -> int | None:
        """The exit status, the negative number of the signal that killed it, None while it runs."""
        return self._returncode

    def get_pipe_transport(self, fd: int) -> Any:
        """The transport of the child's descriptor 0, 1 or 2, None where that is no pipe."""
        return self._pipes[fd].pipe if fd in self._pipes else None

    def _check_proc(self) -> None:
        if self._proc is None:
            raise ProcessLookupError()

    def send_signal(self, signal: int) -> None:
        """Sends a signal; nothing happens if the process has exited. ProcessLookupError once all of it is
        over."""
        self._check_proc()
        if self._returncode is not None:
            # Reaped: the number may be another process' by now.
            return
        try:
            # Not Popen.send_signal, which would reap the process and so take its status from the watcher.
            os.kill(self._proc.pid, signal)
        except ProcessLookupError:
            pass

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)

    async def _connect_pipes(self, waiter: asyncio.Future[None] | None) -> None:
        proc = self._proc
        loop = self._loop
        try:
            if proc.stdin is not None:
                _, self._pipes[0] = await loop.connect_write_pipe(
                    lambda: WriteSubprocessPipeProto(self, 0), proc.stdin
                )
            if proc.stdout is not None:
                _, self._pipes[1] = await loop.connect_read_pipe(
                    lambda: ReadSubprocessPipeProto(self, 1), proc.stdout
                )
            if proc.stderr is not None:
                _, self._pipes[2] = await loop.connect_read_pipe(
                    lambda: ReadSubprocessPipeProto(self, 2), proc.stderr
                )
            assert self._pending_calls is not None
            loop.call_soon(self._protocol.connection_made, self)
            for callback, args in self._pending_calls:
                loop.call_soon(callback, *args)
            self._pending_calls = None
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            # The pipes that were connected and those that never were would leak.
            for pipe_protocol in self._pipes.values():
                if pipe_protocol is not None:
                    pipe_protocol.pipe.close()
            for pipe in (proc.stdin, proc.stdout, proc.stderr):
                if pipe is not None:
                    pipe.close()
            if waiter is not None and not waiter.cancelled():
                waiter.set_exception(error)
        else:
            if waiter is not None and not waiter.cancelled():
                waiter.set_result(None)

    def _call(self, callback: Callable[..., object], *args: Any) -> None:
        if self._pending_calls is not None:
            self._pending_calls.append((callback, args))
        else:
            self._loop.call_soon(callback, *args)

    def _pipe_connection_lost(self, fd: int, exc: BaseException | None) -> None:
        self._call(self._protocol.pipe_connection_lost, fd, exc)
        self._try_finish()

    def _pipe_data_received(self, fd: int, data: bytes) -> None:
        self._call(self._protocol.pipe_data_received, fd, data)

    def _process_exited(self, returncode: int) -> None:
        """Called once, by the child watcher's callback."""
        assert returncode is not None, returncode
        assert self._returncode is None, self._returncode
        if self._loop.get_debug():
            _base.logger.info("%r exited with return code %r", self, returncode)
        self._returncode = returncode
        if self._proc.returncode is None:
            # Popen was not asked; without this it would warn of a process that still runs, and wait for it.
            self._proc.returncode = returncode
        self._call(self._protocol.process_exited)
        self._try_finish()
        waiters = self._exit_waiters or ()
        self._exit_waiters = None
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(returncode)

    async def _wait(self) -> int:
        """The exit status, once there is one."""
        if self._returncode is not None:
            return self._returncode
        assert self._exit_waiters is not None
        waiter: asyncio.Future[int] = self._loop.create_future()
        self._exit_waiters.add(waiter)
        try:
            return await waiter
        finally:
            if self._exit_waiters is not None:
                self._exit_waiters.discard(waiter)

    def _try_finish(self) -> None:
        assert not self._finished
        if self._returncode is None:
            return
        if all(pipe is not None and pipe.disconnected for pipe in self._pipes.values()):
            self._finished = True
            self._call(self._call_connection_lost, None)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            self._protocol.connection_lost(exc)
        finally:
            self._loop = None
            self._proc = None
            self._protocol = None
