"""The collector's life: it follows every traced process of a run until the last has ended and been read.

Its turn, every 50 to 200 ms, for each scrape, and whenever a process that is about to end writes a byte to the ``wake``
pipe of the run directory:

1. read the rings of all processes into statistics and spans;
2. for each process that is over and read: write ``drained-PID``; for one gone without a word: say so, keep the record;
3. when the root is over and nobody else is left: write ``summary.txt`` (and ``report.txt``), for which the root waits
   with its exit, a bounded time;
4. when the root is gone too: send the last spans, remove the run directory, unless its record is to be kept.

The run directory then holds, beside the folders of the processes: ``collector.json`` (pid, start, address), ``wake``,
``held`` (see old_records.py), ``drained-PID``, ``summary.txt``, ``report.txt``, and ``crashed`` where the record was
kept because of a crash.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import stat
import threading
import time

from traceloop import notices
from traceloop.record import files
from traceloop.record.proc import process_start_ticks
from traceloop.settings import Settings

from ..exporters.span_pipeline_absent import NoSpans, may_export_spans
from .listening import listen, url_of
from .start import CollectorError
from .traced_processes import Root, processes_of_run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from traceloop.reading.follower import RunFollower
    from traceloop.reading.statistics.run import Statistics

    from ..exporters.span_pipeline import SpanPipeline
    from ..exporters.spans.sinks import SpanSink

# A turn costs 0.4 to 0.8 ms besides what it reads: every 20 ms that was 0.5 us a handle at 50,000 of them a second. A
# ring holds seconds of them.
MIN_POLL_SECONDS = 0.05
MAX_POLL_SECONDS = 0.2
#: How long children that record nothing yet are waited for after all else is over.
EXPECTED_SECONDS = 5.0
#: After how long the metrics are served though nobody has asked for them.
UNASKED_SECONDS = 1.0
#: How long the summary is held up for the last spans to arrive, and how long the end of the run is.
FLUSH_SECONDS = 0.5
SHUTDOWN_SECONDS = 5.0


def say(line: str) -> None:
    """Lines to the program's stderr, as long as the collector holds it; never waits long for a reader."""
    notices.say(line)


def keep_traceback(run_dir: str) -> str:
    """Keeps the traceback of the exception that is being handled in the run directory; the file's path."""
    import traceback

    path = os.path.join(run_dir, files.COLLECTOR_TRACEBACK)
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(traceback.format_exc())
    except OSError:
        pass  # the folder is gone, or full
    return path


def release_stderr() -> None:
    """Lets go of the program's stderr where that is a pipe: who reads it waits for its end."""
    try:
        mode = os.fstat(2).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(null, 2)
            os.close(null)
    except OSError:
        pass  # it has none


def write_file(path: str, text: str) -> None:
    """Writes a file that is whole as soon as it is there; failure is silent (the directory may be gone)."""
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.rename(temporary, path)
    except OSError:
        pass


def make_statistics(settings: Settings) -> Statistics:
    """Empty statistics with all their parts, and the thresholds of the settings."""
    from traceloop.reading.stalls import parts as stall_statistics
    from traceloop.reading.statistics.run import Statistics

    lowest_pattern = min((seconds for _, seconds in settings.slow_patterns), default=float("inf"))

    statistics = Statistics(
        threshold_for=settings.threshold_for, lowest_threshold=lambda threshold: min(threshold, lowest_pattern)
    )
    stall_statistics.add_to(statistics)
    return statistics


