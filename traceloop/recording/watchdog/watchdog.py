"""The watchdog: a thread that looks whether a handle of a loop runs longer than it should, and says where it stands.

One for a process, started when the first loop runs. It looks at a word that the loop publishes (``W_RUNNING``, since
when it has been off its poll), so a turn that finds nothing costs some 30 us, ten times a second. What follows from
how the loop publishes:

* The word says when the iteration began (or when it was published last, at most 1 ms before), not the handle. Only when
  it has stood for the threshold does the watchdog look at the frames, which say what runs and since when. An iteration
  of nine hundred short handles is therefore never taken for a stall.
* While an idle loop lingers in the first part of its poll the word stands still: the frames say that nothing runs.
* A turn comes at the latest ``_PACE`` thresholds after a run began, and then the next one is set for the moment at
  which the threshold is reached: stacks are taken there, and not at the next beat of some clock.

A turn that comes late is a finding too. The watchdog's own counts of context switches tell why: waiting for the GIL is
a wait with a timeout of the switch interval, over and over, while a stopped process (SIGSTOP, a suspended machine) does
not wake at all.

The thread is none of ``threading``'s: programs that list or count their threads find their own. It is gone before a
fork (a fork beside a thread makes CPython 3.12 warn) and started again afterwards.
"""

from __future__ import annotations

import _thread
import atexit
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...record import layout
from ...record.frames import culprit_of
from ...record.proc import schedule_of
from ..heaps import gc_pauses
from ..heaps.sampler import sampler_of
from ..thresholds import threshold_of
from ..waiting.task_looks import TaskLooks
from . import stacks
from .fault_dump import FaultDump
from .stall_notices import StallNotices
from .thread_clocks import COUNTS_SWITCHES, switches
from .watched_loop import Budget, Stall, Watched

if TYPE_CHECKING:
    from ..process import Process
    from ..recorder import Recorder

_logger = logging.getLogger("traceloop")

# Turns come every _PACE thresholds, within these bounds (s).
_PACE = 0.95
_MIN_PACE = 0.01
_MAX_PACE = 0.1
# A turn this late (s) is recorded. A busy thread gives the GIL away within the switch interval, 5 ms.
_LATE = 0.05
# A standstill of the whole process shorter than this (s) is not told from a busy machine.
_MIN_SUSPENSION = 0.2
# The thread ends when no loop has run for so long (s); the next loop starts it again.
_LINGER = 2.0
# Whole stacks a minute; beyond it only the culprit is recorded, and beyond the second number nothing.
MAX_STACKS_A_MINUTE = 60
MAX_EVENTS_A_MINUTE = 1200
_MAX_SAMPLES = 64


