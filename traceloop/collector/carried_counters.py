"""Counters that outlive the collector which counted them.

Records that were overwritten cannot be counted again. So a collector notes its counters in the run directory, and a
collector that replaces it carries them on: it publishes the noted values plus what has come since. If counters began
again from what the rings hold, that would be worse than beginning from 0: Prometheus takes the fall for a reset, and
would count what the rings still hold a second time.

Records that were written after the last note, and overwritten before the next collector's first reading (2 s or so
later), are missing from the counters. Where a ring still holds them, none are.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

from traceloop.reading.statistics.histograms import Histogram
from traceloop.reading.statistics.parts import Sample
from traceloop.record import files

from .files import write_file

_EVERY_SECONDS = 2.0
# The time between two notes while nothing runs, s: only the watchdog's thread records something then.
_IDLE_SECONDS = 30.0
# The share of the time that notes may take.
_SHARE = 0.005
_MAX_BYTES = 64 << 20
# A new reader counts what was overwritten before it as dropped, although the reader before it had it in time.
_FROM_THE_READER = "traceloop_records_dropped_total"

_Key = tuple[str, tuple[tuple[str, str], ...]]
_Counts = tuple[list[int], float, float]


class CounterNotes:
    """Notes counters in the run directory. Called by one thread, under the statistics' lock."""

    def __init__(self, run_dir: str) -> None:
        self._path = os.path.join(run_dir, files.COUNTERS)
        self._next = time.monotonic() + _EVERY_SECONDS
        self._ran_at = 0.0

    def note(self, samples: Iterable[Sample], began_ns: int, ran_at: float) -> None:
        """Writes the counters, if it is time to. ``ran_at``: when any loop was last seen to have run something."""
        now = time.monotonic()
        if now < self._next + (_IDLE_SECONDS if ran_at == self._ran_at else 0.0):
            return
        self._ran_at = ran_at
        kept = [[*_key(sample), _plain(sample.value)] for sample in samples if _counts(sample)]
        write_file(self._path, json.dumps({"began_ns": began_ns, "counters": kept}))
        took = time.monotonic() - now
        self._next = now + max(_EVERY_SECONDS, took / _SHARE)


class CarriedCounters:
    """The counters of the collector before this one. began_ns: since when it had counted (wall clock)."""

    def __init__(self, counted: dict[_Key, float | _Counts], began_ns: int) -> None:
        self.began_ns = began_ns
        self._counted = counted
        self._carried: dict[_Key, float | _Counts] = counted

    def begin(self, samples: Iterable[Sample]) -> None:
        """``samples``: the counts of what the rings still hold."""
        again = {_key(sample): _plain(sample.value) for sample in samples if _counts(sample)}
        self._carried = {key: _less(value, again.get(key)) for key, value in self._counted.items()}
        for key, value in again.items():
            if key[0] == _FROM_THE_READER:
                self._carried[key] = float(self._counted.get(key, 0.0)) - value  # type: ignore[arg-type]

    def added_to(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The samples plus the noted values. Series that exist only in the note come last."""
        seen = set()
        for sample in samples:
            key = _key(sample)
            seen.add(key)
            carried = self._carried.get(key)
            yield sample if carried is None else sample._replace(value=_sum(sample.value, carried))
        for key, carried in self._carried.items():
            if key not in seen:
                value = _sum(Histogram() if isinstance(carried, tuple) else 0.0, carried)
                yield Sample(key[0], key[1], value)


def carried_counters(run_dir: str) -> CarriedCounters | None:
    """The note of the collector before this one; None where it has written none."""
    try:
        data = json.loads(files.read_file(os.path.join(run_dir, files.COUNTERS), _MAX_BYTES))
        counted: dict[_Key, float | _Counts] = {}
        for name, labels, value in data["counters"]:
            key = str(name), tuple((str(label), str(text)) for label, text in labels)
            if isinstance(value, list):
                counts, total, maximum = value
                counted[key] = [int(count) for count in counts], float(total), float(maximum)
            elif math.isfinite(value):
                counted[key] = float(value)
        return CarriedCounters(counted, int(data["began_ns"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _counts(sample: Sample) -> bool:
    return isinstance(sample.value, Histogram) or sample.name.endswith("_total")


def _key(sample: Sample) -> _Key:
    return sample.name, tuple(sorted(sample.labels))


def _plain(value: float | Histogram) -> Any:
    return (value.counts, value.sum, value.maximum) if isinstance(value, Histogram) else value


def _less(before: float | _Counts, again: Any) -> float | _Counts:
    if again is None:
        return before
    if isinstance(before, tuple) and isinstance(again, tuple) and len(before[0]) == len(again[0]):
        counts = [max(0, mine - theirs) for mine, theirs in zip(before[0], again[0], strict=True)]
        return counts, max(0.0, before[1] - again[1]), before[2]
    if isinstance(before, tuple) or isinstance(again, tuple):
        return before
    return max(0.0, before - float(again))


def _sum(value: float | Histogram, carried: float | _Counts) -> float | Histogram:
    if isinstance(value, Histogram) and isinstance(carried, tuple) and len(value.counts) == len(carried[0]):
        return Histogram.of(
            value.bounds,
            [mine + theirs for mine, theirs in zip(value.counts, carried[0], strict=True)],
            value.sum + carried[1],
            max(value.maximum, carried[2]),
            value.exemplars,
        )
    if isinstance(value, Histogram) or isinstance(carried, tuple):
        return value
    return value + carried
