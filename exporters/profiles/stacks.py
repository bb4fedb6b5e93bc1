"""What every format of the profile shares: which stacks there are, what a frame is called, when the file is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from traceloop.reading.follower import Chunk, ProcessFollower
from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.reading.statistics.profile import WORKERS, Profile
from traceloop.record.text import printable

from ..timelines.model import NothingToWriteError, Source

NO_PROFILE = "the record has no profile: traceloop run --profile takes one"


class Stack(NamedTuple):
    """One stack. nodes: of the profile's tree, outermost first, beginning with the callback; seconds, samples of it."""

    nodes: list[int]
    seconds: float
    samples: int


def stacks_of(profile: Profile) -> Iterator[Stack]:
    """The stacks that were met, each once."""
    for node, samples in enumerate(profile.samples):
        if samples:
            yield Stack(profile.stack_of(node), profile.seconds[node], samples)


def name_of(profile: Profile, node: int) -> str:
    """``module.function``; with ``(awaits)`` where it awaits what is below it."""
    frame = profile.frames[node]
    label = frame.site.label if frame.site.file else frame.site.qualname
    return printable(label) + (" (awaits)" if frame.awaits else "")


def profiled(source: Source) -> list[ProcessStatistics]:
    """The processes that have a profile."""
    return [each for _, each in sorted(source.statistics.processes.items()) if each.profile.total_samples]


def title_of(process: ProcessStatistics) -> str:
    """``process 0 (pid 4711)``."""
    return f"process {process.slot} (pid {process.pid})"


def of_workers(profile: Profile, stack: Stack) -> bool:
    """Whether a worker thread ran it, and no loop."""
    return profile.frames[stack.nodes[0]].site.qualname == WORKERS


class ProfileWriter:
    """A format that is written at the end, from the tree that the statistics have added up."""

    def __init__(self, out: BinaryIO, source: Source) -> None:
        self.out = out
        self.source = source
        self.notices: Sequence[str] = ()

    def take(self, chunks: Sequence[Chunk]) -> None:
        """Nothing: the statistics have had them."""

    def end_process(self, process: ProcessFollower) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Writes the file; raises ``NothingToWriteError`` where there is no profile."""
        processes = profiled(self.source)
        samples = sum(process.profile.total_samples for process in processes)
        seconds = sum(sum(process.profile.seconds) for process in processes)
        if not samples:
            raise NothingToWriteError(NO_PROFILE)
        self.notices = (f"{samples:,} samples of {seconds:.1f} s",)
        self.write(processes)

    def write(self, processes: Sequence[ProcessStatistics]) -> None:
        """Writes the profiles of these."""
        raise NotImplementedError
