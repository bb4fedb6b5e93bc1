"""The collector's life: it follows every traced process of a run until the last has ended and been read.

It polls once a second (more often where rings fill fast, spans are sent or a loop stands still, less often while
nothing runs; pace.py), for each scrape, and whenever a process ends, or has filled a quarter of a ring, and writes to
the ``wake`` pipe. Between two polls it only looks, five times a second or more, whether a loop stands still, or a ring
fills whose process may not write to the pipe; while no loop runs, it does so in C (reading/rest.py). A poll has these
steps:

1. Read the rings of all processes into statistics and spans.
2. For each process that has ended and was read to its end: free what it has left. If it was killed: report it, and
   keep its record.
3. When the root has ended and no other process is left: write ``summary.txt`` (and ``report.txt``). The root waits for
   them at its exit, for a bounded time.
4. When the root is gone too: send the last spans, and remove the run directory unless its record is to be kept.

A signal that ends a whole service reaches the collector as well. It goes on while the root lives and does something.
It then waits for other processes no longer than the exit timeout. For an idle root it waits 10 s, or the exit timeout
if that is longer.

The files of a run directory are listed in record/files.py.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time

from traceloop import notices
from traceloop.record import files, layout
from traceloop.settings import Settings

from ..exporters.metrics import asked_for as asked_for_metrics
from ..exporters.span_pipeline_absent import NoSpans, may_export_spans
from .carried_counters import CounterNotes, carried_counters
from .ended_processes import EndedProcesses
from .files import keep_traceback, say, write_file
from .lines import Lines
from .listening import close_listener
from .orders import RELEASE_LISTENER, RELEASE_STDERR
from .pace import (
    EXPECTED_SECONDS,
    FLUSH_SECONDS,
    MAX_POLL_SECONDS,
    MIN_POLL_SECONDS,
    QUIET_SECONDS,
    SHUTDOWN_SECONDS,
    SOON_SECONDS,
    STOPPING_SECONDS,
    Pace,
)
from .root_stderr import RootStderr
from .traced_processes import Root, processes_of_run
from .unrecorded import Unrecorded
from .wake_pipe import WakePipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from traceloop.reading.follower import RunFollower
    from traceloop.reading.statistics.run import Statistics

    from ..exporters.metrics.push import MetricsPush
    from ..exporters.span_pipeline import SpanPipeline
    from .stall_snapshots import StallSnapshots


class Collector:
    """Reads a run directory and serves what it reads. ``run`` is called by the one thread that owns it."""

    def __init__(self, settings: Settings, root_pid: int = 0, supervisor: int = -1) -> None:
        """``supervisor``: the pipe to it (supervisor.py), -1 where there is none."""
        assert settings.run_dir is not None
        self.settings = settings
        self.run_dir = settings.run_dir
        self.root = Root(root_pid, os.path.join(self.run_dir, files.LEFT))
        self.stopping = False
        self._supervisor = supervisor
        self._listener: socket.socket | None = None
        self._asked_to_end = False
        self._root_asked_to_end = False
        self._wait_until = 0.0  # s: for others after the root has ended, or for an idle root after a signal
        self._ran_at = 0.0  # when it was last read that a loop has run something
        self.pipe = WakePipe(self.run_dir)
        self.lines = Lines()
        self._keep = False  # the run directory, to find out what went wrong
        self._crashed = False  # a process of the run
        self._failure_reported = False
        self._summary_written = False
        self._expected_until = 0.0
        self._root_over = False
        self._recorded = False
        self._unrecorded = Unrecorded(self.run_dir, self.root)
        self._seen_over = 0  # processes that have ended
        self._deleted = False  # the run directory, by somebody else
        self._copied = 0  # how many processes had ended when the record was copied
        self._stderr = RootStderr(self.run_dir, self.root, report=self.settings.report)
        self._look_again = SOON_SECONDS
        self._polled_at = 0.0
        self._due = 0.0  # the next poll
        self._quiet = False  # whether the last look put it off, since it would find nothing
        self._known: set[str] = set()  # processes at the last poll
        self._notes = CounterNotes(self.run_dir)
        self._began_ns = time.time_ns()

    def open(self, listener: socket.socket | None, *, again: bool = False) -> None:
        """Imports and makes the parts that read and serve. Not done earlier, because the program waits for everything
        before this call. ``again``: whether another collector ran before, whose counters go on.
        """
        from traceloop.reading.follower import RunFollower
        from traceloop.reading.new_statistics import make_statistics

        from ..reading.decoding.choose import problem, reader_name
        from ..reading.findings.lasting import LOOK_SECONDS, Lasting
        from ..reading.rest import rest
        from .stall_probe import StallProbe

        self._rest = rest
        self._lasting = Lasting(time.monotonic() + LOOK_SECONDS)
        self.statistics: Statistics = make_statistics(self.settings)
        self.statistics.from_start = True
        self.follower: RunFollower = RunFollower(self.run_dir, self.statistics)
        self._ended = EndedProcesses(self.follower, self.run_dir, all_kept=self.settings.record is not None)
        self.probe = StallProbe(self.follower, say)
        self.snapshots: StallSnapshots | None = None
        if self.settings.snapshot_on_stall is not None:
            from .stall_snapshots import make_snapshots

            self.snapshots = make_snapshots(self.settings, self.follower, self.lines.at_end.append)
        self.pipeline: SpanPipeline | NoSpans
        if may_export_spans(self.settings, os.environ):
            from ..exporters.span_pipeline import make_pipeline

            self.pipeline = make_pipeline(self.settings, self.statistics, say)
        else:
            self.pipeline = NoSpans()
        if line := problem():
            notices.say_once(self.run_dir, "core", line)
        hurries = self.snapshots is not None or not isinstance(self.pipeline, NoSpans)
        self._pace = Pace(SOON_SECONDS if hurries else MAX_POLL_SECONDS, in_c=reader_name() == "c")
        if again:
            self._carry_on()
        self.push: MetricsPush | None = None
        if asked_for_metrics(os.environ):
            from ..exporters.metrics.push import make_push

            self.push = make_push(self.settings, self.statistics, self.read, say, os.environ)
        self._listener = listener
        if listener is not None:
            threading.Thread(
                target=self._serve_metrics, args=(listener,), name="traceloop-metrics", daemon=True
            ).start()

    def _carry_on(self) -> None:
        """Carries on the counters of the collector before this one."""
        carried = carried_counters(self.run_dir)
        if carried is None:
            return
        self.read()
        with self.statistics.lock:
            carried.begin(self.statistics.samples())
            self.statistics.carry = carried.added_to
            self.statistics.began_ns = self._began_ns = carried.began_ns

    def _serve_metrics(self, listener: socket.socket) -> None:
        """Makes the server at the first request, so that a run without scrapes does not pay for the imports."""
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.poll()
        if self._listener is None:
            return  # the run is over
        try:
            from ..exporters.prometheus.light_import import import_light

            import_light()
            from ..exporters.prometheus.server import serve

            if self.settings.page:
                from ..exporters.html.app import with_page

                serve(self._scraped, listener, beside=lambda metrics: with_page(metrics, self._scraped))
            else:
                serve(self._scraped, listener)
        except BaseException as error:
            if self._listener is None:
                return
            say(f"no metrics: {error!r}; its traceback is in {keep_traceback(self.run_dir)}")

    def _scraped(self) -> Statistics:
        """Reads everything up to now, for a scrape. Called in the server's threads."""
        self.read()
        return self.statistics

    # -- the polls

    def run(self) -> None:
        """Polls until the run is over or ``stop`` was called."""
        pause = MIN_POLL_SECONDS
        root = -1
        woken = True
        while True:
            if woken or self._is_due(sees_end=root >= 0):
                self._polled_at = time.monotonic()
                busy = self.poll()
                if self._is_finished() or self.stopping or self._waited_long_enough():
                    break
                longest = self._pace.pause()
                if busy and self.follower.processes.keys() != self._known:
                    self._known = set(self.follower.processes)
                    longest = pause = MIN_POLL_SECONDS
                pause = min(pause * 1.5, longest)
                self._due = self._polled_at + pause
                root = self.root.handle
            woken = self._wait(root)
        self.finish()

    def _wait(self, root: int) -> bool:
        """Waits until something has to be done (True), or until it is time to look again."""
        # A blocked loop is looked at when its threshold is reached, and a rest ends when a loop runs. But it
        # does not end where a loop goes to sleep: there is none while a loop stands still, whose end is measured.
        watches = self.probe.stands or self._look_again <= SOON_SECONDS / 2
        if root >= 0 and not watches and not self._asked_to_end:
            until = self._polled_at + QUIET_SECONDS if self._quiet else self._due
            if until - time.monotonic() > SOON_SECONDS:
                descriptors, pace = (self.pipe.descriptor, root), min(SOON_SECONDS, self._look_again)
                news = self._rest(self.follower, descriptors, pace, until, until_new=self._quiet)
                if news is not None:
                    return self.pipe.wait(0.0, root) or news
        return self.pipe.wait(min(max(0.0, self._due - time.monotonic()), self._look_again), root)

    def _is_due(self, *, sees_end: bool) -> bool:
        """Whether to poll now. ``sees_end``: the wait before would have ended with the root; else only a poll sees that
        the root has ended.
        """
        self._quiet = False
        with self.statistics.lock:
            self._look_again = self.probe.look()
        now = time.monotonic()
        passed = now - self._polled_at
        if self.follower.is_filling():
            return True
        if passed >= SOON_SECONDS and (not sees_end or self._asked_to_end or self.probe.stands):
            return True
        if now < self._due:
            return False
        unfinished = self.snapshots is not None and self.snapshots.unfinished
        if passed < QUIET_SECONDS and not self._asked_to_end and not unfinished and self.follower.is_quiet():
            # A poll would find nothing. This costs a tenth of one.
            self._quiet = True
            self._due = now + SOON_SECONDS
            return False
        return True

    def stop(self) -> None:
        """Makes ``run`` read what there is, and return. Called from any thread and from signal handlers."""
        self.stopping = True
        self.pipe.wake()

    def end_soon(self, *, root_too: bool = True) -> None:
        """Waits for no other process for long once the root has ended; for signal handlers.

        ``root_too``: nor for a root that does nothing, though it was asked to end by the same signal (SIGTERM, not
        SIGHUP, by which a service reloads its configuration).
        """
        self._asked_to_end = True
        self._root_asked_to_end = self._root_asked_to_end or root_too
        self.pipe.wake()

    def _waited_long_enough(self) -> bool:
        """Whether a signal has asked for the end, and the root has ended, or been idle, for as long as others are
        waited for.
        """
        alive = self.root.alive
        if not self._asked_to_end or (alive and (not self._root_asked_to_end or self._runs_something())):
            self._wait_until = 0.0
            return False
        now = time.monotonic()
        seconds = max(STOPPING_SECONDS, self.settings.exit_timeout) if alive else self.settings.exit_timeout
        self._wait_until = self._wait_until or now + seconds
        if alive:
            self._wait_until = max(self._wait_until, self._ran_at + seconds)
        if now < self._wait_until:
            return False
        if alive:
            waited = f"has been idle for {seconds:g} s"
            line = f"the collector was asked to end, and the program {waited}; its record stays in {self.run_dir}"
            self.lines.tell(line)
        return True

    def _runs_something(self) -> bool:
        """Whether a loop runs handles now (it is not in its poll)."""
        rings = (ring for process in self.follower.processes.values() for ring in process.rings.values())
        return any(ring.is_loop and ring.reader.word(layout.W_RUNNING) > 0.0 for ring in rings)

    def read(self) -> bool:
        """Step 1. Returns whether there was anything new. Holds the statistics' lock, since scrapes read too."""
        found = False
        with self.statistics.lock:
            try:
                for chunks in self.follower.chunks():
                    found = found or bool(chunks)
                    if any(chunk.decoded.runs for chunk in chunks):
                        self._ran_at = time.monotonic()
                    self._pace.count(chunks)
                    self.pipeline.take(chunks, time.monotonic())
                if not found:
                    self.pipeline.take((), time.monotonic())
            except Exception as error:  # a damaged record must not keep the others from being read
                if not self._failure_reported:
                    self._failure_reported = True
                    line = f"part of the record could not be read: {error!r}; see {keep_traceback(self.run_dir)}"
                    self._keep = True
                    self.lines.tell(line)
        return found

    def poll(self) -> bool:
        """Steps 1 to 3. Returns whether there was anything new."""
        root_gone = not self.root.alive  # asked before the read, which then reads everything
        busy = self.read()
        with self.statistics.lock:
            self._look_again = self.probe.look()
            if self.snapshots is not None:
                self.snapshots.look()
            self._ended.remove_leftovers()
            for name in list(self.follower.ended - self._ended.names):
                busy = True
                self._process_over(name)
            if busy:
                self._notes.note(self.statistics.samples(), self._began_ns, self._ran_at)
        self.lines.tell_for_others(self.pipe.take_lines())
        for line in self._lasting.look(self.statistics) if not self._summary_written else ():
            self.lines.tell(line)
        if not self._summary_written and self._may_sum_up():
            busy = True
            self._sum_up()
        if not self._recorded and not self.follower.processes:
            if not root_gone:
                self._unrecorded.look()
            elif line := self._unrecorded.line():
                self.lines.tell(line)
        if self._summary_written or self._stderr.let_go() or (root_gone and not self._stderr.is_owed_a_report()):
            self._release_stderr()
        return busy

    def _process_over(self, name: str) -> None:
        self._ended.names.add(name)
        self._seen_over += 1
        process = self.follower.processes[name]
        folder = process.folder
        self.pipeline.end_process(process)
        if name in self.follower.crashed:
            self._crashed = True
            write_file(os.path.join(self.run_dir, files.CRASHED), "")
            # In the folder of `--record` the commands find the run before its record has been copied, too.
            record = self.settings.record or self.run_dir
            shown = f"; `traceloop report {record}` shows its record" if os.path.isdir(self.run_dir) else ""
            self.lines.tell(f"{process.crash or name}{shown}")
        is_root = self.root.owns(folder.pid, folder.start_ticks)
        if is_root and self.follower.directory.current(folder):
            self._root_over = True
        # What only the kernel and this reader knew, for `traceloop report`: its memory, and when it ended.
        path = os.path.join(folder.path, files.USAGE)
        write_file(path, f"{process.statistics.most_resident_bytes}\n", process.end_ns)
        if not self._recorded:
            self._recorded = True
            write_file(os.path.join(self.run_dir, files.RECORDED), "")
        if name in self.follower.crashed:
            self._ended.keep_crash(name)
        elif not is_root:
            self._ended.let_go(name)

    def _everybody_over(self) -> bool:
        """Whether every process that was seen has ended and was read to its end."""
        return all(name in self._ended.names for name in self.follower.processes)

    def _may_sum_up(self) -> bool:
        if not self._root_over:
            # It may never have run a loop: the parent of a pool, a server's master process.
            self._root_over = os.path.exists(os.path.join(self.run_dir, files.OVER))
        return self._recorded and (self._root_over or not self.root.alive) and self._everybody_over()

    def _sum_up(self) -> None:
        self._summary_written = True
        if self.snapshots is not None:
            self.lines.at_end += self.snapshots.lines()
        # If the root is process 1 of a container, its end is ours: everything must be sent before.
        if not self.pipeline.flush(FLUSH_SECONDS):
            self.lines.at_end.append("some spans have not arrived at their receiver yet: they are not among those sent")
        if self.push is not None and not self.push.flush(FLUSH_SECONDS) and not self.push.failing:
            self.lines.at_end.append("the last metrics have not arrived at their receiver yet")
        with self.statistics.lock:
            summary, report = self._texts()
            if self.settings.html is not None:
                from ..exporters.html.page import write_at_end

                self.lines.at_end.append(write_at_end(self.settings.html, self.statistics))
        if self._root_over or not self.root.alive:
            self._keep_copy()
        # A program that is started again at once finds the port free.
        self._close_listener()
        notices.release(ending=True)
        path = os.path.join(self.run_dir, files.SUMMARY)
        text = "\n".join([*self.lines.at_end, summary])
        written = write_file(os.path.join(self.run_dir, files.REPORT), report) and write_file(f"{path}.draft", text)
        if not self._stderr.root_listens() or not written:
            for line in self.lines.at_end:
                say(line)
            notices.say_report(report) if report else say(summary)
        if not written:  # the program has filled the memory; an empty file takes none, and has the root end
            write_file(f"{path}.draft", "")
        # The root waits for these files and ends when they are there; then its stderr may be gone.
        self._release_stderr()
        with contextlib.suppress(OSError):
            os.rename(f"{path}.draft", path)

    def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            close_listener(listener)
            self._order(RELEASE_LISTENER)

    def _release_stderr(self) -> None:
        if self._stderr.release():
            self._order(RELEASE_STDERR)

    def _order(self, order: bytes) -> None:
        """Has the supervisor let go of it too."""
        try:
            if self._supervisor >= 0:
                os.write(self._supervisor, order)
        except OSError:
            pass  # it was killed

    def _texts(self) -> tuple[str, str]:
        from ..exporters.text import report

        return report.summary(self.statistics), report.report(self.statistics) if self.settings.report else ""

    def _is_finished(self) -> bool:
        """Whether the root is gone and no other process of the run is left or about to come."""
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
        if over:
            self._close_listener()
        for process in list(self.follower.processes.values()):
            self.pipeline.end_process(process)
        self.pipeline.shutdown(SHUTDOWN_SECONDS)
        if self.push is not None:
            self.push.shutdown(SHUTDOWN_SECONDS)
        if not over:
            return  # a process still writes there
        self._keep_copy()
        # With `--record` a crash has its record there, and the machine's memory is not to hold it twice.
        if not self._keep and not (self._crashed and self.settings.record is None):
            from shutil import rmtree

            rmtree(self.run_dir, ignore_errors=True)

    def _keep_copy(self) -> None:
        """Copies the record into the directory of `--record`. Where that fails, the original stays."""
        record = self.settings.record
        if record is None:
            return
        if not os.path.isdir(self.run_dir) and not self._deleted:
            self._deleted = True
            self.lines.tell(
                f"no record could be kept in {record}: the one in {self.run_dir} was deleted while the program ran"
            )
        if self._deleted or self._copied == self._seen_over:
            return
        from .record_copy import copy_record

        self._copied = self._seen_over
        problem = copy_record(self.run_dir, record)
        if problem:
            self._keep = True
            write_file(os.path.join(self.run_dir, files.STAYS), "")
            self.lines.tell(f"the record could not be kept in {record}: {problem}; it stays in {self.run_dir}")
