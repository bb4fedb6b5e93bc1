"""The process above the collector's: it binds the metrics port, starts the collector, and starts it again if it dies.

The collector may be killed: the kernel ends the largest process first where memory is short. The record stays in the
rings, and the metrics port stays bound here, so that a new collector goes on where the rings begin. Its counters go on
from those that the one before it has noted down (carried_counters.py).

This process imports next to nothing and holds no more than a few MB. It speaks with its child by a pipe, on which the
child writes what is to be let go of, and whose end says that the child has ended.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import os
import select
import sys
import time

from traceloop.record import files
from traceloop.record.proc import is_alive, process_start_ticks
from traceloop.settings import Settings

from .errors import CollectorError
from .files import release_stderr
from .listening import close_listener, listen, url_of
from .orders import RELEASE_LISTENER, RELEASE_STDERR, STOP_SIGNAL
from .pace import RESTART_SECONDS
from .traced_processes import processes_of_run

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

# What ends a whole service, a terminal or a session: the root ends by it, and the collector by the root's end.
_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE)


class Supervisor:
    """One run's. ``start``, then ``run``, by the one thread of its process; the child returns from neither."""

    def __init__(self, run_dir: str, root_pid: int, *, port_required: bool) -> None:
        self._run_dir = run_dir
        self._root_pid = root_pid
        self._root_start = process_start_ticks(root_pid) if root_pid else 0
        self._port_required = port_required
        self._listener: _socket.socket | None = None
        self._url: str | None = None
        self._child = 0
        self._settings = Settings()

    def start(self, ready: int, listen_descriptor: int) -> int:
        """Binds the port and answers on ``ready``, the descriptor of start()'s pipe. Returns an exit status, 0: go on.

        ``listen_descriptor``: of a socket that listens already.
        """
        answers: list[str] = []
        self._settings = settings = Settings.from_environ(
            os.environ, on_error=lambda line: answers.append(f"notice {line}")
        ).replace(run_dir=self._run_dir, metrics_port_required=self._port_required)
        try:
            if settings.metrics:
                if listen_descriptor >= 0:
                    import _socket

                    self._listener = _socket.socket(fileno=listen_descriptor)
                else:
                    self._listener, notice = listen(
                        settings.metrics_host,
                        settings.metrics_port,
                        required=self._port_required,
                        page=settings.page,
                    )
                    if notice:
                        answers.append(f"notice {notice}")
                self._url = url_of(self._listener, settings.metrics_host)
                answers.append(f"url {self._url}")
            self._hold_wake_pipe()
        except (CollectorError, OSError) as error:
            _answer(ready, [f"error {error}"])
            return 2
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(STOP_SIGNAL, self._stop)
        _answer(ready, [f"pid {os.getpid()}", *answers, "ready"])
        return 0

    def _hold_wake_pipe(self) -> None:
        # What is written to it before a collector is there waits for it.
        path = os.path.join(self._run_dir, files.WAKE)
        try:
            os.mkfifo(path, 0o600)
            os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            pass  # a file system without pipes: no reader is woken

    def run(self) -> int:
        """Runs collectors until one has ended as it should; returns its exit status."""
        how = ""
        next_start = 0.0
        while True:
            last = self._root_ends()
            status = self._run_child(how)
            # One that failed would very likely fail again.
            if status in (0, 2) or last:
                return status
            if status > 0:
                next_start = max(next_start, time.monotonic() + RESTART_SECONDS)
            while time.monotonic() < next_start and not self._root_ends():
                select.poll().poll(100)
            if status > 0 and self._root_ends():
                return status
            next_start = time.monotonic() + RESTART_SECONDS
            how = f"was ended by signal {-status}" if status < 0 else "failed"

    def _run_child(self, how: str) -> int:
        """One collector's life; its exit status, negative for a signal. ``how``: how the one before it ended."""
        read_end, write_end = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(read_end)
            status = 1
            try:
                from .process import run_process

                descriptor = self._listener.fileno() if self._listener is not None else -1
                status = run_process(
                    self._settings, self._root_pid, listen_descriptor=descriptor, url=self._url,
                    supervisor=write_end, ended_before=how,
                )  # fmt: skip
            finally:
                try:
                    sys.stderr.flush()
                except Exception:
                    pass
                os._exit(status)
        os.close(write_end)
        poll = select.poll()
        poll.register(read_end, select.POLLIN)
        root = self._watch_root(poll)
        while True:
            if not any(descriptor == read_end for descriptor, _ in poll.poll()):
                # A restart must not meet our port where the child is not yet there to close it.
                if self._listener is not None and self._nothing_recorded():
                    close_listener(self._listener)
                    self._listener = None
                poll.unregister(root)
                continue
            orders = os.read(read_end, 64)
            if RELEASE_STDERR in orders:
                release_stderr()
            if RELEASE_LISTENER in orders and self._listener is not None:
                close_listener(self._listener)
                self._listener = None
            if not orders:
                break
        os.close(read_end)
        if root >= 0:
            os.close(root)
        _, status = os.waitpid(self._child, 0)
        self._child = 0
        return os.waitstatus_to_exitcode(status)

    def _watch_root(self, poll: select.poll) -> int:
        """Has the poll return when the root ends; the descriptor for that, -1 where there is none."""
        if self._root_pid and hasattr(os, "pidfd_open"):
            try:
                root = os.pidfd_open(self._root_pid)
            except OSError:
                return -1  # it has gone already, or the kernel is old
            poll.register(root, select.POLLIN)
            return root
        return -1

    def _nothing_recorded(self) -> bool:
        """Whether no process of the run has recorded anything, and none is about to."""
        try:
            names = os.listdir(self._run_dir)
        except OSError:
            return False
        if any(name == files.RECORDED or files.parse_process_name(name) for name in names):
            return False
        return not processes_of_run(self._run_dir, ())

    def _root_ends(self) -> bool:
        """Whether the root has ended, or waits for us to end."""
        if self._root_pid == 0 or not is_alive(self._root_pid, self._root_start):
            return True
        return any(os.path.exists(os.path.join(self._run_dir, name)) for name in (files.OVER, files.LEFT))

    def _stop(self, *_: object) -> None:
        if self._child:
            try:
                os.kill(self._child, STOP_SIGNAL)
            except OSError:
                pass
        else:
            os._exit(0)  # there is none at the moment: nothing is read any more


def _answer(ready: int, lines: list[str]) -> None:
    if ready < 0:
        return
    try:
        os.write(ready, "".join(line.replace("\n", " ") + "\n" for line in lines).encode("utf-8", "backslashreplace"))
        os.close(ready)
    except OSError:
        pass  # the parent process is gone
