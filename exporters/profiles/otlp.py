"""OpenTelemetry's profiles: one ``ProfilesData`` message of opentelemetry-proto, ``profiles/v1development``.

That signal is still in development: its numbers may change, so this format is written only where it is asked for. It
is what a receiver of ``/v1development/profiles`` takes. Each process is a resource with one profile of wall time; every
sample has the attribute ``asyncio.profile.thread``, ``loop`` or ``worker``. Spans are not linked: the record does not
say which one was active at a sample.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import BinaryIO, Final

from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.reading.statistics.profile import Profile

from ..otlp.encoder import any_value, encode_resource, encode_scope, field, varint
from ..spans.resource import SCOPE_NAME, own_version, resource_attributes
from ..timelines.model import Source
from .stacks import ProfileWriter, name_of, of_workers, stacks_of

# Fields of ProfilesData, ResourceProfiles and ScopeProfiles.
_RESOURCE_PROFILES, _DICTIONARY = 1, 2
_RESOURCE, _SCOPE_PROFILES = 1, 2
_SCOPE, _PROFILES = 1, 2
# Fields of ProfilesDictionary.
_MAPPINGS, _LOCATIONS, _FUNCTIONS, _LINKS, _STRINGS, _ATTRIBUTES, _STACKS = 1, 2, 3, 4, 5, 6, 7
# Fields of Profile.
_SAMPLE_TYPE, _SAMPLES, _TIME, _DURATION, _PERIOD_TYPE, _PERIOD, _PROFILE_ID = 1, 2, 3, 4, 5, 6, 7
_LATEST_NS: Final = 1 << 63


def _number(number: int, value: int) -> bytes:
    """An integer field; 0 is left out, as proto3 has it."""
    return varint(number << 3) + varint(value) if value else b""


class _Otlp(ProfileWriter):
    def write(self, processes: Sequence[ProcessStatistics]) -> None:
        # What is referred to stands in tables, by index; the entry 0 of each is empty and means "none".
        self._strings: dict[str, int] = {"": 0}
        self._tables: dict[int, dict[bytes, int]] = {
            number: {b"": 0} for number in (_LOCATIONS, _FUNCTIONS, _ATTRIBUTES, _STACKS)
        }
        resources = [self._of_process(process) for process in processes]
        entries = [field(_MAPPINGS, b""), field(_LINKS, b"")]
        entries += [field(number, entry) for number, table in self._tables.items() for entry in table]
        entries += [field(_STRINGS, text.encode("utf-8", "backslashreplace")) for text in self._strings]
        for resource in resources:
            self.out.write(field(_RESOURCE_PROFILES, resource))
        self.out.write(field(_DICTIONARY, b"".join(entries)))

    def _of_process(self, process: ProcessStatistics) -> bytes:
        description = process.description
        resource = encode_resource(resource_attributes(os.environ, description, {"process.pid": process.pid}))
        scope = field(_SCOPE, encode_scope(SCOPE_NAME, own_version()))
        scope_profiles = scope + field(_PROFILES, self._profile(process))
        return field(_RESOURCE, resource) + field(_SCOPE_PROFILES, scope_profiles)

    def _profile(self, process: ProcessStatistics) -> bytes:
        profile = process.profile
        wall = _number(1, self._string("wall")) + _number(2, self._string("nanoseconds"))
        locations = [0] + [self._location(profile, node) for node in range(1, len(profile.parents))]
        samples = []
        for stack in stacks_of(profile):
            where = b"".join(varint(locations[node]) for node in reversed(stack.nodes))  # the innermost one first
            thread = "worker" if of_workers(profile, stack) else "loop"
            samples.append(
                field(
                    _SAMPLES,
                    _number(1, self._entry(_STACKS, field(1, where)))
                    + field(2, varint(self._attribute("asyncio.profile.thread", thread)))
                    + field(4, varint(_nanoseconds(stack.seconds))),
                )
            )
        begun = _nanoseconds(profile.first) + _clock_offset_ns(process)
        rate = profile.rate if profile.rate > 0 else 100.0
        return b"".join(
            (
                field(_SAMPLE_TYPE, wall),
                *samples,
                varint(_TIME << 3 | 1) + (begun if 0 <= begun < _LATEST_NS else 0).to_bytes(8, "little"),
                _number(_DURATION, _nanoseconds(profile.last - profile.first)),
                field(_PERIOD_TYPE, wall),
                _number(_PERIOD, round(1e9 / rate)),
                field(_PROFILE_ID, os.urandom(16)),
            )
        )

    def _location(self, profile: Profile, node: int) -> int:
        site = profile.frames[node].site
        function = _number(1, self._string(name_of(profile, node))) + _number(3, self._string(site.file))
        line = _number(1, self._entry(_FUNCTIONS, function)) + _number(2, site.line)
        return self._entry(_LOCATIONS, field(3, line))

    def _attribute(self, key: str, value: str) -> int:
        return self._entry(_ATTRIBUTES, _number(1, self._string(key)) + field(2, any_value(value)))

    def _entry(self, table: int, entry: bytes) -> int:
        return self._tables[table].setdefault(entry, len(self._tables[table]))

    def _string(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))


def _nanoseconds(seconds: float) -> int:
    """0 for what no clock says, as a damaged record may have it."""
    return round(seconds * 1e9) if 0.0 <= seconds < _LATEST_NS / 1e9 else 0


def _clock_offset_ns(process: ProcessStatistics) -> int:
    """From monotonic nanoseconds of the process's record to those of the epoch; 0 where that is not known."""
    try:
        return int(process.description["realtime_ns"]) - int(process.description["monotonic_ns"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0


def make(out: BinaryIO, source: Source) -> _Otlp:
    """Writes the profiles of all processes to ``out``."""
    return _Otlp(out, source)
