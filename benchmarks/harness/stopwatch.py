"""The clock of the measured process: CPU time of all its threads between ``start`` and ``stop``."""

from __future__ import annotations

import gc
import time

#: What was measured; empty until ``stop``.
result: dict[str, float] = {}
_begun = (0.0, 0.0)


def start() -> None:
    """Begins, or begins anew: a workload that has first to set something up calls it again."""
    global _begun
    gc.collect()
    _begun = (time.process_time(), time.monotonic())


def stop() -> None:
    """Ends; a second call changes nothing."""
    if not result:
        cpu, now = time.process_time(), time.monotonic()
        result.update(cpu_seconds=cpu - _begun[0], seconds=now - _begun[1])
