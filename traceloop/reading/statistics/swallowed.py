"""Errors that no code handled: coroutines never awaited, exceptions never retrieved, failed callbacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ...record.frames import Frame
from ...record.swallowed import SORTS
from ..decoding.decoded import Decoded
from .labels import BoundedLabels
from .parts import Sample

_MAX_ENTRIES: Final = 500


class SwallowedError(NamedTuple):
    """One sort of error at one place.

    function: the label of the coroutine, or of the function that raised. error: the exception's type; "" for a
    coroutine. place: the line that raised, or that made the coroutine (strictly: that freed it, mostly the same line).
    """

    sort: str
    function: str
    error: str
    place: Frame


class SwallowedErrors:
    """A part of a process's statistics. found: how often, by error; beyond a limit, new ones are only in the metric."""

    def __init__(self, labels: BoundedLabels) -> None:
        self._labels = labels
        self.found: dict[SwallowedError, int] = {}
        self._series: dict[tuple[str, str], int] = {}

    def feed(self, decoded: Decoded) -> None:
        """Takes in the events of one chunk."""
        for event in decoded.events:
            if event.data.get("kind") == "swallowed":
                for error, number in _entries(event.data):
                    key = error.sort, self._labels.admit(error.function)
                    self._series[key] = self._series.get(key, 0) + number
                    if error in self.found or len(self.found) < _MAX_ENTRIES:
                        self.found[error] = self.found.get(error, 0) + number

    def metrics(self) -> Iterator[Sample]:
        """The series as they stand, without the label ``process``."""
        for (sort, label), number in self._series.items():
            yield Sample("asyncio_swallowed_errors_total", (("error", sort), ("callback", label)), number)


def _entries(data: Any) -> Iterator[tuple[SwallowedError, int]]:
    """The entries of an event, up to the first damaged one."""
    try:
        for sort, function, error, (file, line, module, qualname), number in data["entries"]:
            if sort in SORTS and 0 < number < 2**53:
                place = str(file), int(line), str(module), str(qualname)
                yield SwallowedError(sort, str(function), str(error), place), int(number)
    except (KeyError, TypeError, ValueError, OverflowError):
        return
