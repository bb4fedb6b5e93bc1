"""The watchdog's events about the stalls of a process, taken in one by one from the process ring."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ...record.frames import Frame, culprit_frame
from ...record.holders import KINDS, Holder
from ...record.sites import UNKNOWN_LABEL
from ...record.throttles import Held
from ..decoding.decoded import Event, SpanContext
from ..source_lines import source_line
from ..statistics.throttling import held_of
from .causes import Sample, is_sample
from .model import GilHeld, OtherThreads, ProcessorTime, StackTaken, StallStack

_MAX_RUNS: Final = 4096
_MAX_STACKS: Final = 32
_MAX_LATE: Final = 1024
_MAX_MODULES: Final = 20_000
_MAX_REASONS: Final = 16
_MAX_SAMPLES: Final = 4096
# Where a thread waits for a processor for this share of the time, the machine is busy.
_BUSY_MACHINE: Final = 0.1
_MAX_HELD: Final = 4096
_MAX_THREADS: Final = 64
_MAX_NAMES: Final = 8
_MAX_GIL_HOLDERS: Final = 256
# Of one event. The watchdog looks some thousand times a minute; a number that it can never reach is damage.
_MAX_TURNS: Final = 1 << 32
# Seconds that no clock reaches, monotonic or wall (the year 2242): a later time is damage.
_LATEST: Final = 2.0**33


class Seen:
    """What the watchdog recorded about one run."""

    __slots__ = ("callback", "ended", "ident", "samples", "span", "stacks", "suppressed")

    def __init__(self) -> None:
        self.ident = 0.0
        self.callback = ""
        self.samples: list[Sample] = []
        self.stacks: list[StackTaken] = []
        self.span: SpanContext | None = None
        self.suppressed = 0
        self.ended = 0.0


class WatchdogEvents:
    """The events of one process, by run. Not thread-safe. Times are monotonic s.

    seen: by ring and start of the run. last: by ring, the key of the latest stall. lateness: from, until, reason and
    measurements of each time that the watchdog came late. late: seconds of that by reason. samples: further
    measurements by ring. processor: by ring and the time of the first measurement of its loop, the loop's thread's
    processor time since then. gil: how the watchdog found the GIL. suspensions: (from, to) in which the whole process
    stood still. modules: by file. fresh: the latest stacks that came in, for code that reports stalls while they last.
    """

    def __init__(self) -> None:
        self.seen: OrderedDict[tuple[int, float], Seen] = OrderedDict()
        self.last: dict[int, tuple[int, float]] = {}
        self.lateness: deque[tuple[float, float, str, list[Any]]] = deque(maxlen=_MAX_LATE)
        self.late: dict[str, float] = {}
        self.samples: deque[tuple[int, Sample]] = deque(maxlen=1024)
        self.processor: dict[tuple[int, float], ProcessorTime] = {}
        self.gil = GilHeld()
        self.suspensions: deque[tuple[float, float]] = deque(maxlen=256)
        self.throttles: deque[Held] = deque(maxlen=_MAX_HELD)
        self.modules: dict[str, str] = {}
        self.fresh: deque[StallStack] = deque(maxlen=_MAX_STACKS * 8)

    def take(self, event: Event) -> None:
        """Takes in one event. An event of another version, or a damaged one, is ignored."""
        data = event.data
        kind = data.get("kind")
        try:
            if kind == "stack":
                self._take_stack(data)
            elif kind == "stall_end":
                seen = self.at(int(data["ring"]), _moment(data["run"]))
                seen.ended = _moment(data["at"])
                _extend(seen.samples, [data["before"], *data["samples"], data["after"]])
            elif kind == "throttled":
                self.throttles.extend(held_of(data))
            elif kind == "late":
                self._take_late(data)
            elif kind == "samples":
                for ring, sample in data["loops"]:
                    if is_sample(sample):
                        self.samples.append((int(ring), sample))
            elif kind == "processor":
                for ring, first, last in data["loops"]:
                    self._take_processor(int(ring), first, last)
            elif kind == "gil":
                self._take_gil(data)
            elif kind == "modules" and len(self.modules) < _MAX_MODULES:
                self.modules.update({str(file): str(module) for file, module in data["files"].items()})
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            pass

    def at(self, ring: int, start: float) -> Seen:
        """What is known of a run; an empty entry is made at the first call."""
        seen = self.seen.get((ring, start))
        if seen is None:
            seen = self.seen[ring, start] = Seen()
            if len(self.seen) > _MAX_RUNS:
                self.seen.popitem(last=False)
        return seen

    def _take_stack(self, data: Mapping[str, Any]) -> None:
        ring, start = int(data["ring"]), _moment(data["run"])
        seen = self.at(ring, start)
        self.last[ring] = (ring, start)
        seen.ident = _finite(data["ident"])
        seen.callback = str(data["callback"])
        seen.suppressed = int(data["suppressed"])
        _extend(seen.samples, [data["before"], *data["samples"]])
        span = data.get("span")
        if seen.span is None and span is not None:
            state = str(span[3]) if len(span) > 3 else ""  # older records have none
            seen.span = SpanContext(0, str(span[0]), str(span[1]), int(span[2]), state)
        descriptors = data.get("descriptors") or {}
        at, culprit = _moment(data["at"]), str(data["culprit"])
        due = _moment(data.get("due", at))  # older records have none
        taken = StackTaken(
            at,
            _frames(data["frames"]),
            _frames(data.get("awaiting") or ()),
            int(data["ready"]),
            {str(name): int(count) for name, count in descriptors.items()},
            "watchdog",
            max(start, min(due, at)),
            culprit,
            _threads(data.get("threads") or ()),
            _holder(data.get("holder")),
        )
        if len(seen.stacks) < _MAX_STACKS:
            seen.stacks.append(taken)
            if taken.frames:
                source_line(*taken.frames[-1][:2])  # read and cached now, since a program may delete its own files
        who = seen.callback, culprit or UNKNOWN_LABEL
        self.fresh.append(StallStack(ring, start, seen.ident, *who, taken, seen.span))

    def _take_late(self, data: Mapping[str, Any]) -> None:
        begin, until, reason = _moment(data["from"]), _moment(data["to"]), str(data["reason"])
        loops = [(int(ring), before, after) for ring, before, after in data["loops"]]
        if reason == "suspended":
            self.suspensions.append((begin, begin + _moment(data["held"])))
        length = max(0.0, until - begin)
        parts = {reason: length}
        if reason == "gil":
            parts["starved"] = starved = _starved_of(length, _moment(data.get("waited", 0.0)), loops)
            parts["gil"] -= starved
        for name, seconds in parts.items():
            if seconds and (name in self.late or len(self.late) < _MAX_REASONS):
                self.late[name] = self.late.get(name, 0.0) + seconds
        self.lateness.append((begin, until, reason, loops))

    def _take_processor(self, ring: int, first: Any, last: Any) -> None:
        if not is_sample(first) or not is_sample(last):
            return
        ran, process, waited = (float(last[each]) - float(first[each]) for each in (1, 2, 3))
        key = ring, float(first[0])
        if min(ran, waited, first[1], first[3]) >= 0.0 and (key in self.processor or len(self.processor) < _MAX_RUNS):
            self.processor[key] = ProcessorTime(ran, waited, max(0.0, process - ran))

    def _take_gil(self, data: Mapping[str, Any]) -> None:
        passed = max(0.0, _moment(data["to"]) - _moment(data["from"]))
        turns, waits, waited = int(data["turns"]), int(data["waits"]), _moment(data["waited"])
        if not 0 < waits <= turns <= _MAX_TURNS:
            return
        by_others = 0.0
        for _, first, last in data["loops"]:
            if is_sample(first) and is_sample(last):
                by_others = max(by_others, (last[2] - first[2]) - (last[1] - first[1]))
        self.gil.held_s += min(passed * waits / turns, by_others)
        self.gil.others_s += min(passed, by_others)
        self.gil.returns += max(0.0, _finite(data["records"])) if "records" in data else math.inf
        self.gil.waits += waits
        self.gil.waited_s += waited
        for each in _threads(data.get("threads") or ()):
            if not each.frames:
                continue
            key = each.title, culprit_frame(each.frames) or each.frames[-1]
            if key in self.gil.by or len(self.gil.by) < _MAX_GIL_HOLDERS:
                self.gil.by[key] = self.gil.by.get(key, 0.0) + each.cpu_s


def _starved_of(length: float, waited: float, loops: Iterable[tuple[int, Any, Any]]) -> float:
    """The part (s) of a wait for the GIL in which the GIL's holder itself waited for a processor.

    No thread of the process computes in that time. 0 where the watchdog did not wait for a processor when it woke
    (``waited``, s, of ``length``): then the GIL's holder was asleep.
    """
    if waited < _BUSY_MACHINE * length:
        return 0.0
    computed = 0.0
    for _, before, after in loops:
        if not (is_sample(before) and is_sample(after)):
            return 0.0
        computed = max(computed, float(after[2]) - float(before[2]))  # of the whole process
    return max(0.0, length - computed)


def _threads(data: Iterable[Any]) -> list[OtherThreads]:
    return [
        OtherThreads([str(name) for name in names[:_MAX_NAMES]], int(count), _finite(cpu), _frames(frames))
        for names, count, cpu, frames in list(data)[:_MAX_THREADS]
    ]


def _holder(data: Any) -> Holder | None:
    """The holder in a record; None where there is none, or one of an unknown kind."""
    if not isinstance(data, list | tuple) or len(data) < 4 or data[0] not in KINDS:
        return None
    kind, name, frame, guess = data[:4]
    return Holder(kind, str(name), next(iter(_frames([frame])), ("", 0, "", "")), bool(guess))


def _finite(value: Any) -> float:
    """A number of a record; ValueError for NaN and infinity."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _moment(value: Any) -> float:
    """A time or a duration of a record, s. Raises ValueError for a value that no clock shows."""
    number = _finite(value)
    if not 0.0 <= number < _LATEST:
        raise ValueError("not a time")
    return number


def _extend(samples: list[Sample], more: Iterable[Any]) -> None:
    samples += [sample for sample in more if is_sample(sample)]
    del samples[_MAX_SAMPLES:]


def _frames(items: Iterable[Any]) -> list[Frame]:
    return [(str(file), int(line), str(module), str(qualname)) for file, line, module, qualname in items]
