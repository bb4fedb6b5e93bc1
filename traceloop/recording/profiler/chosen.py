"""The profiler of a process, where a profile was chosen: else nothing of it is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

_RATE = 100.0

if TYPE_CHECKING:
    from ..outbox import Outbox
    from ..process import Process
    from .sampling_profiler import SamplingProfiler


def profiler_of(process: Process, outbox: Outbox) -> SamplingProfiler | None:
    """That of ``process``; None where its settings ask for none."""
    settings = process.settings
    rate = settings.profile or (_RATE if settings.profile_workers else 0.0)
    if not rate:
        return None
    from .sampling_profiler import SamplingProfiler

    return SamplingProfiler(process, outbox, rate, workers=settings.profile_workers)
