"""The collector's life: it follows every traced process of a run until the last has ended and been read.

Its turn, every 20 to 200 ms and whenever a process that is about to end writes a byte to the ``wake`` pipe of the run
directory:

1. look for new processes, and for those that are over;
2. read the rings of all of them into statistics and spans;
3. for each process that is over and read: write ``drained-PID``; for one gone without a word: say so, keep the record;
4. when the root is over and nobody else is left: write ``summary.txt`` (and ``report.txt``), for which the root waits
   with its exit, a bounded time;
5. when the root is gone too: send the last spans, remove the run directory, unless its record is to be kept.

The run directory then holds, beside the folders of the processes: ``collector.json`` (pid, start, address),
``wake``, ``drained-PID``, ``summary.txt``, ``report.txt``, and ``crashed`` where the record was kept for that.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time

from traceloop.settings import Settings

from .collector import CollectorError
from .listening import listen, url_of
from .traced_processes import TracedProcess, TracedProcesses, stat_of

MIN_POLL_SECONDS = 0.02
MAX_POLL_SECONDS = 0.2
#: How long children that have no folder yet are waited for after all else is over.
EXPECTED_SECONDS = 5.0
#: How long the end of the run is held for the root to read the summary.
PRINTED_SECONDS = 5.0


def say(line: str) -> None:
    """One line to stderr, where the collector has one (a terminal or a file)."""
    try:
        print(f"traceloop: {line}", file=sys.stderr, flush=True)
    except Exception:
        pass  # nobody is there to be told


def write_file(path: str, text: str) -> None:
    """Writes a file that is whole as soon as it is there; failure is silent (the directory may be gone)."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.rename(temporary, path)
    except OSError:
        pass


