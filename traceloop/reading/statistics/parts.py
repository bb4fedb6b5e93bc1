"""What statistics hand to an exporter, and how a part of them looks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from ..decoding.decoded import Decoded
from .histograms import Histogram

Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """One series now. ``name`` as the catalogue has it; ``labels`` in any order."""

    name: str
    labels: Labels
    value: float | Histogram


class Part(Protocol):
    """A part of the statistics of one loop or one process: fed with what was read, asked for what it knows.

    Both are called in the reader's thread, or under its lock. ``feed`` sees each chunk once, in order.
    """

    def feed(self, decoded: Decoded) -> None:
        """Takes in one chunk of the record."""

    def metrics(self) -> Iterator[Sample]:
        """The series as they stand, without the labels ``process`` and ``loop``, which are the owner's."""
        ...
