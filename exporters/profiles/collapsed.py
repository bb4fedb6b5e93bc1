"""Collapsed stacks: a line for each stack, ``frame;frame;frame WEIGHT``, outermost frame first.

What flamegraph.pl, inferno, speedscope and others read. The weight is in microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.reading.statistics.profile import Profile

from ..timelines.model import Source
from .stacks import ProfileWriter, name_of, stacks_of, title_of


class _Collapsed(ProfileWriter):
    def write(self, processes: Sequence[ProcessStatistics]) -> None:
        for process in processes:
            profile = process.profile
            names = [_frame(profile, node) for node in range(len(profile.parents))]
            for stack in stacks_of(profile):
                frames = [names[node] for node in stack.nodes]
                if len(processes) > 1:
                    frames.insert(0, title_of(process))
                weight = max(1, round(stack.seconds * 1e6))
                self.out.write(f"{';'.join(frames)} {weight}\n".encode("utf-8", "backslashreplace"))


def _frame(profile: Profile, node: int) -> str:
    """``module.function (file.py:7)``, without the separators of the format."""
    site = profile.frames[node].site
    name = name_of(profile, node)
    if site.file:
        name += f" ({site.file.rpartition('/')[2]}:{site.line})"
    return name.replace(";", ",").replace("\n", " ")


def make(out: BinaryIO, source: Source) -> _Collapsed:
    """Writes collapsed stacks to ``out``."""
    return _Collapsed(out, source)
