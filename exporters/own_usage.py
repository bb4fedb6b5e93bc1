"""The cost of the collector's process. It covers the whole process, so it is left out where that is the application."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from traceloop.reading.statistics.parts import Sample
from traceloop.record.proc import process_usage

NAMES: Final = ("traceloop_collector_cpu_seconds_total", "traceloop_collector_resident_memory_bytes")


def own_usage() -> Iterator[Sample]:
    """Processor time and memory of this very process."""
    usage = process_usage(os.getpid())
    if usage is not None:
        for name, value in zip(NAMES, (usage.cpu_s, float(usage.resident_bytes)), strict=True):
            yield Sample(name, (), value)