class Collector:
    """Reads a run directory and serves what it reads. ``run`` is called by the one thread that owns it."""

    def __init__(self, settings: Settings, root_pid: int = 0) -> None:
        assert settings.run_dir is not None
        self.settings = settings
        self.run_dir = settings.run_dir
        self.processes = TracedProcesses(self.run_dir, root_pid)
        self.lock = threading.Lock()
        self.stopping = False
        self._wake_read, self._wake_write = self._make_wake_pipe()
        self._crashed = False
        self._summary_written = False
        self._expected_until = 0.0

    # -- waiting

    def _make_wake_pipe(self) -> tuple[int, int]:
        path = os.path.join(self.run_dir, "wake")
        try:
            os.mkfifo(path, 0o600)
        except OSError:
            pass
        try:
            read_end = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            # A writer of our own, or the pipe would be at its end whenever nobody else writes.
            return read_end, os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            read_end, write_end = os.pipe()
            os.set_blocking(read_end, False)
            os.set_blocking(write_end, False)
            return read_end, write_end

    def wake(self) -> None:
        """Ends the current wait; from any thread and from signal handlers."""
        try:
            os.write(self._wake_write, b"\n")
        except OSError:
            pass  # full: it will wake

    def _wait(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if poll.poll(seconds * 1000):
            try:
                os.read(self._wake_read, 65536)
            except OSError:
                pass

    # -- the turns

    def run(self) -> None:
        """Turns until the run is over or ``stop`` was called."""
        pause = MIN_POLL_SECONDS
        while True:
            busy = self.turn()
            if self._is_finished():
                break
            if self.stopping:
                self.turn()
                break
            pause = MIN_POLL_SECONDS if busy else min(pause * 1.5, MAX_POLL_SECONDS)
            self._wait(pause)
        self.finish()

    def stop(self) -> None:
        """Makes ``run`` read what there is and return; from any thread and from signal handlers."""
        self.stopping = True
        self.wake()

    def turn(self) -> bool:
        """Steps 1 to 4; whether there was anything new."""
        with self.lock:
            self.processes.scan()
            for process in self.processes.by_folder.values():
                process.look()
            busy = self._read()
            for process in list(self.processes.by_folder.values()):
                if process.over and not process.drained:
                    process.drained = True
                    busy = True
                    self._drained(process)
        if not self._summary_written and self._may_sum_up():
            self._sum_up()
        return busy

    def _read(self) -> bool:
        return False

    def _drained(self, process: TracedProcess) -> None:
        write_file(os.path.join(self.run_dir, f"drained-{process.pid}"), "")
        if process.crashed:
            self._crashed = True
            write_file(os.path.join(self.run_dir, "crashed"), "")
            say(f"process {process.pid} ended without a word; `traceloop report {self.run_dir}` shows its record")

    def _may_sum_up(self) -> bool:
        known = self.processes
        return bool(known.by_folder) and known.root_finished() and known.all_over()

    def _sum_up(self) -> None:
        self._summary_written = True
        write_file(os.path.join(self.run_dir, "summary.txt"), "the run is over")

    def _is_finished(self) -> bool:
        """Whether the root is gone and nobody of the run is left or about to come."""
        known = self.processes
        if known.root_alive() or not known.root_finished() or not known.all_over():
            self._expected_until = 0.0
            return False
        now = time.monotonic()
        if self._expected_until == 0.0:
            self._expected_until = now + EXPECTED_SECONDS
        return now >= self._expected_until or not known.expected()

    # -- the end

    def finish(self) -> None:
        """Step 5."""
        if not self._is_finished() and self.stopping:
            return  # somebody still writes there
        if self.settings.record is not None:
            self._keep_copy(self.settings.record)
        if not self._crashed:
            import shutil

            shutil.rmtree(self.run_dir, ignore_errors=True)

    def _keep_copy(self, record: str) -> None:
        import shutil  # brings in every compression: not before it is needed

        target = os.path.join(record, os.path.basename(os.path.normpath(self.run_dir)))
        try:
            os.makedirs(record, mode=0o700, exist_ok=True)
            shutil.copytree(self.run_dir, target, ignore=shutil.ignore_patterns("wake", "collector.json", "drained-*"))
        except (OSError, shutil.Error) as error:
            say(f"the record could not be kept in {record}: {error}")


def run_process(run_dir: str, root_pid: int, ready: int, *, port_required: bool) -> int:
    """The collector process, from its first line to its exit status. ``ready``: the descriptor of start()'s pipe."""
    answers: list[str] = []
    settings = Settings.from_environ(os.environ, on_error=lambda line: answers.append(f"notice {line}")).replace(
        run_dir=run_dir, metrics_port_required=port_required
    )
    listener: socket.socket | None = None
    try:
        if settings.metrics:
            listener, notice = listen(settings.metrics_host, settings.metrics_port, required=port_required)
            if notice:
                answers.append(f"notice {notice}")
            answers.append(f"url {url_of(listener, settings.metrics_host)}")
        collector = Collector(settings, root_pid)
    except (CollectorError, OSError) as error:
        _answer(ready, [f"error {error}"])
        return 2
    signal.signal(signal.SIGTERM, lambda *_: collector.stop())
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    url = next((line[4:] for line in answers if line.startswith("url ")), None)
    _answer(ready, [f"pid {os.getpid()}", *answers, "ready"])
    import json  # after the answer, which the program is waiting for

    stat = stat_of(os.getpid())
    description = {"pid": os.getpid(), "start_ticks": stat[1] if stat is not None else 0, "url": url}
    write_file(os.path.join(run_dir, "collector.json"), json.dumps(description))
    collector.run()
    return 0


def _answer(ready: int, lines: list[str]) -> None:
    if ready < 0:
        return
    try:
        os.write(ready, "".join(line.replace("\n", " ") + "\n" for line in lines).encode("utf-8", "backslashreplace"))
        os.close(ready)
    except OSError:
        pass  # whoever started us is gone


class CollectorThread:
    """The collector as a daemon thread of the application; reads this process's rings, private ones too."""

    def __init__(self, settings: Settings) -> None:
        raise NotImplementedError
