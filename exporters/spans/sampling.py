"""Which traces are kept."""

from __future__ import annotations


class Sampling:
    """Which traces are kept: ``all``, ``slow`` (none but slow runs), ``off``, or a ratio of traces from 0 to 1.

    A ratio is decided by the trace id as OpenTelemetry's TraceIdRatioBased does it, so that a kept trace is whole,
    whichever process looks at it. ``by_parent``: as its ParentBased has it, what is asked for holds for traces that
    begin here, and those that the application sampled are kept.
    """

    __slots__ = ("bound", "by_parent", "off")

    def __init__(self, spans: str | float, *, by_parent: bool = False) -> None:
        self.by_parent = by_parent
        self.off = spans == "off"
        if spans == "all":
            self.bound = 1 << 64
        elif isinstance(spans, str):
            self.bound = 0
        else:
            self.bound = round(spans * (1 << 64))

    def keeps(self, trace_id: bytes) -> bool:
        """Whether ordinary spans of this trace are exported."""
        return self.bound >> 64 == 1 or int.from_bytes(trace_id[8:], "big") < self.bound

    def keeps_sampled(self, trace_id: bytes) -> bool:
        """The same for a trace that the application sampled."""
        return self.by_parent or self.keeps(trace_id)
