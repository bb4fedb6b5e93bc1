"""Finds, from outside the process, loops that are blocked by C code that holds the GIL.

Such a call stops every Python thread, and with them the process's own watchdog. Three signs show it from outside:

- the number that the loop publishes says that it has not polled for longer than the threshold;
- the watchdog is late for its next look;
- the kernel says that the loop's thread computes, and waits for nothing, while the watchdog sleeps, wakes up and
  sleeps again.

The collector then sends the signal that the process has advertised (fault_dump.py), and faulthandler writes the stacks
without the GIL.

The third sign makes the dump safe. A thread that runs Python code gives up the GIL within 5 ms of being asked, and then
waits until another thread has taken it. If the watchdog had a processor, and the loop's thread has not waited once
since then, that thread must be inside a C call. Without this proof the watchdog may only lack a processor on a busy
machine, or may get the GIL and need it again and again, for each file that it reads. The signal may then arrive between
two stores to the interpreter's frames. faulthandler would follow half a frame, and the process would die of it.

A signal without a handler would end the process. So the collector checks three things immediately before it sends one:
the process is the one that advertised it, the kernel has a handler for it, and the descriptor it writes to is still the
dump file. The signal goes to a running thread only: in ``poll`` or ``nanosleep`` it would end the call, whatever
SA_RESTART says (signal(7)).

C code may also sleep and keep the GIL (a database driver that waits for its server). No dump is asked for then. But the
kernel says that the loop's thread was not put on a processor once while the watchdog asked for the GIL again and again,
and so one line says that much, without a place: the process itself names it when the call is over.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from traceloop.notices import StallLimit
from traceloop.reading.follower import FolderFollower, RunFollower
from traceloop.reading.stalls import parts as stall_statistics
from traceloop.reading.stalls.index import StallIndex
from traceloop.reading.stalls.model import StallStack
from traceloop.record import files, layout
from traceloop.record.frames import whereabouts
from traceloop.record.plumbing import readable
from traceloop.record.proc import process_start_ticks, schedule_of, signal_masks, stat_of, voluntary_switches_of
from traceloop.record.sites import UNKNOWN_LABEL

#: A watchdog that is late for its look by this (s) is held up: a thread of Python's gives the GIL away within 5 ms.
LATE_SECONDS = 0.05
#: Where it has not announced its next look: it looks every 0.1 s at least.
STALE_SECONDS = 0.15
#: What the loop's thread must have computed while the watchdog asked for the GIL in vain (s): four times as long as a
#: thread that runs Python code may keep it.
KEPT_SECONDS = 0.02
# The loop's thread is reported as asleep after so long (s), while the watchdog woke at least so often a second to ask
# for the GIL. (It does so 200 times a second, unless it has to wait for a processor.)
_ASLEEP_SECONDS = 0.3
_ASKS_PER_SECOND = 20.0
# If the process computes for this part of that time, it may also be the thread that computes which keeps the GIL: the
# kernel does not tell it from one that computes without the GIL.
_OTHERS = 0.5
# How long until the next look at a watchdog that is late, s.
_KEPT_PACE = 0.01
# A dump is whole when its file has not grown for so long (s); its handler writes it in one go, in some milliseconds.
_WHOLE_SECONDS = 0.005
#: Dumps that a process is asked for: first at the threshold, then at doubling gaps, and no more than this a minute.
MAX_DUMPS_A_MINUTE = 20
_MAX_DUMP = 1 << 20
# The name in the line about the end of a stall without a stack.
_SLEEPS = "a system call"
_LAST_SIGNAL = 64
# How long it may take to notice that a loop stands, s.
_PACE = 0.2


class _Standing:
    """A loop that stands still, as seen from outside."""

    __slots__ = (
        "asked",
        "asleep",
        "beside",
        "kept",
        "last",
        "next",
        "reported",
        "reported_as",
        "rested",
        "since",
        "without_the_gil",
    )

    def __init__(self, since: float, first: float) -> None:
        self.since = since
        self.next = first
        self.asked = 0
        self.reported = False
        #: What the line that was said of it names, "" where none was; when it was last seen to stand.
        self.reported_as = ""
        self.last = first
        # While the watchdog is seen waiting at every look: the look that it is late for, how often it had been
        # scheduled, how often the loop's thread had waited, and the CPU time of that thread (s) once the watchdog had
        # surely asked for the GIL, None before.
        self.kept: tuple[float, int, int, float | None] | None = None
        # While the loop's thread is seen asleep at every look: the look that the watchdog is late for, how often the
        # two threads had been scheduled at the first, when that was, and what the process had computed until then (s).
        self.asleep: tuple[float, int, int, float, float] | None = None
        #: Whether another thread has computed meanwhile.
        self.beside = False
        # How often the loop's thread had been scheduled when it was seen asleep, and for when the watchdog was late
        # just after that.
        self.rested: tuple[int, float] | None = None
        #: As often scheduled, it was still asleep when the watchdog had had the GIL: it sleeps without the GIL.
        self.without_the_gil = -1

    def rests(self, slices: int, late_at: float, late_after: float) -> None:
        """The loop's thread is asleep, and was scheduled ``slices`` times so far. ``late_at``, ``late_after``: when the
        watchdog is late for its look, read before and after that. It sets that anew with the GIL only.
        """
        if self.rested is not None and self.rested[0] == slices:
            if self.rested[1] != late_at:
                self.without_the_gil = slices
            return
        self.rested = slices, late_after

    def sleeps_with_the_gil(
        self,
        late_at: float,
        loop: tuple[str, float, float, int],
        watchdog: tuple[str, float, float, int],
        computed_s: float,
        now: float,
    ) -> bool:
        """Whether the loop's thread stays in one system call while the watchdog does not get the GIL."""
        if loop[0] not in ("S", "D") or watchdog[0] not in ("S", "R") or loop[3] == self.without_the_gil:
            self.asleep = None
            return False
        if self.asleep is None or self.asleep[:2] != (late_at, loop[3]):
            self.asleep = late_at, loop[3], watchdog[3], now, computed_s
            return False
        passed = now - self.asleep[3]
        self.beside = computed_s - self.asleep[4] >= _OTHERS * passed
        return passed >= _ASLEEP_SECONDS and watchdog[3] - self.asleep[2] >= _ASKS_PER_SECOND * passed

    def keeps_the_gil(
        self, late_at: float, cpu_s: float, waits: int, watchdog: tuple[str, float, float, int]
    ) -> bool:
        """Whether the loop's thread is inside a C call that does not give the GIL away. ``waits``: how often that
        thread has waited for anything so far; -1 if it is not known.
        """
        state, _, _, slices = watchdog
        if state != "S" or waits < 0:
            self.kept = None  # it waits for a processor: it has not asked, or could not take what it was given
            return False
        if self.kept is None or self.kept[0] != late_at or self.kept[2] != waits:
            self.kept = (late_at, slices, waits, None)
            return False
        _, before, _, asked = self.kept
        if asked is None:
            # A thread that waits for the GIL asks for it when its first short wait is over, and waits again.
            if slices > before:
                self.kept = (late_at, slices, waits, cpu_s)
            return False
        return cpu_s - asked >= KEPT_SECONDS and slices > before + 1


