"""The file format of speedscope (https://www.speedscope.app): a sampled profile for each process and its workers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, BinaryIO

from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.version import __version__

from ..timelines.model import Source
from .stacks import ProfileWriter, Stack, name_of, of_workers, stacks_of, title_of

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


class _Speedscope(ProfileWriter):
    def write(self, processes: Sequence[ProcessStatistics]) -> None:
        frames: list[dict[str, Any]] = []
        numbers: dict[tuple[str, str, int], int] = {}
        profiles: list[dict[str, Any]] = []
        for process in processes:
            profile = process.profile
            of_node: list[int] = []
            for node in range(len(profile.parents)):
                site = profile.frames[node].site
                key = (name_of(profile, node), site.file, site.line)
                if key not in numbers:
                    numbers[key] = len(frames)
                    frames.append({"name": key[0], "file": key[1], "line": key[2]} if key[1] else {"name": key[0]})
                of_node.append(numbers[key])
            every = sorted(stacks_of(profile), key=lambda stack: [of_node[node] for node in stack.nodes])
            for title, wanted in ((title_of(process), False), (f"{title_of(process)}, worker threads", True)):
                stacks = [stack for stack in every if of_workers(profile, stack) == wanted]
                if stacks:
                    profiles.append(_profile(title, stacks, of_node))
        if not profiles:  # the format asks for one
            profiles.append(_profile("no profile", [], []))
        document = {
            "$schema": _SCHEMA,
            "shared": {"frames": frames},
            "profiles": profiles,
            "name": self.source.command or "traceloop",
            "activeProfileIndex": 0,
            "exporter": f"traceloop {__version__}",
        }
        self.out.write(json.dumps(document, separators=(",", ":")).encode("ascii"))


def _profile(title: str, stacks: list[Stack], of_node: list[int]) -> dict[str, Any]:
    return {
        "type": "sampled",
        "name": title,
        "unit": "seconds",
        "startValue": 0,
        "endValue": sum(stack.seconds for stack in stacks),
        "samples": [[of_node[node] for node in stack.nodes] for stack in stacks],
        "weights": [stack.seconds for stack in stacks],
    }


def make(out: BinaryIO, source: Source) -> _Speedscope:
    """Writes one document to ``out``."""
    return _Speedscope(out, source)
