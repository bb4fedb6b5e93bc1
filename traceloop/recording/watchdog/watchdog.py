"""The watchdog: a thread that finds handles that run too long, and records where they stand.

Each process has one; it starts when the first loop runs. At each *turn*, ten times a second, it reads a word that each
loop publishes (``W_RUNNING``: since when the loop has not polled). Most turns find nothing (quiet_turns.py). Three
things follow from how loops publish that word:

* It is when the iteration began (or when it was published last, at most 1 ms before that), and not when the handle did.
  So the watchdog looks at the frames once the word is as old as the threshold: they show what runs, and since when. An
  iteration of nine hundred short handles is never taken for a stall.
* It does not change while an idle loop lingers in the first part of its poll. The frames then show that nothing runs.
* A turn comes at most ``_PACE`` thresholds after a run began. The next one is set for the moment at which the threshold
  is reached, so that a stack is taken then.

``lateness`` measures turns that come late. ``process_watchdog`` has the watchdog of this process, and what happens to
it at a fork and at the end.

``threading`` does not know the thread: programs that list or count their threads find only their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...record import layout
from ...record.frames import culprit_of
from .. import failures, own_threads
from ..heaps import gc_pauses
from ..heaps.sampler import sampler_of
from ..profiler.chosen import profiler_of
from ..swallowed import Swallowed
from ..thresholds import threshold_of
from ..waiting.task_looks import LOOK_SECONDS, TaskLooks
from . import stacks
from .fault_dump import FaultDump
from .full_executors import FullExecutors
from .interrupted import Interrupted
from .lateness import Lateness
from .processor_waits import ProcessorWaits
from .quiet_turns import LONGEST_PACE, QuietTurns, new_alarm
from .slow_peers import SlowPeers
from .stall_events import StallEvents
from .thread_clocks import watchdog_begins, watchdog_ends
from .under_way import UnderWay
from .watched_loop import StoppedLoops, Watched, begin_stall, has_the_clock

if TYPE_CHECKING:
    from ..process import Process
    from ..ring import Ring

# Turns come every _PACE thresholds, within these bounds (s).
_PACE = 0.95
_MIN_PACE = 0.01
# While no run is long, most of what a turn looks at can wait for so long (s), until the next look at the tasks.
_QUIET = LOOK_SECONDS
# And for so long while, besides, no other thread computes: a whole turn would find what the one before has found.
_UNMOVED = 5.0
# The thread ends when no loop has run for so long (s), even if some are open. The next run starts it again.
_LINGER = 2.0
# It ends at once when the last loop is closed. But starting and joining a thread costs three times as much as a short
# loop: where loops follow one another faster than this (s), it ends when no loop has come for so long.
_SUCCESSION = 0.05
# If it ended because memory was short, it is started again after so long (s).
_LACK_SECONDS = 1.0
_MAX_SAMPLES = 64


class Watchdog:
    """Watches the loops of one process. ``watch`` and ``unwatch`` are called by the loops' threads."""

    def __init__(self, process: Process, patterns: Sequence[tuple[str, float]] = (), threshold_for: Any = None) -> None:
        """``patterns``: thresholds by callback pattern; ``threshold_for(label, default)`` resolves them."""
        self._process = process
        self._sampler = sampler_of(process)
        sites = process.site_log.sites
        self._task_looks = TaskLooks(self._sampler.outbox, process.directory, lambda: process.process_ring, sites)
        self._lowest_pattern = min((seconds for _, seconds in patterns), default=None)
        self._threshold_for = threshold_for if patterns else None
        self._watched: dict[int, Watched] = {}
        self._stopped = StoppedLoops()  # since the last turn
        self.interrupted = Interrupted()
        # Reentrant, like all locks that the end of the process takes: a signal handler of the program's may end it
        # (os._exit) or fork while this thread holds them.
        self._lock = own_threads.RLock()
        self._wake = new_alarm()
        self._thread_id = 0
        self._done: Any = None
        self._running = False
        self._ended = False
        self._idle_since = 0.0
        self._under_way = UnderWay(self._watched, lambda watched: self._pace(watched)[2])
        self.faults = FaultDump(process.directory)
        self._events = StallEvents(process, self._under_way.glance, self.faults.dumped_within)
        self._lateness = Lateness(self._events.report)
        self._quiet_turns = QuietTurns(
            self._watched,
            (self._stopped, self.interrupted.found, self._sampler.outbox.pending),
            self._lateness,
            self._events.throttling,
            self._task_looks.request,
            self._pace,
        )
        self._quiet_until = 0.0
        self._profiler = profiler_of(process, self._sampler.outbox)
        self._full_executors = FullExecutors(process, self._events.report)
        self._slow_peers = SlowPeers(self._events.report)
        self._processor_waits = ProcessorWaits(self._events.report)
        self._swallowed = Swallowed(self._events.report)
        #: Held while the thread looks, and by a loop's thread that ends what the loop leaves.
        self._looking = own_threads.RLock()
        self._due = 0.0
        self._all_closed = False
        self._closed_at = 0.0
        self._in_succession = False
        self._looked_whole = 0.0
        self._faults_checked = 0.0
        self._dumped = 0
        self.paused = False
        self._not_before = 0.0  # when it may be started again

    # -- called by the loops

    def watch(self, loop: Any, ring: Ring, general_threshold: float) -> None:
        """``loop``, which is recorded in ``ring``, begins to run in this thread. ``general_threshold``: s, where the
        program does not say otherwise of the loop.
        """
        if self._ended or ring not in self._process.rings or not has_the_clock(loop):
            return
        with self._lock:
            seen = self._stopped.take_back(loop, ring.number)
            watched = seen or Watched(loop, ring.number, ring.words, general_threshold)
            if not self._watched:
                self._in_succession = monotonic() - self._closed_at < _SUCCESSION
                self.faults.install()
            self._all_closed = False
            self._watched[id(loop)] = watched
            begun = self._start()
        if begun is not None:
            # A thread that is being made has its maker's ident: an exception that another thread raises in this one
            # (PyThreadState_SetAsyncExc) would come to it. And the faulthandler of 3.14 gives up at such a thread.
            # A look opens files: a program that counts its descriptors at once (CPython's tests do) must not see ours.
            begun.acquire(timeout=0.1)

    def unwatch(self, loop: Any) -> None:
        """``loop`` stopped running."""
        with self._lock:
            watched = self._watched.pop(id(loop), None)
            self._idle_since = monotonic()
            if watched is not None:
                self._stopped.append(watched)
            if not self._watched and (self._ended or not self._running):
                self.faults.give_back()  # else the thread does, or who stops it

    def loop_closed(self) -> None:
        """A loop was closed. With the last one the thread goes at once, unless loops follow one another quickly:
        programs and tests that count threads after their loops must not find it. Nothing of a closed loop is kept
        until a next turn.
        """
        with self._lock:
            if self._watched:
                return
            self._all_closed = True
            self._closed_at = self._idle_since = monotonic()
            self.faults.give_back()
            lingers = self._in_succession and self._running
        if not lingers:
            self.stop(until_gone=False)
        if not self._looking.acquire(timeout=1.0):
            return
        try:
            now = monotonic()
            self._take_interrupted(now)
            self._end_stopped(now)
            self._publish(now, self._due if lingers else 0.0)
            self._events.notices.flush()
        finally:
            self._looking.release()

    # -- the thread's life

    def _start(self) -> Any:
        """Starts the thread. Returns a lock that is free after its first turn, None where it runs or cannot be had."""
        if self._running or self._ended:
            return None
        if not self._process.has_room_for_thread:
            self._not_before = monotonic() + _LACK_SECONDS
            self.paused = True
            return None
        if self.interrupted.note_collected not in gc_pauses.after_long:
            gc_pauses.after_long.append(self.interrupted.note_collected)
        done = own_threads.allocate_lock()
        done.acquire()
        self._done = done
        self._running = True
        self._lateness.forget()
        begun = own_threads.allocate_lock()
        begun.acquire()
        made: list[int] = []
        try:
            own_threads.start_without_signals(
                lambda: made.append(own_threads.start_new_thread(self._run, (done, begun)))
            )
        except BaseException as error:
            self._running = bool(made)
            if isinstance(error, RuntimeError) and not failures.is_handlers(error):
                return None  # no more threads, or the interpreter is going down
            raise
        return begun

    def stop(self, *, until_gone: bool = True) -> None:
        """Ends the thread and waits for it (1 s at most; it takes less than 1 ms). ``resume`` starts it again.

        ``until_gone``: until the kernel has forgotten it too, also where it was ended before.
        """
        with self._lock:
            running, self._running = self._running, False
            done = self._done
            if not self._watched:
                self.faults.give_back()
        if running:
            self._wake.ring()
            if not done.acquire(timeout=1.0):
                return
            self._publish(0.0, 0.0)
            self._wake.wait(0.0)
        if not until_gone or not (thread_id := self._thread_id):
            return
        own_threads.wait_until_gone(thread_id, 1.0)  # fork's warning counts what the kernel still has
        if self._thread_id == thread_id and not self._running:
            self._thread_id = 0  # the kernel gives the number to others

    def pause(self) -> None:
        """Ends the thread until a loop flushes next: what is done now must be done by the only thread."""
        self.stop()
        self.paused = True

    def resume(self) -> None:
        """After a fork, in the parent; called by a loop where ``paused`` is set."""
        if monotonic() < self._not_before:
            return
        self.paused = False
        self.interrupted.resumed()
        with self._lock:
            if self._watched:
                self._start()

    def end(self) -> None:
        """The process ends: no thread from now on, and no signal asked for."""
        self._ended = True
        self.stop()
        if self.interrupted.note_collected in gc_pauses.after_long:
            gc_pauses.after_long.remove(self.interrupted.note_collected)
        try:
            self._take_interrupted(monotonic())
            self._end_stopped(monotonic())
            self._events.end_left([*self._watched.values()], monotonic(), self._lateness.suspended)
            self._events.throttling.look(monotonic())
            self._events.throttling.write(monotonic())
            self._swallowed.write(monotonic())
            with self._lock:
                self.faults.withdraw()
        except Exception as error:
            failures.report("the watchdog's last turn failed", error)

    def _run(self, done: Any, begun: Any) -> None:
        try:
            self._thread_id = watchdog_begins()
            self._process.open_process_ring()
            while self._running and done is self._done:
                delay = self._turn()
                if begun is not None:
                    begun.release()
                    begun = None
                if delay is None or self._wait(delay):
                    break
        except Exception as error:
            if failures.is_shortage(error):
                self._pause_for_lack()
            else:
                self._ended = True
            failures.report("the watchdog failed and has stopped", error)
        finally:
            watchdog_ends()
            done.release()

    def _wait(self, delay: float) -> bool:
        """Waits for so many seconds; samples meanwhile where there is a profile, and looks at tasks where a command
        waits for that. Returns whether the thread is to end.
        """
        profiler, looks = self._profiler, self._task_looks
        if profiler is None and looks.pause is None:
            if self._quiet_until:
                return self._quiet_turns.sleep(self._wake, self._quiet_until, self._process.process_ring)
            return bool(self._wake.wait(delay))
        until = monotonic() + delay
        while True:
            pauses = [until - monotonic(), looks.pause, profiler.period if profiler is not None else None]
            if self._wake.wait(max(0.0, min(each for each in pauses if each is not None))):
                return True
            with self._looking:
                self._sample_if_due()
                if looks.pause is not None:
                    with self._lock:
                        loops = [watched.loop for watched in self._watched.values()]
                    looks.poll(loops, monotonic())
            if monotonic() >= until:
                return False

    def _sample_if_due(self) -> None:
        """Called wherever a turn may have waited for the GIL: what kept it stands there until we give it away again."""
        if self._profiler is not None and monotonic() >= self._profiler.due:
            self._profiler.sample(list(self._watched.values()))

    def _pause_for_lack(self) -> None:
        """Memory is short: the thread ends here, and a loop starts it again later."""
        with self._lock:
            self._running = False
            self._not_before = monotonic() + _LACK_SECONDS
            self.paused = True

    # -- a turn

    def _turn(self) -> float | None:
        """Looks at every loop; returns in how many seconds to look again, None to end the thread."""
        with self._looking:
            return self._look_at_all()

    def _look_at_all(self) -> float | None:
        now = monotonic()
        ring = self._process.process_ring
        if ring is not None:
            ring.words[layout.W_HEARTBEAT] = now
            ring.words[layout.W_THREAD] = self._thread_id
        with self._lock:
            watched_loops = list(self._watched.values())
            if not watched_loops:
                self.faults.give_back()
                if now - self._idle_since > (_SUCCESSION if self._all_closed else _LINGER):
                    self._running = False
                    self._publish(now, 0.0)
                    return None
        found = self._under_way.begin(watched_loops, now)
        self._lateness.turn_begins(now, watched_loops)
        with self._lock:
            quiet = now - self._looked_whole < _QUIET and self._quiet_turns.are_due(now, watched_loops)
            quiet = quiet and (self._task_looks.under_way or now < self._task_looks.due)
            quiet = quiet and not self._full_executors.undecided
            self._quiet_until, size = 0.0, 0
            if not quiet:
                self._looked_whole = now
                if self._watched:
                    self.faults.advertise()
                if now - self._faults_checked > _QUIET:
                    self._faults_checked = now
                    size = self.faults.check()
        self._under_way.glance()
        if quiet:
            return self._look_quietly(watched_loops, now)
        self._sample_if_due()
        self._lateness.check(now, watched_loops)
        self._sample_if_due()
        if size > self._dumped:
            self._events.name_dumped(self.faults.read_dump(self._dumped), now)
            self._dumped = size
        due = now + LONGEST_PACE
        self._take_interrupted(now)
        for watched, (since, run) in zip(watched_loops, found, strict=True):
            due = min(due, self._look(watched, since, run, now))
            self._sample_if_due()
        due = min(due, self._look_at_missed(due))
        # After the looks: a run that was found under way may have ended, and its loop stopped, since then.
        self._end_stopped(now)
        self._events.notices.flush()
        self._under_way.glance()
        self._sampler.poll(now)
        self._sample_if_due()
        self._full_executors.poll(now, self._process.settings.slow_threshold)
        self._events.throttling.poll(now)
        self._processor_waits.poll(watched_loops, now)
        self._slow_peers.poll(now, watched_loops)
        self._swallowed.poll(now)
        self._task_looks.poll([watched.loop for watched in watched_loops], now)
        self._events.surroundings.poll(now)
        self._under_way.glance()
        # What this turn has found: what waits would bring about another one.
        if self._sampler.outbox.pending:
            self._sampler.outbox.drain(now)
        due = min(due, self._look_at_missed(due))
        self._lateness.turn_over(now, due, watched_loops)
        busy = self._task_looks.under_way or self._full_executors.undecided
        if not busy and all(watched.stall is None for watched in watched_loops):
            steady = self._sampler.is_steady and not self._full_executors.found and not self._slow_peers.found
            steady = steady and self._task_looks.have_seen_all(watched.loop for watched in watched_loops)
            self._quiet_turns.follow(due, now + _UNMOVED if steady else 0.0)
            self._quiet_until = min(self._looked_whole + _QUIET, self._task_looks.due)
        self._due = due
        self._publish(now, due)
        return max(due - monotonic(), 0.001)

    def _look_quietly(self, watched_loops: list[Watched], now: float) -> float:
        if self._task_looks.under_way:
            self._task_looks.go_on([watched.loop for watched in watched_loops], now)
            self._sampler.outbox.drain(now)
        due = self._quiet_turns.look(now, watched_loops)
        if not self._task_looks.under_way:
            self._quiet_until = min(self._looked_whole + _QUIET, self._task_looks.due)
        self._due = due
        self._publish(now, due)
        return max(due - monotonic(), 0.001)

    def _pace(self, watched: Watched) -> tuple[float, float, float]:
        """The loop's threshold; how long to wait for the next turn; and the lowest threshold of any callback, s."""
        threshold = threshold_of(watched.loop, watched.general_threshold)
        lowest = threshold if self._lowest_pattern is None else min(threshold, self._lowest_pattern)
        return threshold, min(max(_PACE * lowest, _MIN_PACE), LONGEST_PACE), lowest

    def _publish(self, looked: float, due: float) -> None:
        """Tells readers that what a turn begun at ``looked`` found is written, and when the next is due (0: never)."""
        ring = self._process.process_ring
        if ring is not None:
            ring.words[layout.W_DUE] = due
            if looked:
                ring.words[layout.W_LOOKED] = looked

    def _end_stopped(self, now: float) -> None:
        with self._lock:
            stopped = self._stopped.take_all()
        for watched in stopped:
            self._events.end(watched, now, self._lateness.suspended)
            self._processor_waits.poll((watched,), now, ended=True)

    def _look(self, watched: Watched, since: float, run: stacks.Run | None, now: float) -> float:
        """Looks at one loop, with what ``UnderWay`` has found; returns when to look at it again."""
        threshold, pace, lowest = self._pace(watched)
        stall = watched.stall
        if stall is None and (since == 0.0 or now - since < lowest):
            watched.sample()
            return min(now + pace, since + lowest) if since else now + pace
        if stall is not None and (run is None or run.start != stall.start):
            self._events.end(watched, now, self._lateness.suspended)
            stall = None
        if run is None:
            watched.sample()
            return now + pace
        if stall is None:
            limit, line_from = self._limits_of(run, threshold)
            if now - run.start - self._lateness.suspended(run.start, now) < limit:
                watched.sample()
                return min(now + pace, max(run.start + limit, now + 0.001))
            stall = begin_stall(watched, run, limit, line_from)
        stall.samples.append(watched.sample())
        if len(stall.samples) > _MAX_SAMPLES:
            del stall.samples[1:-1:2]
        if now >= stall.stack_at:
            self._events.stack(watched, stall, run, now, stall.stack_at)
            stall.set_next_stack(now)
        return min(now + pace, stall.stack_at)

    def _look_at_missed(self, due: float) -> float:
        """Looks at what was found while the turn was held up; returns when to look again, at the latest at ``due``."""
        while self._under_way.missed:
            due = min(due, self._look(*self._under_way.missed.pop(0)))
        return due

    def _take_interrupted(self, now: float) -> None:
        while self.interrupted.found:
            thread, at, run = self.interrupted.found.popleft()
            with self._lock:
                those = [*self._watched.values(), *self._stopped]
            watched = next((each for each in those if each.thread == thread), None)
            if watched is None:
                continue
            stall = watched.stall
            if stall is not None and stall.start == run.start and stall.stacks:
                continue
            limit, line_from = self._limits_of(run, threshold_of(watched.loop, watched.general_threshold))
            if at - run.start >= limit:
                self._events.end(watched, now, self._lateness.suspended)
                self._events.stack(watched, begin_stall(watched, run, limit, line_from), run, at, at)

    def _limits_of(self, run: stacks.Run, threshold: float) -> tuple[float, float]:
        """From how many seconds on the stack of a run is taken, and from how many on a line is printed.

        A pattern that knows the callback decides both. One that knows only the culprit may allow more: the stack is
        taken all the same, since without it no reader knows that culprit.
        """
        if self._threshold_for is None:
            return threshold, threshold
        limit = float(self._threshold_for(self._events.label_of(run.ident), threshold))
        if limit != threshold:
            return limit, limit
        limit = float(self._threshold_for(culprit_of(run.frames, run.awaiting), threshold))
        return min(limit, threshold), limit
