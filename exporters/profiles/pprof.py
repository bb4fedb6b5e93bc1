"""The format of pprof: a gzipped ``Profile`` of https://github.com/google/pprof/blob/main/proto/profile.proto.

Two values a sample, as the CPU profiles of Go have them: how often the stack was met, and the time in nanoseconds.
Each sample carries labels: its process, and whether a loop or a worker thread ran it.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import BinaryIO

from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.reading.statistics.profile import Profile
from traceloop.record.sites import Site

from ..otlp.encoder import field, varint
from ..timelines.model import Source
from .stacks import ProfileWriter, name_of, of_workers, stacks_of, title_of

# Fields of Profile.
_SAMPLE_TYPE, _SAMPLE, _LOCATION, _FUNCTION, _STRING = 1, 2, 4, 5, 6
_DURATION, _PERIOD_TYPE, _PERIOD, _DEFAULT = 10, 11, 12, 14


def _number(number: int, value: int) -> bytes:
    """An integer field; 0 is left out, as the format has it."""
    return varint(number << 3) + varint(value) if value else b""


class _Pprof(ProfileWriter):
    def write(self, processes: Sequence[ProcessStatistics]) -> None:
        self._strings: dict[str, int] = {"": 0}
        self._functions: dict[tuple[str, str], int] = {}
        self._locations: dict[tuple[int, int], int] = {}
        self._parts: list[bytes] = []
        nanoseconds = self._value_type("wall", "nanoseconds")
        self._parts += [
            field(_SAMPLE_TYPE, self._value_type("samples", "count")),
            field(_SAMPLE_TYPE, nanoseconds),
        ]
        for process in processes:
            self._write_process(process)
        rates = [process.profile.rate for process in processes if process.profile.rate > 0]
        spans = [process.profile.last - process.profile.first for process in processes]
        self._parts += [
            _number(_DURATION, round(max(spans, default=0.0) * 1e9)),
            field(_PERIOD_TYPE, nanoseconds),
            _number(_PERIOD, round(1e9 / max(rates, default=100.0))),
            _number(_DEFAULT, self._string("wall")),
        ]
        self._parts += [field(_STRING, text.encode("utf-8", "backslashreplace")) for text in self._strings]
        self.out.write(gzip.compress(b"".join(self._parts), mtime=0))

    def _write_process(self, process: ProcessStatistics) -> None:
        profile = process.profile
        locations = [0] + [self._location(profile, node) for node in range(1, len(profile.parents))]
        for stack in stacks_of(profile):
            # The innermost one first; packed, as proto3 writes numbers.
            where = b"".join(varint(locations[node]) for node in reversed(stack.nodes))
            values = varint(stack.samples) + varint(round(stack.seconds * 1e9))
            labels = self._label("process", title_of(process))
            labels += self._label("thread", "worker" if of_workers(profile, stack) else "loop")
            self._parts.append(field(_SAMPLE, field(1, where) + field(2, values) + labels))

    def _location(self, profile: Profile, node: int) -> int:
        site: Site = profile.frames[node].site
        function = self._function(name_of(profile, node), site.file)
        number = self._locations.get((function, site.line))
        if number is None:
            number = self._locations[function, site.line] = len(self._locations) + 1
            line = _number(1, function) + _number(2, site.line)
            self._parts.append(field(_LOCATION, _number(1, number) + field(4, line)))
        return number

    def _function(self, name: str, file: str) -> int:
        number = self._functions.get((name, file))
        if number is None:
            number = self._functions[name, file] = len(self._functions) + 1
            text = self._string(name)
            parts = _number(1, number) + _number(2, text) + _number(3, text) + _number(4, self._string(file))
            self._parts.append(field(_FUNCTION, parts))
        return number

    def _label(self, key: str, text: str) -> bytes:
        return field(3, _number(1, self._string(key)) + _number(2, self._string(text)))

    def _value_type(self, kind: str, unit: str) -> bytes:
        return _number(1, self._string(kind)) + _number(2, self._string(unit))

    def _string(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))


def make(out: BinaryIO, source: Source) -> _Pprof:
    """Writes one profile to ``out``."""
    return _Pprof(out, source)
