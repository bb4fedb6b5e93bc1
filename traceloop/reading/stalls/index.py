"""Stalls and slow runs of one process: what the watchdog saw, joined with what the loops recorded.

The watchdog's findings (``R_EVENT`` records of kind stack, stall_end, late, modules) name a run by ring and start; the
start is the very double of the run's record. A stack is written before its run ends, so whoever reads the loop's ring
first and the process ring after it knows the culprit of every run that it has. What tells of the end (the last
measurements) follows within about a tenth of a second; until then an answer is not ``complete``.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from ...record.frames import Frame, culprit_of
from ..decoding.decoded import Collection, Decoded, Event, SpanContext
from .causes import SUSPENDED, Parts, Sample, parts_of
from .dumps import name_frames, parse_dump
from .who_waited import Bill, Blame, SlowRun

UNKNOWN: Final = "unknown"

_MAX_RUNS: Final = 4096
_MAX_STACKS: Final = 32
_MAX_PAIRS: Final = 2000
_MAX_COLLECTIONS: Final = 4096
_MAX_LATE: Final = 1024
_OTHER: Final = "other"
_NEVER: Final = float("inf")
# How long a slow run is not counted because more may be learnt about it, s.
_PATIENCE: Final = 1.0

#: Callbacks that only wake somebody: what they wake is the victim.
PLUMBING: Final = frozenset(
    (
        "asyncio.futures._set_result_unless_cancelled",
        "asyncio.futures._chain_future.<locals>._set_state",
        "asyncio.tasks._release_waiter",
        "traceloop.recording.offloads.executors.Offload.deliver",
        "traceloop.recording.offloads.Offload.deliver",  # in records of earlier versions
        "_asyncio.Future.set_result",
        "asyncio.futures.Future.set_result",
    )
)


class StackTaken(NamedTuple):
    """One stack. at: s; frames: outermost first, file, line, module, qualname; awaiting: of the coroutines that await
    the task, nearest first. ready: handles that waited. descriptors: callbacks of descriptors that the kernel had
    ready, with how many (an estimate). source: "watchdog", or "dump" for one asked for from outside.
    """

    at: float
    frames: list[Frame]
    awaiting: list[Frame]
    ready: int
    descriptors: dict[str, int]
    source: str

    @property
    def text(self) -> str:
        """As Python writes a traceback, without the source's lines."""
        awaiting = [
            f'  File "{file}", line {line}, in {_dotted(*rest)} (awaits)' for file, line, *rest in self.awaiting
        ]
        frames = [f'  File "{file}", line {line}, in {_dotted(*rest)}' for file, line, *rest in self.frames]
        return "\n".join(["Stack (most recent call last):", *reversed(awaiting), *frames])


def _dotted(module: str, qualname: str) -> str:
    return f"{module}.{qualname}" if module else qualname


class StallInfo(NamedTuple):
    """What is known of one slow run.

    callback: its label. culprit: TELEMETRY's label, ``unknown`` where no stack was had. stacks: in order. parts: cause
    and measured parts. span: the application's that was active when the first stack was taken, without a number, or
    None. suppressed: stacks left out so far in this process. complete: nothing more will
    come. bill: what it cost others, None where its end was not read yet.
    """

    ring: int
    start: float
    ident: float
    callback: str
    culprit: str
    stacks: list[StackTaken]
    parts: Parts
    span: SpanContext | None
    suppressed: int
    complete: bool
    bill: Bill | None


class StallStack(NamedTuple):
    """A stack as it comes in, with what is known of its run at that moment: as in ``StallInfo``."""

    ring: int
    start: float
    ident: float
    callback: str
    culprit: str
    taken: StackTaken
    span: SpanContext | None


class _Seen:
    """What the watchdog said of one run."""

    __slots__ = ("callback", "culprit", "ended", "ident", "samples", "span", "stacks", "suppressed")

    def __init__(self) -> None:
        self.ident = 0.0
        self.callback = ""
        self.culprit = ""
        self.samples: list[Sample] = []
        self.stacks: list[StackTaken] = []
        self.span: SpanContext | None = None
        self.suppressed = 0
        self.ended = 0.0


class Congestion:
    """Iterations that were long for having many handles, none of them slow."""

    __slots__ = ("callbacks", "iterations", "longest", "seconds")

    def __init__(self) -> None:
        self.iterations = 0
        self.seconds = 0.0
        self.longest = 0.0
        self.callbacks = 0  # in the longest


