"""The interface of the statistics: the samples that exporters get, and the protocol of each part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from ..decoding.decoded import Decoded
from .histograms import Histogram

Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """The present value of one series. ``name``: as in the catalogue. ``labels``: in any order."""

    name: str
    labels: Labels
    value: float | Histogram


class Part(Protocol):
    """A part of the statistics of one loop or one process.

    Both methods are called in the reader's thread, or under its lock. ``feed`` gets each chunk once, in order.
    """

    def feed(self, decoded: Decoded) -> None:
        """Takes in one chunk of the record."""

    def metrics(self) -> Iterator[Sample]:
        """The series as they stand, without the labels ``process`` and ``loop``, which are the owner's."""
        ...