class Watchdog:
    """Watches the loops of one process. ``watch`` and ``unwatch`` are called by the loops' threads."""

    def __init__(
        self, process: Process, patterns: tuple[tuple[str, float], ...] = (), threshold_for: Any = None
    ) -> None:
        """``patterns``: thresholds by callback pattern; ``threshold_for(label, default)`` resolves them."""
        self._process = process
        self._sampler = sampler_of(process)
        self._task_looks = TaskLooks(self._sampler.outbox)
        self._lowest_pattern = min((seconds for _, seconds in patterns), default=None)
        self._threshold_for = threshold_for if patterns else None
        self._watched: dict[int, Watched] = {}
        self._stopped: deque[Watched] = deque(maxlen=64)  # loops that stopped since the last turn
        # What long garbage collections interrupted: thread, end of the collection, the run.
        self._interrupted: deque[tuple[int, float, stacks.Run]] = deque(maxlen=64)
        # Reentrant, like all locks that the end of the process takes: a signal handler of the program's may end it
        # (os._exit) or fork while this thread holds them.
        self._lock = threading.RLock()
        self._wake = threading.Lock()
        self._wake.acquire()
        self._thread_id = 0
        self._done: Any = None
        self._running = False
        self._ended = False
        self._idle_since = 0.0
        self._suppressed = 0
        self._stack_budget = Budget(MAX_STACKS_A_MINUTE)
        self._event_budget = Budget(MAX_EVENTS_A_MINUTE)
        self._suspensions: deque[tuple[float, float]] = deque(maxlen=16)
        self._due = 0.0
        self._measured = 0.0
        self._switches = 0
        self._process_cpu = 0.0
        self._own_wait = 0.0
        self._was_late = False
        self._turns = 0
        self._dumped = 0
        self.paused = False
        self._notices = StallNotices()
        self.faults = FaultDump(process.directory)

    # -- called by the loops

    def watch(self, recorder: Recorder, loop: Any) -> None:
        """``loop`` begins to run in this thread."""
        if self._ended or recorder.ring not in self._process.rings or not _has_the_clock(loop):
            return
        watched = Watched(recorder, loop, self._process.rings.index(recorder.ring))
        watched.words[layout.W_PTHREAD] = watched.thread
        with self._lock:
            self._watched[id(loop)] = watched
            begun = self._start()
        if begun is not None and sys.version_info >= (3, 14):
            # Its faulthandler gives up at a thread that is being made, and the loop's first handle may be the last.
            # And a turn opens files: who counts descriptors as his first act (CPython's tests do) must not meet one.
            begun.acquire(timeout=0.1)

    def unwatch(self, loop: Any) -> None:
        """``loop`` stopped running."""
        with self._lock:
            watched = self._watched.pop(id(loop), None)
            self._idle_since = monotonic()
            if watched is not None:
                self._stopped.append(watched)

    def loop_closed(self) -> None:
        """A loop was closed. With the last one the thread goes at once: programs and tests that count threads after
        their loops must not find it, and nothing of a closed loop is kept until a next turn."""
        with self._lock:
            if self._watched:
                return
        self.stop(until_gone=False)
        now = monotonic()
        self._take_interrupted(now)
        self._end_stopped(now)
        self._publish(now, 0.0)
        self._notices.flush()

    # -- the thread's life

    def _start(self) -> Any:
        """Starts the thread. Returns a lock that is free once it has made its first turn, None where it runs already or
        cannot be had.
        """
        if self._running or self._ended:
            return None
        self.faults.install()
        if self._note_interrupted not in gc_pauses.after_long:
            gc_pauses.after_long.append(self._note_interrupted)
        done = _thread.allocate_lock()
        done.acquire()
        self._done = done
        self._running = True
        self._due = 0.0
        begun = _thread.allocate_lock()
        begun.acquire()
        try:
            _thread.start_new_thread(self._run, (done, begun))
        except RuntimeError:  # no more threads, or the interpreter is going down
            self._running = False
            return None
        return begun

    def stop(self, *, until_gone: bool = True) -> None:
        """Ends the thread and waits for it (1 s at most; it takes less than 1 ms). ``resume`` starts it again.

        ``until_gone``: until the kernel has forgotten it too, also where it was ended before.
        """
        with self._lock:
            running, self._running = self._running, False
            done = self._done
        if running:
            self._wake.release()
            if not done.acquire(timeout=1.0):
                return
            self._publish(0.0, 0.0)
            try:
                self._wake.acquire(blocking=False)
            except RuntimeError:
                pass
        thread_id = self._thread_id
        if not until_gone or not thread_id:
            return
        # The thread has run its last Python line, but fork's warning counts what the kernel still has: on a busy
        # machine it may have to wait for its turn to go.
        gone = f"/proc/self/task/{thread_id}"
        deadline = monotonic() + 1.0
        while os.path.exists(gone) and monotonic() < deadline:
            time.sleep(0.0002)
        if self._thread_id == thread_id and not self._running:
            self._thread_id = 0  # the kernel gives the number to others

    def resume(self) -> None:
        """After a fork, in the parent; called by a loop where ``paused`` is set."""
        self.paused = False
        with self._lock:
            if self._watched:
                self._start()

    def end(self) -> None:
        """The process ends: no thread from now on, and no signal asked for."""
        self._ended = True
        self.stop()
        if self._note_interrupted in gc_pauses.after_long:
            gc_pauses.after_long.remove(self._note_interrupted)
        try:
            self._take_interrupted(monotonic())
            self._end_stopped(monotonic())
            with self._lock:
                self.faults.withdraw()
        except Exception as error:
            _logger.error("traceloop: the watchdog's last turn failed", exc_info=error)

    def _run(self, done: Any, begun: Any) -> None:
        self._thread_id = threading.get_native_id()
        try:
            self._process.open_process_ring()
            while self._running and done is self._done:
                delay = self._turn()
                if begun is not None:
                    begun.release()
                    begun = None
                if delay is None or self._wake.acquire(timeout=delay):
                    break
        except Exception as error:
            self._ended = True
            _logger.error("traceloop: the watchdog failed and has stopped; the application runs on", exc_info=error)
        finally:
            done.release()

    # -- a turn

    def _turn(self) -> float | None:
        """Looks at every loop; returns in how many seconds to look again, None to end the thread."""
        now = monotonic()
        ring = self._process.process_ring
        if ring is not None:
            ring.words[layout.W_HEARTBEAT] = now
            ring.words[layout.W_THREAD] = self._thread_id
        # A turn may itself have been held up in its middle, after it was due: what was measured since is from its end.
        self._check_lateness(now, max(self._due, self._measured) if self._due else 0.0)
        with self._lock:
            watched_loops = list(self._watched.values())
            if not watched_loops and now - self._idle_since > _LINGER:
                self._running = False
                self._publish(now, 0.0)
                return None
            self._turns += 1
            # Some times a second are enough for this, a fifth of a turn's cost.
            size = self.faults.check() if self._turns % 4 == 0 else 0
        if size > self._dumped:
            self._name_dumped(size, now)
        due = now + _MAX_PACE
        self._take_interrupted(now)
        self._end_stopped(now)
        for watched in watched_loops:
            due = min(due, self._look(watched, now))
        self._notices.flush()
        self._sampler.turn(now)
        self._task_looks.poll([watched.loop for watched in watched_loops], now)
        if (end := monotonic()) - now >= _MIN_SUSPENSION:
            self._check_lateness(end, now)
        self._due = due
        self._switches = switches()
        self._process_cpu = time.process_time()
        self._own_wait = schedule_of(self._thread_id).waited_s
        self._measured = monotonic()
        self._publish(now, due)
        return max(due - self._measured, 0.001)

    def _publish(self, looked: float, due: float) -> None:
        """Tells readers that what a turn begun at ``looked`` found is written, and when the next is due (0: never)."""
        ring = self._process.process_ring
        if ring is not None:
            ring.words[layout.W_DUE] = due
            if looked:
                ring.words[layout.W_LOOKED] = looked

    def _end_stopped(self, now: float) -> None:
        while self._stopped:
            self._end_stall(self._stopped.popleft(), now)

    def _look(self, watched: Watched, now: float) -> float:
        """Looks at one loop; returns when to look at it again."""
        threshold = threshold_of(watched.loop, watched.general_threshold)
        lowest = threshold if self._lowest_pattern is None else min(threshold, self._lowest_pattern)
        pace = min(max(_PACE * lowest, _MIN_PACE), _MAX_PACE)
        since: float = watched.words[layout.W_RUNNING]
        stall = watched.stall
        if stall is None and (since == 0.0 or now - since < lowest):
            watched.sample()
            return min(now + pace, since + lowest) if since else now + pace
        run = stacks.find_run(sys._current_frames().get(watched.thread)) if since else None
        if stall is not None and (run is None or run.start != stall.start):
            self._end_stall(watched, now)
            stall = None
        if run is None:
            watched.sample()
            return now + pace
        if stall is None:
            limit, told_from = self._limits_of(run, threshold)
            if now - run.start - self._suspended(run.start, now) < limit:
                watched.sample()
                return min(now + pace, max(run.start + limit, now + 0.001))
            stall = _begin_stall(watched, run, limit, told_from)
        stall.samples.append(watched.sample())
        if len(stall.samples) > _MAX_SAMPLES:
            del stall.samples[1:-1:2]
        if now >= stall.stack_at:
            self._take_stack(watched, stall, run, now)
            # At the threshold, and then with doubling gaps; a turn that came late does not make them come at once.
            length = stall.threshold
            while stall.start + length <= now:
                length *= 2
            stall.stack_at = stall.start + length
            if now < stall.start + stall.told_from:
                stall.stack_at = min(stall.stack_at, stall.start + stall.told_from)
        return min(now + pace, stall.stack_at)

    def _note_interrupted(self) -> None:
        """A long collection ends in this thread. It held the GIL, and on a busy machine the run that it interrupted is
        over before the watchdog's own thread can look: so the look is taken here, and what it found written later.
        """
        try:
            run = stacks.find_run(sys._getframe(1))
            if run is not None:
                self._interrupted.append((threading.get_ident(), monotonic(), run))
        except Exception:
            pass  # within a collection there is nobody to be told

    def _take_interrupted(self, now: float) -> None:
        while self._interrupted:
            thread, at, run = self._interrupted.popleft()
            with self._lock:
                those = [*self._watched.values(), *self._stopped]
            watched = next((each for each in those if each.thread == thread), None)
            if watched is None:
                continue
            stall = watched.stall
            if stall is not None and stall.start == run.start and stall.stacks:
                continue
            limit, told_from = self._limits_of(run, threshold_of(watched.loop, watched.general_threshold))
            if at - run.start >= limit:
                self._end_stall(watched, now)
                self._take_stack(watched, _begin_stall(watched, run, limit, told_from), run, at)

    def _limits_of(self, run: stacks.Run, threshold: float) -> tuple[float, float]:
        """From how many seconds on the stack of a run is taken, and from how many people are told of it.

        A pattern that knows the callback decides both. One that knows only the culprit may allow more: the stack is
        taken all the same, since without it no reader knows that culprit.
        """
        if self._threshold_for is None:
            return threshold, threshold
        limit = float(self._threshold_for(self._label_of(run.ident), threshold))
        if limit != threshold:
            return limit, limit
        limit = float(self._threshold_for(culprit_of(run.frames, run.awaiting), threshold))
        return min(limit, threshold), limit

    def _label_of(self, ident: float) -> str:
        sites = self._process.site_log.sites
        number = stacks.site_number(ident)
        return sites[number].label if 0 <= number < len(sites) else "unknown"

    def _suspended(self, start: float, now: float) -> float:
        return sum(max(0.0, min(end, now) - max(begin, start)) for begin, end in self._suspensions)

    # -- what is found

    def _take_stack(self, watched: Watched, stall: Stall, run: stacks.Run, now: float) -> None:
        if not self._event_budget.take(now):
            self._suppressed += 1
            return
        whole = self._stack_budget.take(now)
        if not whole:
            self._suppressed += 1
        culprit = culprit_of(run.frames, run.awaiting)
        if not stall.stacks:
            stall.culprit = culprit
        label = self._label_of(run.ident)
        event: dict[str, Any] = {
            "kind": "stack",
            "ring": watched.ring,
            "run": run.start,
            "at": now,
            "index": stall.stacks,
            "ident": run.ident,
            "callback": label,
            "culprit": culprit,
            "threshold": stall.threshold,
            "ready": len(watched.loop._ready),
            "before": stall.before,
            "samples": stall.samples[-1:],
            "frames": run.frames if whole else run.frames[-1:],
            "suppressed": self._suppressed,
        }
        if whole:
            if run.awaiting:
                event["awaiting"] = run.awaiting
            descriptors = stacks.ready_descriptors(watched.loop)
            if descriptors:
                event["descriptors"] = descriptors
            if run.span is not None:
                event["span"] = run.span
        stall.stacks += 1
        self._write(event, now)
        if not stall.told and now - stall.start >= stall.told_from:
            stall.told = True
            frames = event["frames"]
            line = f"{frames[-1][0]}:{frames[-1][1]}" if frames else ""
            stall.announced = self._notices.started(
                label, culprit, line, now - stall.start, event["ready"], watched.name
            )

    def _end_stall(self, watched: Watched, now: float) -> None:
        stall = watched.stall
        if stall is None:
            return
        watched.stall = None
        after = watched.sample()
        if self._event_budget.take(now):
            self._write(
                {
                    "kind": "stall_end",
                    "ring": watched.ring,
                    "run": stall.start,
                    "ident": stall.ident,
                    "at": now,
                    "culprit": stall.culprit,
                    "before": stall.before,
                    "samples": [*stall.samples[:1], *stall.samples[-1:]],
                    "after": after,
                    "suspended": self._suspended(stall.start, now),
                },
                now,
            )
        if stall.announced:
            last = stall.samples[-1][0] if stall.samples else now
            self._notices.ended(stall.culprit or self._label_of(stall.ident), last - stall.start, now - stall.start)

    def _check_lateness(self, now: float, due: float) -> None:
        """What was to go on at ``due`` (0: nothing was) goes on now."""
        if not due or now - due < _LATE:
            if self._was_late:
                # What was under way at the late turn may have ended just after it: measured once more.
                self._was_late = False
                loops = [[watched.ring, watched.sample()] for watched in list(self._watched.values())]
                self._write({"kind": "samples", "loops": loops}, now)
            return
        late = now - due
        woken = switches() - self._switches
        cpu = time.process_time() - self._process_cpu
        waited = schedule_of(self._thread_id).waited_s
        known = COUNTS_SWITCHES and waited >= 0.0
        waited -= self._own_wait
        # Waiting for the GIL wakes once each switch interval.
        for_gil = min(late, woken * sys.getswitchinterval()) if known else 0.0
        # A thread that was due, and neither waited for a processor nor for the GIL, was not let run at all. Nor were
        # the others, then; a short time tells too little.
        held = late - waited - for_gil
        if held >= max(_MIN_SUSPENSION, late / 2) and cpu <= 0.03 + 0.15 * late:
            reason = "suspended"
            self._suspensions.append((due, due + held))
        else:
            reason = "gil" if for_gil >= late / 2 or not known else "starved"
        event: dict[str, Any] = {"kind": "late", "reason": reason, "from": due, "to": now, "cpu": cpu, "held": held}
        event["loops"] = []
        for watched in list(self._watched.values()):
            before = watched.history[-1] if watched.history else None
            event["loops"].append([watched.ring, before, watched.sample()])
        if self._event_budget.take(now):
            self._was_late = True
            self._write(event, now)

    def _name_dumped(self, size: int, now: float) -> None:
        """A dump was asked for from outside: it has files and bare function names, and the modules are known here."""
        text = self.faults.read_dump(self._dumped)
        self._dumped = size
        files = {line.split('"')[1] for line in text.splitlines() if line.startswith('  File "')}
        modules = {}
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and file in files and (file not in modules or name == "__main__"):
                modules[file] = name
        self._write({"kind": "modules", "files": modules}, now)

    def _write(self, event: dict[str, Any], now: float) -> None:
        self._process.process_write(
            [now, layout.R_EVENT, float(self._process.next_event())], [json.dumps(event, separators=(",", ":"))], now
        )


