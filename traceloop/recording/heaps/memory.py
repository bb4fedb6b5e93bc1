"""The memory heap: allocated blocks, resident memory, and, on request, which lines allocate.

Growth is looked for in two numbers, since neither sees everything: blocks (many small objects; a large bytes object is
one or none) and private resident memory. Shared memory is left out of the latter: a ring's pages become resident while
they are first written.

With ``--memory-trace`` the first growth starts a trace of allocations, which names the lines (allocation_trace.py). The
event tells what it took.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from time import thread_time

from ... import notices
from ...record import layout
from ...record.text import printable
from ...settings import in_run
from .. import failures, kernel_files
from ..outbox import Outbox
from .allocation_trace import TRACE_SECONDS, AllocationTrace
from .growth_rules import MemoryGrowth

_INTERVAL_SECONDS = 1.0
# A measurement takes at most this part of the time.
_COST_RATIO = 5000.0
# Growth within one minute and within six. Blocks are exact; the allocator keeps memory that bursts leave full of holes.
_BLOCKS = 30_000, 20_000
_BYTES = 16 << 20, 32 << 20

# While allocations are traced it is looked this often, s, whether that has cost enough.
_TRACED_INTERVAL_SECONDS = 0.1
_QUIET_SECONDS = 60.0
_MAX_LINE = 1000

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def private_resident_bytes() -> int:
    """Resident memory without shared memory and files (proc(5), statm); 0 where there is no /proc."""
    try:
        fields = kernel_files.read("/proc/self/statm").split()
        return (int(fields[1]) - int(fields[2])) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


class MemorySampler:
    """Samples the memory of this process. One thread at a time.

    due: when the next sample is, monotonic s. report: called with a growth, "memory" and what is known of it.
    name_callback: gives the label of the callback that has this line of this file in it. is_idle: whether no loop runs
    anything now.
    """

    def __init__(
        self,
        outbox: Outbox,
        report: Callable[..., None],
        *,
        trace: bool = False,
        name_callback: Callable[[str, int], str | None] = lambda file, line: None,
        is_idle: Callable[[], bool] = lambda: True,
    ) -> None:
        self.due = 0.0
        self._outbox = outbox
        self._report = report
        self._blocks = MemoryGrowth(*_BLOCKS)
        self._bytes = MemoryGrowth(*_BYTES)
        self._quiet_until = 0.0
        self._trace = trace
        self._name_callback = name_callback
        self._is_idle = is_idle
        self._began: float | None = None
        self._tracing: AllocationTrace | None = None

    @property
    def traces(self) -> bool:
        """Whether allocations are traced now."""
        return self._tracing is not None

    def sample(self, now: float) -> None:
        """Takes one sample, and says when the next is due."""
        begin = thread_time()  # a busy machine makes nothing dearer
        blocks = sys.getallocatedblocks()
        resident = private_resident_bytes()
        interval = max(_INTERVAL_SECONDS, (thread_time() - begin) * _COST_RATIO)
        self.due = now + interval
        self._outbox.pending.extend((now, layout.R_MEMORY, float(blocks)))
        if self._began is None:
            self._began = now
        if self._tracing is not None:  # its own allocations are none of the program's
            self.due = now + _TRACED_INTERVAL_SECONDS
            if self._tracing.step(now, self._is_idle()):
                self.finish(now)
            return
        growth, unit = self._blocks.sample(now, blocks), "blocks"
        other = self._bytes.sample(now, resident)
        if growth is None:
            growth, unit = other, "bytes"
        # One leak shows in both.
        if growth is not None and now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            known = {"unit": unit, "blocks": blocks, "resident_bytes": resident}
            if self._trace:
                self._trace = False  # once in a process's life: it is not cheap
                self._tracing = AllocationTrace(growth, known, now, now - self._began)
                self.due = now
                _say(
                    f"memory trace: memory has grown by {_amount(growth.after - growth.before, unit)} in "
                    f"{growth.end - growth.start:.0f} s; allocations are traced for {TRACE_SECONDS:.0f} s at most"
                )
            else:
                self._report(growth, "memory", top=[], **known)

    def finish(self, now: float) -> None:
        """The trace is over, or no loop is left: one that is under way is reported now."""
        tracing, self._tracing = self._tracing, None
        if tracing is None:
            return
        try:
            tracing.end(now, self._name_callback)
        except Exception as error:
            failures.report("allocations could not be traced", error)
        self._report(tracing.growth, "memory", **tracing.known)
        top = tracing.known["top"]
        most = f"; most of what has grown is held by {top[0][0]}" if top else ""
        cost = tracing.known.get("trace", {}).get("cost_seconds", 0.0)
        _say(f"memory trace: over, it took {cost:.2f} s of processor time at most{most}")


def _say(line: str) -> None:
    # A loop that was made without a run says nothing.
    if in_run():
        notices.say(printable(line, _MAX_LINE))


def _amount(number: float, unit: str) -> str:
    return f"{number / (1 << 20):.0f} MiB" if unit == "bytes" else f"{number:,.0f} {unit}"