class WakePipe:
    """The named pipe of a run directory by which its processes end the collector's wait. For one reader."""

    def __init__(self, run_dir: str) -> None:
        path = os.path.join(run_dir, files.WAKE)
        try:
            os.mkfifo(path, 0o600)
        except OSError:
            pass
        try:
            self._read = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            # A writer of our own, or the pipe would be at its end whenever nobody else writes.
            self._write = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)

    def wake(self) -> None:
        """Ends the current wait, or the next; from any thread and from signal handlers."""
        try:
            os.write(self._write, b"\n")
        except OSError:
            pass  # full: it will wake

    def wait(self, seconds: float, handle: int = -1) -> bool:
        """Waits for a byte, or for the end of the process of this pidfd; whether either came."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        if handle >= 0:
            poll.register(handle, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        try:
            os.read(self._read, 65536)
        except OSError:
            pass
        return True


class Collector:
    """Reads a run directory and serves what it reads. ``run`` is called by the one thread that owns it."""

    def __init__(self, settings: Settings, root_pid: int = 0) -> None:
        assert settings.run_dir is not None
        self.settings = settings
        self.run_dir = settings.run_dir
        self.root = Root(root_pid, os.path.join(self.run_dir, files.LEFT))
        self.stopping = False
        self.pipe = WakePipe(self.run_dir)
        self.notices: list[str] = []
        self._keep = False  # the run directory, for whoever wants to know what went wrong
        self._told_failure = False
        self._summary_written = False
        self._next_look = 0.0
        self._expected_until = 0.0
        self._ended: set[str] = set()
        self._root_over = False
        self._seen_any = False
        self._look_again = MAX_POLL_SECONDS

    def open(self, listener: socket.socket | None) -> None:
        """Brings in what reads and serves; only now, since the program waits for what comes before."""
        from traceloop.reading.follower import RunFollower

        from .stall_probe import StallProbe
        from .stall_snapshots import make_snapshots

        self.statistics: Statistics = make_statistics(self.settings)
        self.follower: RunFollower = RunFollower(self.run_dir, self.statistics)
        self.probe = StallProbe(self.follower, say)
        self.snapshots = make_snapshots(self.settings, self.follower, self.notices.append)
        self.pipeline: SpanPipeline | NoSpans
        if may_export_spans(self.settings, os.environ):
            from ..exporters.span_pipeline import make_pipeline

            self.pipeline = make_pipeline(self.settings, self.statistics, say)
        else:
            self.pipeline = NoSpans()
        if listener is not None:
            threading.Thread(target=self._serve, args=(listener,), name="traceloop-metrics", daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        """Serves once somebody asks, or after a while: the end of a short program does not wait for what that takes."""
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.poll(UNASKED_SECONDS * 1000)
        try:
            from ..exporters.prometheus.server import serve

            serve(self._scraped, listener)
        except BaseException as error:
            say(f"no metrics: {error!r}; its traceback is in {keep_traceback(self.run_dir)}")

    def _scraped(self) -> Statistics:
        """What a scrape sees: everything up to now. From the server's threads."""
        self.read()
        return self.statistics

    # -- the turns

    def run(self) -> None:
        """Turns until the run is over or ``stop`` was called."""
        pause = MIN_POLL_SECONDS
        while True:
            busy = self.turn()
            if self._is_finished() or self.stopping:
                break
            pause = MIN_POLL_SECONDS if busy else min(pause * 1.5, MAX_POLL_SECONDS)
            # A loop that stands still is looked at when its threshold is reached.
            if self.pipe.wait(min(pause, self._look_again), self.root.handle):
                pause = MIN_POLL_SECONDS
        self.finish()

    def stop(self) -> None:
        """Makes ``run`` read what there is and return; from any thread and from signal handlers."""
        self.stopping = True
        self.pipe.wake()

    def read(self) -> bool:
        """Step 1; whether there was anything. Under the statistics' lock, since scrapes read too."""
        found = False
        with self.statistics.lock:
            try:
                for stretches in self.follower.portions():
                    found = found or bool(stretches)
                    self.pipeline.take(stretches, time.monotonic())
                if not found:
                    self.pipeline.take((), time.monotonic())
            except Exception as error:  # a damaged record must not take the others' readings with it
                if not self._told_failure:
                    self._told_failure = True
                    line = f"part of the record could not be read: {error!r}; see {keep_traceback(self.run_dir)}"
                    self._keep = True
                    self._tell(line)
        return found

    def turn(self) -> bool:
        """Steps 1 to 3; whether there was anything new."""
        root_gone = not self.root.alive  # asked before the read: then that was all
        busy = self.read()
        with self.statistics.lock:
            self._look_again = self.probe.look()
            if self.snapshots is not None:
                self.snapshots.look()
            for name in list(self.follower.ended - self._ended):
                busy = True
                self._process_over(name)
        if not self._summary_written and self._may_sum_up():
            busy = True
            self._sum_up()
        if root_gone or self._summary_written or self._root_let_go():
            release_stderr()
        return busy

    def _process_over(self, name: str) -> None:

        self._ended.add(name)
        process = self.follower.processes[name]
        folder = process.folder
        self.pipeline.end_process(process)
        if name in self.follower.crashed:
            self._keep = True
            write_file(os.path.join(self.run_dir, files.CRASHED), "")
            line = f"{process.crash or name}; `traceloop report {self.run_dir}` shows its record"
            self._tell(line)
        is_root = self.root.owns(folder.pid, folder.start_ticks)
        if is_root and self.follower.directory.current(folder):
            self._root_over = True
        # What only the kernel knew, for `traceloop report`.
        write_file(os.path.join(folder.path, files.USAGE), f"{process.statistics.most_resident_bytes}\n")
        write_file(os.path.join(self.run_dir, f"{files.DRAINED_PREFIX}{folder.pid}"), "")
        if not is_root and name not in self.follower.crashed:
            self._let_go(name)

    def _tell(self, line: str) -> None:
        """Says it at once, or where that is not possible, has the root say it at the end."""
        if notices.usable():
            say(line)
        else:
            self.notices.append(line)

    def _let_go(self, name: str) -> None:
        """Frees what a process that ended well has left: a service may have thousands of workers in its life."""
        if self.settings.record is not None:
            return
        from shutil import rmtree

        process = self.follower.processes.pop(name, None)
        if process is not None:
            rmtree(process.folder.path, ignore_errors=True)
            self.follower.directory._folders.pop(name, None)

    def _everybody_over(self) -> bool:
        """Whether every process that was seen is over and read."""
        follower = self.follower
        return all(name in self._ended for name in follower.processes)

    def _may_sum_up(self) -> bool:
        return bool(self._ended) and (self._root_over or not self.root.alive) and self._everybody_over()

    def _root_let_go(self) -> bool:
        """Whether the program has closed what was its stderr at the start, or made it something else: its readers may
        wait for the end."""
        now = time.monotonic()
        if now < self._next_look or not notices.usable():
            return False
        self._next_look = now + 1.0
        try:
            return not os.path.samestat(os.stat(f"/proc/{self.root.pid}/fd/2"), os.fstat(2))
        except PermissionError:  # it has changed its user
            return False
        except OSError:  # closed; or the program has ended meanwhile, and of that there is something to say first
            return self.root.alive and os.path.exists(f"/proc/{self.root.pid}/fd")

    def _sum_up(self) -> None:
        self._summary_written = True
        # Where the root is process 1 of a container, its end is ours: what is to arrive must arrive before.
        self.pipeline.flush(FLUSH_SECONDS)
        with self.statistics.lock:
            summary, report = self._texts()
        if not self.root.alive:
            say(report.removeprefix("traceloop: ") if report else summary)
        # The root, which waits for them, ends when they are there: so does then what it wrote to.
        release_stderr()
        write_file(os.path.join(self.run_dir, files.REPORT), report)
        write_file(os.path.join(self.run_dir, files.SUMMARY), "\n".join([*self.notices, summary]))

    def _texts(self) -> tuple[str, str]:
        from ..exporters.text import report

        return report.summary(self.statistics), report.report(self.statistics) if self.settings.report else ""

    def _is_finished(self) -> bool:
        """Whether the root is gone and nobody of the run is left or about to come."""
        if self.root.alive or not self._everybody_over():
            self._expected_until = 0.0
            return False
        now = time.monotonic()
        if self._expected_until == 0.0:
            self._expected_until = now + EXPECTED_SECONDS
        if now >= self._expected_until:
            return True
        known = {process.folder.pid for process in self.follower.processes.values()}
        return not processes_of_run(self.run_dir, known)

    # -- the end

    def finish(self) -> None:
        """Step 4."""
        over = self._is_finished()
        for process in list(self.follower.processes.values()):
            self.pipeline.end_process(process)
        self.pipeline.shutdown(SHUTDOWN_SECONDS)
        if not over:
            return  # somebody still writes there
        if self.settings.record is not None:
            self._keep_copy(self.settings.record)
        if not self._keep:
            from shutil import rmtree

            rmtree(self.run_dir, ignore_errors=True)

    def _keep_copy(self, record: str) -> None:
        import shutil

        target = os.path.join(record, os.path.basename(os.path.normpath(self.run_dir)))
        try:
            os.makedirs(record, mode=0o700, exist_ok=True)
            own = shutil.ignore_patterns(
                files.WAKE, files.COLLECTOR, files.LOCK, f"{files.DRAINED_PREFIX}*", f"{files.SAID_PREFIX}*"
            )
            shutil.copytree(self.run_dir, target, ignore=own)
        except (OSError, shutil.Error) as error:
            say(f"the record could not be kept in {record}: {error}")