def _begin_stall(watched: Watched, run: stacks.Run, limit: float, told_from: float) -> Stall:
    before = next((sample for sample in reversed(watched.history) if sample[0] <= run.start), None)
    stall = watched.stall = Stall(run.start, run.ident, limit, told_from, before)
    stall.samples = [sample for sample in watched.history if sample[0] > run.start]
    return stall


def _has_the_clock(loop: Any) -> bool:
    # A test's loop may have a clock of its own: what it publishes can't be compared with ours.
    try:
        return bool(abs(loop.time() - monotonic()) < 1.0)
    except Exception:
        return False


# Without a GIL another thread's frames change while they are looked at.
_HAS_GIL = bool(getattr(sys, "_is_gil_enabled", lambda: True)())
_active: Watchdog | None = None


def watchdog_of(process: Process) -> Watchdog | None:
    """The watchdog of this process, made at the first call; None for the recording of a run that the process has left,
    and in the child of a fork for its parent's.
    """
    global _active
    if process.pid != os.getpid() or process.left or not _HAS_GIL:
        return None
    if _active is None or _active._process is not process:
        if _active is not None:
            _active.end()
        _active = Watchdog(process, process.settings.slow_patterns, process.settings.threshold_for)
    return _active


def _before_fork() -> None:
    if _active is not None:
        _active.stop()


def _after_fork_in_parent() -> None:
    if _active is None:
        return
    if sys.version_info[:2] == (3, 13) or sys.version_info >= (3, 15):
        # 3.13.0 and 3.15 count the threads for fork's warning only after this: the next flush of a loop starts ours.
        _active.paused = True
    else:
        _active.resume()


def _after_fork_in_child() -> None:
    global _active
    if _active is not None:
        _active.faults.forget()
        _active = None


def end() -> None:
    """This process ends: no watchdog from now on."""
    if _active is not None:
        _active.end()


# After logging's own hooks, and hence before them at a fork: the thread may be waiting for a handler's lock.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(end)
