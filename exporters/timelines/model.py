"""What every export format is: a writer that is fed with a record as it is read, and holds little of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from traceloop.reading.follower import Chunk, ProcessFollower
from traceloop.reading.statistics.run import Statistics


class NothingToWriteError(Exception):
    """The record has nothing of what the format is for. Its text is one line that says what would."""


class Source(NamedTuple):
    """What is exported. statistics: of the run, fed with each chunk before the writer has it, and complete when
    ``finish`` is called. command: what was run, as a shell takes it.
    """

    statistics: Statistics
    command: str


class Writer(Protocol):
    """Writes one format. Called by one thread, under the statistics' lock.

    A format's module has ``make(out: BinaryIO, source: Source) -> Writer``; ``cli/export.py`` has the table.
    """

    def take(self, chunks: Sequence[Chunk]) -> None:
        """Writes what was read; the chunks are not to be kept, but for a bounded number."""

    def end_process(self, process: ProcessFollower) -> None:
        """The process was read to its end: writes what was held back of it."""

    def finish(self) -> None:
        """Everything was read. The caller closes the file. Raises ``NothingToWriteError``, with nothing written."""

    @property
    def notices(self) -> Sequence[str]:
        """What was left out, a line each, to be printed at the end."""
