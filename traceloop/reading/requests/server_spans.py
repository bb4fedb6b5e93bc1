"""The answered requests that have a server span of the application. The exporters make spans of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from ..decoding.decoded import Decoded
from ..statistics.parts import Sample
from .totals import Request, RequestTotals

# Tasks with marks of requests that are not answered yet; and answered requests that were not taken yet.
_MAX_MARKED: Final = 20_000
# Marks of one task. They need a bound, since those of a callback, or of a task that is no request, are never taken.
_MAX_OF_ONE: Final = 256
_MAX_TAKEN: Final = 8192


class _Mark(NamedTuple):
    """The run that answered a request, until when it ran (monotonic s), and the number of the request's span."""

    end: float
    span: int


class ServerSpans:
    """The server spans of one loop's requests. It is fed before the loop's ledger, which reports answered requests."""

    def __init__(self, totals: RequestTotals) -> None:
        """``totals``: of the process."""
        self._totals = totals
        self._marks: dict[float, list[_Mark]] = {}
        # A mark is written before its run ends. So the mark of a chunk's last run may come with the chunk before.
        self._early: list[tuple[int, int]] = []
        self._answered: list[tuple[Request, int]] = []

    def feed(self, decoded: Decoded) -> None:
        """Takes in the marks of one chunk of the loop's record."""
        marks = [*self._early, *decoded.request_spans]
        self._early = []
        if not marks or not len(decoded.runs):
            self._early = marks[-1:]
            return
        self._totals.tells_all = True
        first, count = decoded.runs[0][0], len(decoded.runs)
        for number, span in marks:
            if number >= first + count:
                self._early = [(number, span)]
            elif number >= first:
                run = decoded.runs[number - first]
                if len(self._marks) >= _MAX_MARKED:
                    del self._marks[next(iter(self._marks))]
                own = self._marks.setdefault(run[3], [])
                own.append(_Mark(run[2], span))
                del own[:-_MAX_OF_ONE]

    def request_ended(self, request: Request) -> None:
        """A request was answered by a task of one of the process's loops."""
        marks = self._marks.get(request.ident)
        if marks is None:
            return
        end = request.begin + request.seconds
        # A connection's task answers many, one after the other.
        own = [mark for mark in marks if request.begin <= mark.end <= end]
        left = [mark for mark in marks if mark.end > end]
        if left:
            self._marks[request.ident] = left
        else:
            del self._marks[request.ident]
        if own and len(self._answered) < _MAX_TAKEN:
            self._answered.append((request, own[-1].span))

    def take(self) -> list[tuple[Request, int]]:
        """Requests that were answered since the last call, each with its span (``SpanContext.number``)."""
        answered, self._answered = self._answered, []
        return answered

    def metrics(self) -> Iterator[Sample]:
        """None: the process's totals have the series."""
        return iter(())