class _Process:
    """What the probe remembers of one process."""

    __slots__ = ("asked_at", "dumped", "limit", "size", "size_at", "standing", "times")

    def __init__(self) -> None:
        self.standing: dict[int, _Standing] = {}
        self.times: list[float] = []
        self.asked_at = 0.0
        self.size = 0  # of the dump file, as first seen at size_at
        self.size_at = 0.0
        self.dumped = 0
        self.limit = StallLimit()


class StallProbe:
    """Looks at the processes that a follower follows; ``look`` is called by the follower's thread, a few times a
    second at least.
    """

    def __init__(
        self,
        follower: RunFollower,
        say: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``say(line)`` prints a line about a stall that its own process cannot report; called once for each."""
        self._follower = follower
        self._say = say
        self._clock = clock
        self._processes: dict[str, _Process] = {}
        #: Dumps asked for, and those that were not for lack of a handler, by reason.
        self.asked = 0
        self.refused: dict[str, int] = {}
        #: Whether the last look found a loop that stands still.
        self.stands = False
        self._next = 0.0

    def look(self) -> float:
        """One look at every process; returns in how many seconds it is worth to look again. Costs some 10 us for
        a process whose loops are well.
        """
        now = self._clock()
        self._next = now + _PACE
        self.stands = False
        for name, follower in list(self._follower.processes.items()):
            if name in self._follower.ended:
                ended = self._processes.pop(name, None)
                if ended is not None:
                    for ring in list(ended.standing):
                        self._look_whether_over(follower, ended, ring, 0.0, now)
                continue
            process = self._processes.get(name)
            if process is None:
                process = self._processes[name] = _Process()
            try:
                self._look_at(follower, process, now)
            except OSError:
                pass  # it has just ended, or is not ours to ask
        return max(0.005, self._next - now)

    def _look_at(self, follower: FolderFollower, process: _Process, now: float) -> None:
        words = None
        standing: list[tuple[int, Any, float, float]] = []
        for ring in follower.rings.values():
            if not ring.is_loop:
                words = ring.reader
                continue
            since = ring.reader.word(layout.W_RUNNING)
            threshold = ring.reader.word(layout.W_THRESHOLD) if since > 0.0 else 0.0
            self._look_whether_over(follower, process, ring.number, since, now)
            if 0.0 < threshold < now - since:
                standing.append((ring.number, ring.reader, since, threshold))
            elif since > 0.0 < threshold:
                self._next = min(self._next, since + threshold)
        if process.asked_at:
            self._collect(follower, process, now)
        if not standing:
            return
        self.stands = True
        late_at = _late_at(words) if words is not None else 0.0
        if words is None or not late_at:
            return
        watchdog = int(words.word(layout.W_THREAD))
        pid = follower.folder.pid
        if now < late_at:
            self._next = min(self._next, late_at)
        for number, reader, since, threshold in standing:
            seen = process.standing.get(number)
            if seen is None:
                seen = process.standing[number] = _Standing(since, now)
            thread = int(reader.word(layout.W_THREAD))
            slices = schedule_of(thread, pid).slices
            state, _, _, again = _thread_state(pid, thread)
            if state in ("S", "D") and slices == again:
                seen.rests(slices, late_at, _late_at(words))
            if now < late_at:
                continue
            loop = self._measure(follower, number, thread, watchdog, now)
            state, cpu_s, _, _ = loop
            if state in ("S", "D") and not seen.reported:
                self._next = min(self._next, now + _PACE / 2)
                process_stat = stat_of(pid)
                computed_s = process_stat.cpu_s if process_stat is not None else 0.0
                if seen.sleeps_with_the_gil(late_at, loop, _thread_state(pid, watchdog), computed_s, now):
                    self._report_asleep(follower, process, seen, now)
            if state != "R" or now < seen.next or not self._may_ask(process, now):
                continue
            self._next = min(self._next, now + _KEPT_PACE)
            # A watchdog that has ended between two looks has no state; one without a number is an older process's.
            if seen.keeps_the_gil(late_at, cpu_s, voluntary_switches_of(thread, pid), _thread_state(pid, watchdog)):
                seen.kept = None
                seen.asked += 1
                seen.next = now + max(threshold, STALE_SECONDS) * 2**seen.asked
                self._ask(follower, process, now, lambda: _late_at(words) == late_at)

    def _measure(
        self, follower: FolderFollower, ring: int, thread: int, watchdog: int, now: float
    ) -> tuple[str, float, float, int]:
        """Enters what the kernel says of the loop's thread; returns it, as ``_thread_state``. As in the process's own
        samples (``thread_clocks``), what the watchdog's thread has computed is no part of the process's CPU time.
        """
        pid = follower.folder.pid
        state, cpu_s, waited_s, slices = found = _thread_state(pid, thread)
        process = stat_of(pid) if state else None
        if process is not None:
            others = process.cpu_s - max(0.0, schedule_of(watchdog, pid).cpu_s)
            self._index(follower).add_sample(ring, (now, cpu_s, others, waited_s, slices))
        return found

    def _index(self, follower: FolderFollower) -> StallIndex:
        return stall_statistics.stalls_of(follower.statistics).index

    # -- asking for a dump

    def _may_ask(self, process: _Process, now: float) -> bool:
        process.times = [moment for moment in process.times if now - moment < 60]
        return len(process.times) < MAX_DUMPS_A_MINUTE and not process.asked_at

    def _ask(
        self,
        follower: FolderFollower,
        process: _Process,
        now: float,
        still: Callable[[], bool] = lambda: True,
    ) -> None:
        """``still``: whether the call lasts; asked last of all, since this process may have waited for a processor."""
        path = os.path.join(follower.folder.path, files.DUMP)
        try:
            advert = json.loads(files.read_file(os.path.join(follower.folder.path, files.DUMP_ADVERT), 4096))
            number, fd, pid, ticks = (int(advert[name]) for name in ("signal", "fd", "pid", "start_ticks"))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            self._refuse("not advertised")
            return
        if not 0 < number <= _LAST_SIGNAL:
            self._refuse("not advertised")
            return
        if (pid, ticks) != (follower.folder.pid, follower.folder.start_ticks) or not hasattr(os, "pidfd_open"):
            self._refuse("another process")
            return
        handle = os.pidfd_open(pid)
        try:
            # The handle stands for one process for good: what is checked after opening it holds for that process.
            if process_start_ticks(pid) != ticks:
                self._refuse("another process")
            elif not signal_masks(pid).get("SigCgt", 0) >> (number - 1) & 1:
                self._refuse("no handler")
            elif not os.path.samefile(f"/proc/{pid}/fd/{fd}", path):
                self._refuse("its descriptor is another file's")
            elif still():
                signal.pidfd_send_signal(handle, number)
                process.times.append(now)
                process.asked_at = now
                self.asked += 1
                index = self._index(follower)
                index.fetch_dump = lambda final: self._collect(follower, process, self._clock(), final=final)
        finally:
            os.close(handle)

    def _refuse(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def _collect(self, follower: FolderFollower, process: _Process, now: float, *, final: bool = False) -> None:
        """Takes in the dump that was asked for, once it is whole. ``final``: the process writes no more of it."""
        path = os.path.join(follower.folder.path, files.DUMP)
        try:
            size = os.stat(path).st_size
        except OSError:
            size, final = process.dumped, True
        if not final and (size <= process.dumped or size != process.size or now - process.size_at < _WHOLE_SECONDS):
            if size != process.size:
                process.size, process.size_at = size, now
            self._next = min(self._next, now + 2 * _WHOLE_SECONDS)
            if now - process.asked_at > 5.0:
                self._done(follower, process)  # it is not coming
            return
        asked_at = process.asked_at
        self._done(follower, process)
        if size <= process.dumped:
            return
        with files.open_file(path) as file:
            file.seek(process.dumped)
            text = file.read(_MAX_DUMP).decode("utf-8", "replace")
        process.dumped = size
        rings = {
            int(ring.reader.word(layout.W_PTHREAD)): ring.number for ring in follower.rings.values() if ring.is_loop
        }
        since = {ring: standing.since for ring, standing in process.standing.items() if standing.asked}
        module_of = follower.folder.sites.module_of
        printed = {ring.number: ring.reader.word(layout.W_SAID) for ring in follower.rings.values() if ring.is_loop}
        for stack in self._index(follower).add_dump(asked_at, text, rings.get, module_of, since):
            goes_on = printed.get(stack.ring, 0.0) >= since[stack.ring]
            self._report(follower, process, process.standing.get(stack.ring), stack, goes_on)

    def _look_whether_over(
        self, follower: FolderFollower, process: _Process, ring: int, since: float, now: float
    ) -> None:
        """Forgets a loop that has gone on since it was seen to stand. Prints that, if its stall was printed."""
        standing = process.standing.get(ring)
        if standing is None:
            return
        if standing.since == since:
            standing.last = now
            return
        del process.standing[ring]
        if standing.reported_as:
            # It ended somewhere between the look before this one and now.
            seconds = (standing.last + now) / 2 - standing.since
            self._say(
                f"stall over: {readable(standing.reported_as)} blocked the loop and every other thread of process "
                f"{follower.folder.pid} for about {seconds:.2f} s"
            )

    def _report(
        self,
        follower: FolderFollower,
        process: _Process,
        standing: _Standing | None,
        stack: StallStack,
        goes_on: bool = False,
    ) -> None:
        """``goes_on``: the process itself has printed that the loop is blocked, and will print the end of that too."""
        if standing is None or standing.reported:
            return
        standing.reported = True
        line = whereabouts(stack.taken.frames, stack.taken.awaiting)
        place = f" ({line})" if line else ""
        culprit = stack.culprit if stack.culprit != UNKNOWN_LABEL else stack.callback
        if goes_on:
            self._say(
                f"stall: now {readable(culprit)}{place} keeps every other thread of process {follower.folder.pid} from "
                f"running too: {stack.taken.at - stack.start:.2f} s so far"
            )
            return
        more = process.limit.take(stack.callback, culprit, self._clock())
        if more is None:
            return
        standing.reported_as = culprit
        within = f" within {readable(stack.callback)}" if stack.callback != culprit else ""
        self._say(
            f"stall: {readable(culprit)}{place}{within} blocks the loop and every other thread of process "
            f"{follower.folder.pid}: {stack.taken.at - stack.start:.2f} s so far{more}"
        )

    def _report_asleep(self, follower: FolderFollower, process: _Process, standing: _Standing, now: float) -> None:
        standing.reported = True
        more = process.limit.take(_SLEEPS, _SLEEPS, now)
        if more is None:
            return
        so_far = f"{now - standing.since:.2f} s so far"
        if standing.beside:
            # No line about the end: by then it is known whether it was this thread.
            self._say(
                f"stall: the loop's thread of process {follower.folder.pid} sleeps in a system call beside a thread "
                f"that computes: {so_far}; one of the two keeps the GIL in C code{more}"
            )
            return
        standing.reported_as = _SLEEPS
        self._say(
            f"stall: the loop's thread of process {follower.folder.pid} sleeps in a system call, and no other thread "
            f"gets the GIL: {so_far}; most likely C code that waits and keeps the GIL{more}"
        )

    def _done(self, follower: FolderFollower, process: _Process) -> None:
        process.asked_at = 0.0
        self._index(follower).fetch_dump = None


def _thread_state(pid: int, thread: int) -> tuple[str, float, float, int]:
    """A thread's state as in proc(5), "" if not known; seconds it ran, and waited for a processor; times it got one."""
    stat, schedule = stat_of(pid, thread), schedule_of(thread, pid)
    if stat is None or schedule.slices < 0:
        return "", 0.0, 0.0, 0
    return stat.state, schedule.cpu_s, schedule.waited_s, schedule.slices


def _late_at(reader: Any) -> float:
    """From when on the watchdog is late (monotonic s); 0 where none is running."""
    due: float = reader.word(layout.W_DUE)
    if due > 0.0:
        return due + LATE_SECONDS
    heartbeat: float = reader.word(layout.W_HEARTBEAT)
    return heartbeat + STALE_SECONDS if heartbeat > 0.0 and not reader.word(layout.W_LOOKED) else 0.0