def run_process(run_dir: str, root_pid: int, ready: int, *, port_required: bool, listen_descriptor: int = -1) -> int:
    """The collector process, from its first line to its exit status.

    ``ready``: the descriptor of start()'s pipe. ``listen_descriptor``: of a socket that listens already.
    """
    answers: list[str] = []
    settings = Settings.from_environ(os.environ, on_error=lambda line: answers.append(f"notice {line}")).replace(
        run_dir=run_dir, metrics_port_required=port_required
    )
    listener: socket.socket | None = None
    url: str | None = None
    try:
        if settings.metrics:
            if listen_descriptor >= 0:
                listener = socket.socket(fileno=listen_descriptor)
            else:
                bound, notice = listen(settings.metrics_host, settings.metrics_port, required=port_required)
                listener = socket.socket(fileno=bound.detach())
                if notice:
                    answers.append(f"notice {notice}")
            url = url_of(listener, settings.metrics_host)
            answers.append(f"url {url}")
        collector = Collector(settings, root_pid)
    except (CollectorError, OSError) as error:
        _answer(ready, [f"error {error}"])
        return 2
    signal.signal(signal.SIGTERM, lambda *_: collector.stop())
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    _answer(ready, [f"pid {os.getpid()}", *answers, "ready"])
    try:
        _serve(collector, listener, url)
    except BaseException as error:
        say(f"the collector failed: {error!r}; its traceback is in {keep_traceback(run_dir)}, the record stays there")
        return 1
    return 0