class Blocked:
    """One entry of the matrix of blockers and victims: handles and seconds, exactly, and of the blocker's own handles
    at most.
    """

    __slots__ = ("at_most", "exact", "handles", "own_handles")

    def __init__(self) -> None:
        self.handles = 0
        self.exact = 0.0
        self.own_handles = 0
        self.at_most = 0.0


class StallIndex:
    """All that is known of the slow runs of one process. For one thread.

    matrix: by (callback, culprit, victim). congestion: by ring. suspensions: (from, to) in which the process stood
    still as a whole. late: seconds by which the watchdog came late, by reason.
    """

    def __init__(self, label_of: Callable[[int], str], threshold_for: Callable[[str, float], float]) -> None:
        """``label_of``: the label of a site number. ``threshold_for``: seconds from which a callback is slow, by its
        label, given the loop's own threshold.
        """
        self._label_of = label_of
        self._threshold_for = threshold_for
        self._seen: OrderedDict[tuple[int, float], _Seen] = OrderedDict()
        self._last: dict[int, tuple[int, float]] = {}
        self._late: deque[tuple[float, float, str, list[Any]]] = deque(maxlen=_MAX_LATE)
        self._collections: deque[tuple[float, float]] = deque(maxlen=_MAX_COLLECTIONS)
        self._modules: dict[str, str] = {}
        self._dumps: deque[tuple[int, StackTaken]] = deque(maxlen=64)
        self._more: deque[tuple[int, Sample]] = deque(maxlen=1024)
        self._outside: deque[tuple[int, Sample]] = deque(maxlen=1024)
        self._blames: dict[int, Blame] = {}
        self._ended: OrderedDict[tuple[int, float], SlowRun] = OrderedDict()
        self._bills: list[tuple[int, SlowRun]] = []
        self._limits: dict[int, float] = {}
        self._read_until = 0.0
        #: Stacks that came in, for who tells of stalls while they last; the latest of them.
        self.fresh: deque[StallStack] = deque(maxlen=_MAX_STACKS * 8)
        #: Fetches a dump that was asked for, if it is there by now (True: take what there is); None where none was.
        self.fetch_dump: Callable[[bool], None] | None = None
        self.suspensions: deque[tuple[float, float]] = deque(maxlen=256)
        self.matrix: dict[tuple[str, str, str], Blocked] = {}
        self.congestion: dict[int, Congestion] = {}
        self.late: dict[str, float] = {}

    # -- what was recorded

    def take_process(self, decoded: Decoded) -> None:
        """Takes in what the process ring said."""
        self.take_collections(decoded.collections)
        for event in decoded.events:
            self._take_event(event)

    def take_collections(self, collections: Iterable[Collection]) -> None:
        """Garbage collections, of whichever ring."""
        self._collections.extend((item.start, item.duration) for item in collections)

    def take_loop(self, ring: int, decoded: Decoded, threshold: float) -> list[SlowRun]:
        """Takes in what a loop's ring said, whose loop has this threshold; returns the slow runs that are new.

        To be called in the order of the record, and before ``take_process`` for what was read after it.
        """
        self.take_collections(decoded.collections)
        self._limits[ring] = threshold
        blame = self._blames.get(ring)
        if blame is None:
            blame = self._blames[ring] = Blame(
                lambda run: self.limit(ring, run[1], run[2], self.label(run[3]), self._limits[ring]),
                lambda ident: self.label(ident) in PLUMBING,
            )
        lowest = min(threshold, self.lowest_pattern)
        slow = blame.feed(decoded.runs, lowest) if decoded.longest_s >= lowest or blame.is_charging else []
        for run in slow:
            self._bills.append((ring, run))
            self._ended[ring, run.run[1]] = run
            if len(self._ended) > _MAX_RUNS:
                self._ended.popitem(last=False)
        self._find_congestion(ring, decoded, slow, threshold)
        if decoded.closed:
            blame.finish()
        self._settle()
        return slow

    #: The lowest threshold that any callback pattern has, s.
    lowest_pattern: float = float("inf")

    def label(self, ident: float) -> str:
        """The label of a run's ident."""
        return self._label_of(int(ident % 65536.0))

    def _find_congestion(self, ring: int, decoded: Decoded, slow: list[SlowRun], threshold: float) -> None:
        blocked: set[int] | None = None
        for iteration in [each for each in decoded.iterations if each[2] - each[1] >= threshold]:
            length = iteration.end - iteration.start
            if iteration.callbacks < 2:
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
        """Enters the bills that are closed into the matrix."""
        rest: list[tuple[int, SlowRun]] = []
        for ring, slow in self._bills:
            if not slow.closed or not self.is_known(ring, slow.run[1], slow.run[2]):
                rest.append((ring, slow))
                continue
            blocker, culprit = self.label(slow.run[3]), self.culprit(ring, slow.run[1])
            for ident, (handles, exact, own, most) in slow.bill.victims.items():
                key = (blocker, culprit, self.label(ident))
                if key not in self.matrix and len(self.matrix) >= _MAX_PAIRS:
                    key = (_OTHER, _OTHER, _OTHER)
                entry = self.matrix.setdefault(key, Blocked())
                entry.handles += int(handles)
                entry.exact += exact
                entry.own_handles += int(own)
                entry.at_most += most
        self._bills = rest

    def finish(self) -> None:
        """Nothing more will be read: the bills that are open are entered as they stand."""
        self._read_until = math.inf
        for blame in self._blames.values():
            blame.finish()
        self._settle()

    # -- what the watchdog said

    def _take_event(self, event: Event) -> None:
        data = event.data
        kind = data.get("kind")
        try:
            if kind == "stack":
                self._take_stack(data)
            elif kind == "stall_end":
                seen = self._at(int(data["ring"]), float(data["run"]))
                seen.ended = float(data["at"])
                seen.samples += [data["before"], *data["samples"], data["after"]]
            elif kind == "late":
                self._take_late(data)
            elif kind == "samples":
                for ring, sample in data["loops"]:
                    self._more.append((int(ring), sample))
            elif kind == "modules":
                self._modules.update({str(file): str(module) for file, module in data["files"].items()})
        except (KeyError, TypeError, ValueError, AttributeError):
            pass  # of another version, or damaged

    def _at(self, ring: int, start: float) -> _Seen:
        seen = self._seen.get((ring, start))
        if seen is None:
            seen = self._seen[ring, start] = _Seen()
            if len(self._seen) > _MAX_RUNS:
                self._seen.popitem(last=False)
        return seen

    def _take_stack(self, data: Mapping[str, Any]) -> None:
        ring, start = int(data["ring"]), float(data["run"])
        seen = self._at(ring, start)
        self._last[ring] = (ring, start)
        seen.ident = float(data["ident"])
        seen.callback = str(data["callback"])
        seen.culprit = seen.culprit or str(data["culprit"])
        seen.suppressed = int(data["suppressed"])
        seen.samples += [data["before"], *data["samples"]]
        span = data.get("span")
        if seen.span is None and span is not None:
            state = str(span[3]) if len(span) > 3 else ""  # older records have none
            seen.span = SpanContext(0, str(span[0]), str(span[1]), int(span[2]), state)
        descriptors = data.get("descriptors") or {}
        taken = StackTaken(
            float(data["at"]),
            _frames(data["frames"]),
            _frames(data.get("awaiting") or ()),
            int(data["ready"]),
            {str(name): int(count) for name, count in descriptors.items()},
            "watchdog",
        )
        if len(seen.stacks) < _MAX_STACKS:
            seen.stacks.append(taken)
        culprit = seen.culprit or UNKNOWN
        self.fresh.append(StallStack(ring, start, seen.ident, seen.callback, culprit, taken, seen.span))

    def _take_late(self, data: Mapping[str, Any]) -> None:
        begin, until, reason = float(data["from"]), float(data["to"]), str(data["reason"])
        self.late[reason] = self.late.get(reason, 0.0) + max(0.0, until - begin)
        if reason == "suspended":
            self.suspensions.append((begin, begin + float(data["held"])))
        self._late.append((begin, until, reason, list(data["loops"])))

    # -- what was seen from outside

    def add_dump(
        self,
        at: float,
        text: str,
        ring_of: Callable[[int], int | None],
        site_module: Any = None,
        since: Mapping[int, float] | None = None,
    ) -> list[StallStack]:
        """A dump that the process wrote at ``at`` when it was asked to; returns the stacks of stalls in it.

        ``ring_of``: the ring of a loop's thread, by the thread's number in the dump. ``site_module``: the module of
        a file, as the site log has it. ``since``: by ring, the W_RUNNING of a loop for which it was asked.
        """
        out: list[StallStack] = []

        for thread in parse_dump(text):
            below, ring = thread.below_loop(), ring_of(thread.thread)
            if below and ring is not None:
                frames = self._named(below, site_module)
                taken = StackTaken(at, frames, [], 0, {}, "dump")
                self._dumps.append((ring, taken))
                if since is not None and ring in since:
                    names = outermost_of(frames), culprit_of(frames, []) or UNKNOWN
                    out.append(StallStack(ring, since[ring], 0.0, *names, taken, None))
        self.fresh.extend(out)
        return out

    def _named(self, frames: list[tuple[str, int, str]], site_module: Any) -> list[Frame]:
        return name_frames(frames, lambda file: self._modules.get(file) or (site_module(file) if site_module else ""))

    def add_last_words(
        self, ring: int, since: float, at: float, thread: int, text: str, source: str, site_module: Any
    ) -> None:
        """What a crashed process left in a file, while the loop of this ring ran. ``since``: of its
        word W_RUNNING; ``at``: when the file was written last; ``thread``: its thread's number in dumps. The latest
        stack of the file is taken.
        """
        for dumped in reversed(parse_dump(text)):
            below = dumped.below_loop() if dumped.thread == thread else None
            if not below:
                continue
            stack = StackTaken(max(at, since), self._named(below, site_module), [], 0, {}, source)
            last = self._last.get(ring)
            if last is None or last[1] < since - 0.001 or self._seen[last].ended:
                last = self._last[ring] = (ring, since)
            seen = self._at(*last)
            if seen.callback in ("", UNKNOWN):
                # The frame that the loop called: a task's coroutine, or the function itself.
                _, _, module, qualname = stack.frames[0]
                seen.callback = f"{module}.{qualname}" if module else qualname
            seen.culprit = seen.culprit or culprit_of(stack.frames, [])
            seen.stacks.append(stack)
            return

    def add_sample(self, ring: int, sample: Sample) -> None:
        """What was measured from outside while the process could not: clock, thread's CPU time, process's CPU time,
        waiting for a processor, times put on one.
        """
        self._outside.append((ring, sample))

    def add_suspension(self, begin: float, until: float) -> None:
        """The process was seen stopped, from outside."""
        self.suspensions.append((begin, until))

    # -- answers

    def culprit(self, ring: int, start: float, end: float | None = None) -> str:
        """The culprit of the run that started at ``start``. ``end``: its end, if ``take_loop`` has not had it yet."""
        end = self._end_of(ring, start) if end is None else end
        seen = self._seen.get((ring, start))
        first = seen.stacks[0].at if seen is not None and seen.stacks else _NEVER
        for dump_ring, stack in self._dumps:
            # Under a C call the watchdog's own stack comes after it: the dump that was asked for was the first.
            if dump_ring == ring and start <= stack.at <= min(end, first):
                return culprit_of(stack.frames, []) or UNKNOWN
        return (seen.culprit if seen is not None else "") or UNKNOWN

    def active_span(self, ring: int, start: float) -> SpanContext | None:
        """The application's span that was active when the first stack of a run was taken; None where there was none."""
        seen = self._seen.get((ring, start))
        return seen.span if seen is not None else None

    def limit(self, ring: int, start: float, end: float, callback: str, threshold: float) -> float:
        """Seconds from which a run of this callback is slow, in a loop with this threshold: by a pattern that knows
        the callback; else by one that knows the run's culprit.
        """
        limit = self._threshold_for(callback, threshold)
        if limit != threshold:
            return limit
        return self._threshold_for(self.culprit(ring, start, end), threshold)

    def watchdog_read_until(self, until: float) -> None:
        """What the watchdog wrote up to its turn at ``until`` has been taken in; infinite: nothing more will come."""
        self._read_until = until
        if until == math.inf and self.fetch_dump is not None:
            self.fetch_dump(True)
            self.fetch_dump = None
        self._settle()

    def is_known(self, ring: int, start: float, end: float) -> bool:
        """Whether the culprit of a run that has ended is known, or will not be. A stack is taken before a run ends and
        written a little later; the loop's own record may be read in between.
        """
        if time.monotonic() - end > _PATIENCE:
            return True
        if self.fetch_dump is not None:
            self.fetch_dump(False)
            if self.fetch_dump is not None:
                return False
        return self._read_until > end or self.culprit(ring, start, end) != UNKNOWN

    def _end_of(self, ring: int, start: float) -> float:
        slow = self._ended.get((ring, start))
        return slow.run[2] if slow is not None else _NEVER

    def lookup(self, ring: int, start: float, end: float | None = None) -> StallInfo | None:
        """What is known of the run that started at ``start``, ended or not; None if nothing was seen of it. ``end``: as
        for ``culprit``.
        """
        end = self._end_of(ring, start) if end is None else end
        seen = self._seen.get((ring, start))
        dumped = [stack for dump_ring, stack in self._dumps if dump_ring == ring and start <= stack.at <= end]
        samples, over = self._samples(ring, start, end)
        slow = self._ended.get((ring, start))
        if seen is None and not dumped and not samples and slow is None:
            return None
        seen = seen or _Seen()
        stacks = sorted(seen.stacks + dumped, key=lambda stack: stack.at)
        until = end
        if end == _NEVER:
            until = max([start, *(stack.at for stack in stacks), *(float(sample[0]) for sample in samples)])
        return StallInfo(
            ring,
            start,
            seen.ident or (slow.run[3] if slow is not None else 0.0),
            seen.callback or (self.label(slow.run[3]) if slow is not None else UNKNOWN),
            self.culprit(ring, start, end),
            stacks,
            parts_of(start, until, samples, self._collections, self.suspensions),
            seen.span,
            seen.suppressed,
            end != _NEVER and over,
            slow.bill if slow is not None else None,
        )

    def _samples(self, ring: int, start: float, end: float) -> tuple[list[Sample], bool]:
        """The measurements around a run, and whether there is one from after its end."""
        seen = self._seen.get((ring, start))
        samples = [sample for sample in seen.samples if sample] if seen is not None else []
        for begin, until, _, loops in self._late:
            if until >= start and begin <= end:
                for loop, before, after in loops:
                    if loop == ring:
                        samples += [sample for sample in (before, after) if sample]
        # From outside the clocks are others (the process's CPU time counts in ticks): not to be mixed with these.
        for those in (self._more, self._outside) if not samples else (self._more,):
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
                # It is over, and the loop has not been in its poll since: another may stall by now.
                running_since = max(running_since, seen.ended, self._end_of(*last) if last in self._ended else 0.0)
        for dump_ring, stack in reversed(self._dumps):
            if dump_ring == ring and stack.at >= running_since:
                info = self.lookup(ring, running_since)
                return info._replace(callback=outermost_of(stack.frames)) if info is not None else None
        return None

    def lasts(self, stack: StallStack) -> bool:
        """Whether this stack is of a stall (a pattern may allow its run more), and no end of that was read yet."""
        ring, start, at = stack.ring, stack.start, stack.taken.at
        if any(number == ring and begin <= at <= slow.run[2] for (number, begin), slow in self._ended.items()):
            return False
        return ring not in self._limits or at - start >= self.limit(ring, start, at, stack.callback, self._limits[ring])

    def slow_runs(self) -> list[tuple[int, float]]:
        """Ring and start of the slow runs that have ended, in the order in which they were read; the latest of them."""
        return list(self._ended)

    def length_of(self, ring: int, start: float) -> float:
        """Seconds of a slow run that has ended; 0 where no end was read."""
        slow = self._ended.get((ring, start))
        return slow.run[2] - slow.run[1] if slow is not None else 0.0

    def unfinished(self) -> list[tuple[int, float]]:
        """Ring and start of the stalls of which no end was read: they last, or their process was killed in them."""
        return [key for key, seen in self._seen.items() if not seen.ended and key not in self._ended]

    def is_suspension(self, start: float, end: float) -> bool:
        """Whether a run was long only because the process stood still as a whole: no slow run, then."""
        return parts_of(start, end, (), (), self.suspensions).cause == SUSPENDED

    def span_details(
        self, ring: int, start: float, end: float | None = None
    ) -> tuple[dict[str, Any], list[tuple[float, dict[str, Any]]], bool]:
        """Attributes and ``asyncio.stack`` events (s, attributes) of a slow run's span, and whether nothing more will
        come. ``end``: the run's end, if ``take_loop`` has not had it yet.
        """
        info = self.lookup(ring, start, end)
        if info is None:
            return {}, [], False
        parts = info.parts
        attributes: dict[str, Any] = {"asyncio.stall.culprit": info.culprit}
        if parts.cause:
            attributes["asyncio.stall.cause"] = parts.cause
            if parts.guess:
                attributes["asyncio.stall.cause_is_guess"] = True
        for name, value in (("cpu_time", parts.cpu), ("gc_time", parts.gc), ("processor_wait", parts.processor_wait)):
            if value >= 0.0:
                attributes[f"asyncio.stall.{name}"] = value
        events = [(stack.at, {"code.stacktrace": stack.text}) for stack in info.stacks if stack.frames]
        return attributes, events, info.complete


def outermost_of(frames: list[Frame]) -> str:
    """The callback of a run, by the outermost frame of its stack: the label's function, or what a wrapper calls."""
    return _dotted(frames[0][2], frames[0][3]) if frames else UNKNOWN


def _frames(items: Iterable[Any]) -> list[Frame]:
    return [(str(file), int(line), str(module), str(qualname)) for file, line, module, qualname in items]
