"""The requests of one process slot: totals by name, and the slowest requests one by one."""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from ..statistics.histograms import DURATIONS, Extent, Histogram
from ..statistics.labels import BoundedLabels
from ..statistics.parts import Sample
from .stretches import PARTS, Moment, Part

#: Requests that have a label of their own, by name; the rest is ``other``.
NAME_LIMIT: Final = 100
#: Requests that are kept one by one, as the slowest.
SLOWEST: Final = 20
_MAX_DETAILS: Final = 200
_REST: Final = "other"
_GROUPS: Final = {"executor": "executor", "wait": "waiting"}


def grouped(parts: Mapping[str, float] | Mapping[Part, float]) -> dict[str, float]:
    """Seconds grouped for one line of a report: running, ready, executor (queued, running, returning), waiting,
    unknown.
    """
    out: dict[str, float] = {}
    for part, seconds in parts.items():
        kind = part if isinstance(part, str) else part[0]
        group = _GROUPS.get(kind.partition("_")[0], kind)
        out[group] = out.get(group, 0.0) + seconds
    return out


#: The fine bucket of the durations, the number of requests, and their seconds in the order of ``PARTS``.
SumBucket = tuple[int, int, tuple[float, ...]]


class Request(NamedTuple):
    """One request that was answered.

    begin: monotonic s. seconds: its duration. parts: seconds by part and detail; they add up to the duration. ident: of
    the task that answered it. moments: its stretches in order, where ``RequestTotals.tells_all``; empty for a request
    of one step. Of very many stretches only the later ones are kept.
    """

    name: str
    begin: float
    seconds: float
    parts: dict[Part, float]
    ident: float = 0.0
    moments: tuple[Moment, ...] = ()


class NameTotals:
    """The requests of one name. parts: seconds by part. details: seconds by part and detail.

    by_duration: by fine bucket of the durations, the number of requests and their seconds by part.
    """

    __slots__ = ("by_duration", "count", "details", "durations", "parts")

    def __init__(self) -> None:
        self.count = 0
        self.durations = Histogram()
        self.parts: dict[str, float] = {}
        self.details: dict[Part, float] = {}
        self.by_duration: dict[int, tuple[int, dict[str, float]]] = {}

    def add(self, request: Request) -> None:
        """A request was answered."""
        self.count += 1
        self.durations.add(request.seconds)
        bucket = bisect_left(DURATIONS.fine, request.seconds)
        alike, alike_parts = self.by_duration.get(bucket, (0, {}))
        self.by_duration[bucket] = alike + 1, alike_parts
        for part, seconds in request.parts.items():
            kind = part[0]
            self.parts[kind] = self.parts.get(kind, 0.0) + seconds
            alike_parts[kind] = alike_parts.get(kind, 0.0) + seconds
            if part[1]:
                self._add_detail(part, seconds)

    def add_all(
        self, extent: Extent, buckets: Sequence[SumBucket], details: Iterable[tuple[Part, float]]
    ) -> None:
        """See ``RequestTotals.add_all``."""
        self.durations.add_buckets([(bucket, count) for bucket, count, _ in buckets], extent)
        for bucket, count, parts in buckets:
            self.count += count
            alike, alike_parts = self.by_duration.get(bucket, (0, {}))
            self.by_duration[bucket] = alike + count, alike_parts
            for kind, seconds in zip(PARTS, parts, strict=True):
                if seconds:
                    self.parts[kind] = self.parts.get(kind, 0.0) + seconds
                    alike_parts[kind] = alike_parts.get(kind, 0.0) + seconds
        for part, seconds in details:
            self._add_detail(part, seconds)

    def _add_detail(self, part: Part, seconds: float) -> None:
        if part not in self.details and len(self.details) >= _MAX_DETAILS:
            part = (part[0], _REST)
        self.details[part] = self.details.get(part, 0.0) + seconds

    def typical(self, share: float) -> dict[str, float]:
        """Mean seconds by part of the requests around a percentile. ``share``: 0 to 1."""
        wanted = share * self.count
        seen = 0
        for _, (count, parts) in sorted(self.by_duration.items()):
            seen += count
            if seen >= wanted:
                return {part: seconds / count for part, seconds in parts.items()}
        return {}


class RequestTotals:
    """The requests of one process slot, fed by the ledgers of its loops.

    ``incomplete``: the number of requests that were given up half way, because there were too many at once, or because
    records were lost. ``watchers``: called with each request, from the first one on; they must not raise. tells_all:
    whether every request has to come through ``add``, one by one.
    """

    def __init__(self, watchers: Iterable[Callable[[Request], None]] = ()) -> None:
        self.by_name: dict[str, NameTotals] = {}
        self.incomplete = 0
        self.watchers = list(watchers)
        self.tells_all = bool(self.watchers)
        self._names = BoundedLabels(NAME_LIMIT)
        self._slowest: list[tuple[float, int, Request]] = []
        self._order = itertools.count()

    def add(self, request: Request) -> None:
        """A request was answered."""
        name = self._names.admit(request.name)
        totals = self.by_name.get(name)
        if totals is None:
            totals = self.by_name[name] = NameTotals()
        totals.add(request)
        for watcher in self.watchers:
            watcher(request)
        if len(self._slowest) < SLOWEST:
            heapq.heappush(self._slowest, (request.seconds, next(self._order), request))
        elif request.seconds > self._slowest[0][0]:
            heapq.heapreplace(self._slowest, (request.seconds, next(self._order), request))

    @property
    def least_slow(self) -> float:
        """How long a request has to take (s) to be kept among the slowest; below 0 while every request is kept."""
        return self._slowest[0][0] if len(self._slowest) >= SLOWEST else -1.0

    def add_all(
        self,
        name: str,
        extent: Extent,
        buckets: Sequence[SumBucket],
        details: Iterable[tuple[Part, float]],
    ) -> None:
        """Adds answered requests of one name, none of them among the slowest. ``watchers`` are not called.

        extent: of their durations. buckets: the requests by fine bucket of those. details: their seconds by part and
        detail.
        """
        label = self._names.admit(name)
        totals = self.by_name.get(label)
        if totals is None:
            totals = self.by_name[label] = NameTotals()
        totals.add_all(extent, buckets, details)

    def slowest(self) -> list[Request]:
        """The slowest requests, slowest first."""
        return [request for _, _, request in sorted(self._slowest, reverse=True)]

    def most(self) -> list[tuple[str, NameTotals]]:
        """By name, most time first."""
        return sorted(self.by_name.items(), key=lambda item: -item[1].durations.sum)

    def feed(self, decoded: object) -> None:
        """Does nothing: the ledgers of the loops feed it."""

    def metrics(self) -> Iterator[Sample]:
        """The series, without the label ``process``."""
        for name, totals in self.by_name.items():
            labels = (("request", name),)
            yield Sample("asyncio_request_duration_seconds", labels, totals.durations)
            for part, seconds in totals.parts.items():
                yield Sample("asyncio_request_time_seconds_total", (*labels, ("part", part)), seconds)
