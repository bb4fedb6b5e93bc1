"""Stalls and slow runs of one process: what the watchdog saw, joined with what the loops recorded.

The watchdog's events (``R_EVENT`` records of kind stack, stall_end, late, modules) name a run by its ring and its
start. The start is exactly the double in the run's record. A stack is written before its run ends. So a reader that
reads the loop's ring first, and then the process ring, knows the culprit of every run that it has read. The
measurements at the run's end follow within about a tenth of a second; until then an answer is not ``complete``.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import sub
from typing import Any, Final

from ...record.frames import Frame, culprit_of, held_by, is_ours
from ...record.sites import UNKNOWN_LABEL, site_of
from ...record.throttles import throttled_during
from ..decoding.decoded import LATEST, Collection, Decoded, SpanContext
from .causes import SUSPENDED, Sample, parts_of
from .dumps import name_frames, parse_dump
from .model import Blocked, Congestion, Matrix, StackTaken, StallInfo, StallStack, outermost_of
from .watchdog_events import Seen, WatchdogEvents
from .who_waited import SlowRun

_MAX_RUNS: Final = 4096
_MAX_PAIRS: Final = 2000
_MAX_COLLECTIONS: Final = 8192
_OTHER: Final = "other"
_NEVER: Final = float("inf")
# How long (s) a slow run may wait to be counted, because more may be learnt about it.
_PATIENCE: Final = 1.0
# How long (s) the next stack of a run may take to arrive, where one is known already.
_WRITTEN: Final = 0.02


class StallIndex:
    """All that is known of the slow runs of one process. Not thread-safe.

    Times are monotonic s. matrix: by (callback, culprit, victim). congestion: by ring. suspensions: (from, to) in which
    the whole process stood still. began: the start of the first iteration that was read. late: seconds by which the
    watchdog came late, by reason. processor: by ring and the time of the first measurement of its loop, how long (s)
    the loop's thread has run on a processor and waited for one since. gil: how the watchdog found the GIL.
    """

    def __init__(self, label_of: Callable[[int], str], threshold_for: Callable[[str, float], float]) -> None:
        """``label_of``: the label of a site number. ``threshold_for``: seconds from which a callback is slow, by its
        label, given the loop's own threshold.
        """
        self._label_of = label_of
        self._threshold_for = threshold_for
        self._events = WatchdogEvents()
        self._seen = self._events.seen
        self._last = self._events.last
        # (start, duration) of each garbage collection, in order. A long run may have thousands: beyond the limit,
        # neighbours are merged.
        self._collections: list[tuple[float, float]] = []
        self._dumps: deque[tuple[int, StackTaken]] = deque(maxlen=64)
        self._outside: deque[tuple[int, Sample]] = deque(maxlen=1024)
        self._ended: OrderedDict[tuple[int, float], SlowRun] = OrderedDict()
        self._bills: list[tuple[int, SlowRun]] = []
        self._limits: dict[int, float] = {}
        self._read_until = 0.0
        #: The latest stacks that came in, for code that reports stalls while they last.
        self.fresh = self._events.fresh
        #: Fetches a dump that was asked for, if it is there by now. Called with True to take what there is. None where
        #: no dump was asked for.
        self.fetch_dump: Callable[[bool], None] | None = None
        self.suspensions = self._events.suspensions
        self.matrix: Matrix = {}
        self.congestion: dict[int, Congestion] = {}
        self.began = _NEVER
        self.late = self._events.late
        self.processor = self._events.processor
        self.gil = self._events.gil

    # -- what was recorded

    def take_process(self, decoded: Decoded) -> None:
        """Takes in a chunk of the process ring."""
        self.take_collections(decoded.collections)
        for event in decoded.events:
            self._events.take(event)

    def take_collections(self, collections: Iterable[Collection]) -> None:
        """Takes in garbage collections of any ring."""
        known = self._collections
        known.extend((item.start, item.duration) for item in collections)
        if len(known) > _MAX_COLLECTIONS:
            known.sort()
            while len(known) > _MAX_COLLECTIONS:
                older = len(known) // 2 & ~1
                known[:older] = [
                    (known[at][0], known[at][1] + known[at + 1][1]) for at in range(0, older, 2)
                ]  # both begin in the same run, or are long over

    def take_loop(self, ring: int, decoded: Decoded, found: Sequence[SlowRun], threshold: float) -> None:
        """Takes in a chunk of a loop's ring. Called in the order of the record, and before ``take_process`` for what
        was read after the chunk.

        ``found``: the chunk's runs that may be slow. ``threshold``: of the loop, s.
        """
        self.take_collections(decoded.collections)
        self._limits[ring] = threshold
        if len(decoded.iterations):
            self.began = min(self.began, decoded.iterations[0].start)
        slow = [
            each
            for each in found
            if each.duration >= self.limit(ring, each.run[1], each.run[2], self.label(each.run[3]), threshold)
        ]
        for each in slow:
            self._bills.append((ring, each))
            self._ended[ring, each.run[1]] = each
            if len(self._ended) > _MAX_RUNS:
                self._ended.popitem(last=False)
        self._find_congestion(ring, decoded, slow, threshold)
        self._settle()

    def label(self, ident: float) -> str:
        """The label of a run's ident."""
        return self._label_of(site_of(ident))

    def _find_congestion(self, ring: int, decoded: Decoded, slow: list[SlowRun], threshold: float) -> None:
        blocked: set[int] | None = None
        iterations = decoded.iterations
        lengths = list(map(sub, iterations.ends, iterations.starts))
        if max(lengths, default=0.0) < threshold:  # nearly always
            return
        for index, length in [each for each in enumerate(lengths) if each[1] >= threshold]:
            iteration = iterations[index]
            if iteration.callbacks < 2 or not length < LATEST:
                continue
            if blocked is None:
                blocked = {run.run[8] for run in slow} | {run.run[8] for _, run in self._bills}
            if iteration.number in blocked:
                continue
            congestion = self.congestion.setdefault(ring, Congestion())
            congestion.iterations += 1
            congestion.seconds += length
            if length > congestion.longest:
                congestion.longest, congestion.callbacks = length, iteration.callbacks

    def _settle(self) -> None:
        """Adds the closed bills to the matrix."""
        rest: list[tuple[int, SlowRun]] = []
        for ring, slow in self._bills:
            if not slow.closed or not self.is_known(ring, slow.run[1], slow.run[2]):
                rest.append((ring, slow))
                continue
            blocker, culprit = self.label(slow.run[3]), self.culprit(ring, slow.run[1])
            for site, (handles, exact, own, most) in slow.bill.victims.items():
                key = (blocker, culprit, self._label_of(site))
                if key not in self.matrix and len(self.matrix) >= _MAX_PAIRS:
                    key = (_OTHER, _OTHER, _OTHER)
                entry = self.matrix.setdefault(key, Blocked())
                entry.handles += int(handles)
                entry.exact += exact
                entry.own_handles += int(own)
                entry.at_most += most
        self._bills = rest

    def finish(self) -> None:
        """Called when nothing more will be read: adds all bills to the matrix as they stand."""
        self._read_until = math.inf
        for _, slow in self._bills:
            slow.closed = True
        self._settle()

    # -- what was seen from outside

    def add_dump(
        self,
        at: float,
        text: str,
        ring_of: Callable[[int], int | None],
        site_module: Any = None,
        since: Mapping[int, float] | None = None,
    ) -> list[StallStack]:
        """Takes in a dump that the process wrote on request at ``at`` (monotonic s); returns its stacks of stalls.

        ``ring_of``: the ring of a loop's thread, by the thread's number in the dump. ``site_module``: the module of
        a file, as the site log has it. ``since``: by ring, W_RUNNING of the loop at the moment of the request.
        """
        out: list[StallStack] = []

        for thread in parse_dump(text):
            below, ring = thread.below_loop(), ring_of(thread.thread)
            if below and ring is not None:
                frames = self._named(below, site_module)
                taken = StackTaken(at, frames, [], 0, {}, "dump", at, culprit_of(frames, []))
                self._dumps.append((ring, taken))
                if since is not None and ring in since:
                    names = self._callback_of(ring, since[ring], frames), taken.culprit or UNKNOWN_LABEL
                    out.append(StallStack(ring, since[ring], 0.0, *names, taken, None))
        self.fresh.extend(out)
        return out

    def _callback_of(self, ring: int, since: float, frames: list[Frame]) -> str:
        """The callback of a dumped run: the one that the watchdog saw running since then, or the function that the loop
        called. The latter may be a method of the loop, called by C code of the task whose step it is.
        """
        last = self._last.get(ring)
        seen = self._seen.get(last) if last is not None and last[1] >= since - 0.001 else None
        if seen is not None and seen.callback and not seen.ended:
            return seen.callback
        return outermost_of(frames) if not is_ours(frames[0][0]) else UNKNOWN_LABEL

    def _named(self, frames: list[tuple[str, int, str]], site_module: Any) -> list[Frame]:
        modules = self._events.modules
        return name_frames(frames, lambda file: modules.get(file) or (site_module(file) if site_module else ""))

    def add_last_words(
        self, ring: int, since: float, at: float, thread: int, text: str, source: str, site_module: Any
    ) -> None:
        """Takes in the latest stack of a file that a crashed process left while the loop of this ring ran.

        ``since``: the loop's word W_RUNNING (monotonic s). ``at``: when the file was last written (monotonic s).
        ``thread``: the number of the loop's thread in dumps.
        """
        for dumped in reversed(parse_dump(text)):
            below = dumped.below_loop() if dumped.thread == thread else None
            if not below:
                continue
            frames, at = self._named(below, site_module), max(at, since)
            stack = StackTaken(at, frames, [], 0, {}, source, at, culprit_of(frames, []))
            last = self._last.get(ring)
            before = self._seen.get(last) if last is not None else None
            if last is None or before is None or last[1] < since - 0.001 or before.ended:
                last = self._last[ring] = (ring, since)
            seen = self._events.at(*last)
            if seen.callback in ("", UNKNOWN_LABEL):
                seen.callback = self._callback_of(ring, since, stack.frames)
            seen.stacks.append(stack)
            return

    def add_sample(self, ring: int, sample: Sample) -> None:
        """Takes in a measurement from outside, made while the process could not measure itself (see ``Sample``)."""
        self._outside.append((ring, sample))

    def add_suspension(self, begin: float, until: float) -> None:
        """The process was seen stopped from outside, between these moments (monotonic s)."""
        self.suspensions.append((begin, until))

    # -- answers

    def culprit(self, ring: int, start: float, end: float | None = None) -> str:
        """The code that held the loop longest in the run that started at ``start``.

        While the run lasts: the code that holds the loop now. ``end``: the run's end, if ``take_loop`` has not had it
        yet. Both in monotonic s.
        """
        end = self._end_of(ring, start) if end is None else end
        return self._held(self._stacks(ring, start, end), start, end)[0]

    def _stacks(self, ring: int, start: float, end: float) -> list[StackTaken]:
        """All stacks of a run, in the order of the times that they stand for."""
        seen = self._seen.get((ring, start))
        dumped = [stack for dump_ring, stack in self._dumps if dump_ring == ring and start <= stack.at <= end]
        return sorted([*(seen.stacks if seen is not None else ()), *dumped], key=lambda stack: stack.since)

    @staticmethod
    def _held(stacks: list[StackTaken], start: float, end: float) -> tuple[str, dict[str, float]]:
        """The culprit of a run, and the seconds for which each code held the loop. ``end``: _NEVER while it lasts."""
        until = end if end != _NEVER else max([start, *(stack.at for stack in stacks)])
        held = held_by([(stack.since, stack.culprit) for stack in stacks], start, until)
        held.pop("", None)
        if end == _NEVER:
            latest = max(stacks, key=lambda stack: stack.at if stack.culprit else start, default=None)
            return (latest.culprit if latest is not None else "") or UNKNOWN_LABEL, held
        return next(iter(held), UNKNOWN_LABEL), held

    def active_span(self, ring: int, start: float) -> SpanContext | None:
        """The application's span that was active when the first stack of a run was taken; None where there was none."""
        seen = self._seen.get((ring, start))
        return seen.span if seen is not None else None

    def limit(self, ring: int, start: float, end: float, callback: str, threshold: float) -> float:
        """The threshold (s) for a run of this callback, in a loop with this ``threshold``.

        A pattern that matches the callback decides; where none does, a pattern that matches the run's culprit.
        """
        limit = self._threshold_for(callback, threshold)
        if limit != threshold:
            return limit
        return self._threshold_for(self.culprit(ring, start, end), threshold)

    def watchdog_read_until(self, until: float) -> None:
        """Called when all events that the watchdog wrote up to ``until`` (monotonic s) were taken in. Infinite: no more
        will come.
        """
        self._read_until = until
        if until == math.inf and self.fetch_dump is not None:
            self.fetch_dump(True)
            self.fetch_dump = None
        self._settle()

    @property
    def watchdog_known_until(self) -> float:
        """The moment (monotonic s) up to which all events of the watchdog have been read."""
        return self._read_until

    def is_known(self, ring: int, start: float, end: float) -> bool:
        """Whether the culprit of a run that has ended is known, or never will be.

        A stack is taken before its run ends, and written a little later. The loop's own record may be read in between.
        """
        if time.monotonic() - end > _PATIENCE:
            return True
        if self.fetch_dump is not None:
            self.fetch_dump(False)
            if self.fetch_dump is not None:
                return False
        return self._read_until > end or (time.monotonic() - end > _WRITTEN and self._has_last_stack(ring, start, end))

    def _has_last_stack(self, ring: int, start: float, end: float) -> bool:
        """Whether no further stack of this run is to be expected: the time between two stacks of a run doubles.

        Where another stack was due and a call held the GIL, the watchdog took it when the call returned. On a busy
        machine that stack may be written long after the run's end has been read.
        """
        stacks = self._stacks(ring, start, end)
        if not stacks or self._held(stacks, start, end)[0] == UNKNOWN_LABEL:
            return False
        return start + 2 * (max(stack.at for stack in stacks) - start) > end

    def _end_of(self, ring: int, start: float) -> float:
        slow = self._ended.get((ring, start))
        return slow.run[2] if slow is not None else _NEVER

    def lookup(self, ring: int, start: float, end: float | None = None) -> StallInfo | None:
        """What is known of the run that started at ``start``, ended or not; None if the watchdog saw nothing of it.

        ``end``: as for ``culprit``.
        """
        end = self._end_of(ring, start) if end is None else end
        seen = self._seen.get((ring, start))
        stacks = self._stacks(ring, start, end)
        samples, over = self._samples(ring, start, end)
        slow = self._ended.get((ring, start))
        if seen is None and not stacks and not samples and slow is None:
            return None
        seen = seen or Seen()
        until = end
        if end == _NEVER:
            until = max([start, *(stack.at for stack in stacks), *(float(sample[0]) for sample in samples)])
        return StallInfo(
            ring,
            start,
            end,
            seen.ident or (slow.run[3] if slow is not None else 0.0),
            seen.callback or (self.label(slow.run[3]) if slow is not None else UNKNOWN_LABEL),
            *self._held(stacks, start, end),
            stacks,
            parts_of(start, until, samples, self._collections, self.suspensions)._replace(
                throttled=throttled_during(start, until, self._events.throttles)
            ),
            seen.span,
            seen.suppressed,
            end != _NEVER and over,
            slow.bill if slow is not None else None,
        )

    def _samples(self, ring: int, start: float, end: float) -> tuple[list[Sample], bool]:
        """The measurements around a run, and whether there is one from after its end."""
        seen = self._seen.get((ring, start))
        samples = [sample for sample in seen.samples if sample] if seen is not None else []
        for begin, until, _, loops in self._events.lateness:
            if until >= start and begin <= end:
                for loop, before, after in loops:
                    if loop == ring:
                        samples += [sample for sample in (before, after) if sample]
        # Measurements from outside use other clocks (the process's CPU time in ticks), so the two are never mixed.
        for those in (self._events.samples, self._outside) if not samples else (self._events.samples,):
            samples += [sample for other, sample in those if other == ring and start - 1 <= sample[0] <= end + 1]
        return samples, any(float(sample[0]) >= end for sample in samples)

    def in_progress(self, ring: int, running_since: float) -> StallInfo | None:
        """The stall that the ring's loop is in now, given its word W_RUNNING; None where none was seen."""
        if not running_since:
            return None
        last = self._last.get(ring)
        if last is not None:
            seen = self._seen.get(last)
            if seen is not None and last[1] >= running_since - 0.001:
                if not seen.ended and last not in self._ended:
                    return self.lookup(*last)
                # This stall is over, but the loop has not polled since: another run may stall by now.
                running_since = max(running_since, seen.ended, self._end_of(*last) if last in self._ended else 0.0)
        for dump_ring, stack in reversed(self._dumps):
            if dump_ring == ring and stack.at >= running_since:
                info = self.lookup(ring, running_since)
                return info._replace(callback=outermost_of(stack.frames)) if info is not None else None
        return None

    def lasts(self, stack: StallStack) -> bool:
        """Whether this stack is of a stall whose end was not read yet. (A pattern may allow a run more time.)"""
        ring, start, at = stack.ring, stack.start, stack.taken.at
        if any(number == ring and begin <= at <= slow.run[2] for (number, begin), slow in self._ended.items()):
            return False
        return ring not in self._limits or at - start >= self.limit(ring, start, at, stack.callback, self._limits[ring])

    def slow_runs(self) -> list[tuple[int, float]]:
        """Ring and start of the latest slow runs that have ended, in the order in which they were read."""
        return list(self._ended)

    def pair_of(self, ring: int, start: float) -> tuple[str, str]:
        """Callback and culprit of a slow run that has ended."""
        slow = self._ended.get((ring, start))
        return (self.label(slow.run[3]) if slow is not None else UNKNOWN_LABEL), self.culprit(ring, start)

    def length_of(self, ring: int, start: float) -> float:
        """The duration (s) of a slow run that has ended; 0 where its end was not read."""
        slow = self._ended.get((ring, start))
        return slow.run[2] - slow.run[1] if slow is not None else 0.0

    def unfinished(self) -> list[tuple[int, float]]:
        """Ring and start of the stalls without an end: they last, or the process was killed during them."""
        return [key for key, seen in self._seen.items() if not seen.ended and key not in self._ended]

    def ran(self, start: float, end: float) -> float:
        """Seconds between two moments (monotonic s), without the time in which the process is known to have stopped."""
        still, until = 0.0, start
        for begin, over in sorted(self.suspensions):
            still += max(0.0, min(over, end) - max(begin, until))
            until = max(until, over)
        return end - start - still

    def is_suspension(self, start: float, end: float) -> bool:
        """Whether a run was long only because the whole process stood still. It does not count as slow then."""
        return parts_of(start, end, (), (), self.suspensions).cause == SUSPENDED

    def span_details(
        self, ring: int, start: float, end: float | None = None
    ) -> tuple[dict[str, Any], list[tuple[float, dict[str, Any]]], bool]:
        """The attributes of a slow run's span, its ``asyncio.stack`` events (each: monotonic s, attributes), and
        whether nothing more will come. ``end``: as for ``culprit``.
        """
        info = self.lookup(ring, start, end)
        if info is None:
            return {}, [], False
        parts = info.parts
        attributes: dict[str, Any] = {"asyncio.stall.culprit": info.culprit}
        if info.others:
            held = {info.culprit: info.held.get(info.culprit, 0.0), **info.others}
            attributes["asyncio.stall.parts.culprits"] = list(held)
            attributes["asyncio.stall.parts.durations"] = list(held.values())
        if parts.cause:
            attributes["asyncio.stall.cause"] = parts.cause
            if parts.guess:
                attributes["asyncio.stall.cause_is_guess"] = True
        if info.holder is not None:
            attributes["asyncio.stall.holder"] = str(info.holder)
        for name, value in (("cpu_time", parts.cpu), ("gc_time", parts.gc), ("processor_wait", parts.processor_wait)):
            if value >= 0.0:
                attributes[f"asyncio.stall.{name}"] = value
        if parts.throttled > 0.0:
            attributes["asyncio.stall.throttled"] = parts.throttled
        events = [(stack.at, stack.attributes) for stack in info.stacks if stack.frames]
        return attributes, events, info.complete