def _serve(collector: Collector, listener: socket.socket | None, url: str | None) -> None:
    import json

    run_dir = collector.run_dir

    description = {"pid": os.getpid(), "start_ticks": process_start_ticks(), "url": url}
    write_file(os.path.join(run_dir, files.COLLECTOR), json.dumps(description))
    from . import expired_records as old_records

    old_records.hold(run_dir)  # until this process ends
    collector.open(listener)
    old_records.expire(run_dir)
    # Records are tuples by the hundred thousand, and none is part of a cycle: looking for some would cost more than
    # reading them.
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)
    collector.run()


def _answer(ready: int, lines: list[str]) -> None:
    if ready < 0:
        return
    try:
        os.write(ready, "".join(line.replace("\n", " ") + "\n" for line in lines).encode("utf-8", "backslashreplace"))
        os.close(ready)
    except OSError:
        pass  # whoever started us is gone


class CollectorThread:
    """The collector as a daemon thread of the application; reads this process's rings, private ones too.

    ``url``: of the metrics, None where none are served. ``notices``: lines for the user.
    """

    def __init__(self, settings: Settings, tracer_provider: object = None) -> None:
        self.settings = settings
        self.notices: list[str] = []
        self.url: str | None = None
        self._sinks: list[SpanSink] | None = None
        if tracer_provider is not None:
            from ..exporters.otel_sdk.sinks import ProviderSink

            self._sinks = [ProviderSink(tracer_provider, say)]
        self._listener: socket.socket | None = None
        if settings.metrics:
            bound, notice = listen(
                settings.metrics_host, settings.metrics_port, required=settings.metrics_port_required
            )
            self.url = url_of(bound, settings.metrics_host)
            self._listener = socket.socket(fileno=bound.detach())
            if notice:
                self.notices.append(notice)
        self._stop = threading.Event()
        self._open()
        self._thread = threading.Thread(target=self._work, name="traceloop-collector", daemon=True)
        self._thread.start()

    def _open(self) -> None:
        from traceloop.reading.follower import PrivateFollower
        from traceloop.recording.process import current_process

        from ..exporters.prometheus.server import serve
        from ..exporters.span_pipeline import make_pipeline

        self.statistics = make_statistics(self.settings)
        process = current_process()
        if process is None:
            raise CollectorError("this process does not record")
        self.follower = PrivateFollower(self.statistics, process)
        self.pipeline = make_pipeline(self.settings, self.statistics, say, sinks=self._sinks)
        # What watching costs is not told apart here from what the application does.
        listener = self._listener
        self._server = serve(self._scraped, listener, own_usage=False) if listener is not None else None

    def _scraped(self) -> Statistics:
        self.read()
        return self.statistics

    def read(self) -> bool:
        """Reads what is new; from any thread."""
        with self.statistics.lock:
            found = False
            for stretches in self.follower.portions():
                found = True
                self.pipeline.take(stretches, time.monotonic())
            if not found:
                self.pipeline.take((), time.monotonic())
        return found

    def _work(self) -> None:
        pause = MIN_POLL_SECONDS
        while not self._stop.wait(pause):
            pause = MIN_POLL_SECONDS if self.read() else min(pause * 1.5, MAX_POLL_SECONDS)

    def stop(self, timeout: float = SHUTDOWN_SECONDS) -> None:
        """Reads and sends what there is, and ends; waits at most about ``timeout`` s."""
        self._stop.set()
        self._thread.join(timeout)
        with self.statistics.lock:
            for stretches in self.follower.last_portions():
                self.pipeline.take(stretches, time.monotonic())
            self.pipeline.end_process(self.follower)
        self.pipeline.shutdown(timeout)
        if self._server is not None:
            self._server.close()
