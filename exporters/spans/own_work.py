"""The span of what a loop did for itself for long; see ``reading.statistics.own_work``."""

from __future__ import annotations

from typing import Final

from traceloop.reading.decoding.decoded import Event
from traceloop.reading.site_names import SiteNames
from traceloop.reading.statistics.own_work import own_work_of
from traceloop.record.sites import OWN_WORK

from .ids import SpanIds
from .model import Extra, Kind, Span

_KINDS: Final = {site.label: Kind(site.label, {}) for site in OWN_WORK}


def own_work_span(event: Event, sites: SiteNames, thread: str, clock_offset_ns: int) -> Span | None:
    """None for events of another kind, and for what makes no sense. ``thread``: the loop's, by name."""
    work = own_work_of(event.data, sites)
    if work is None:
        return None
    start, end = int(work.start * 1e9) + clock_offset_ns, int(work.end * 1e9) + clock_offset_ns
    if not 0 <= start <= end < 1 << 63:
        return None
    attributes = {"asyncio.eventloop.work.count": work.size, "thread.name": thread}
    ids = SpanIds()  # rare enough for random ones
    extra = Extra(attributes)
    return _KINDS[work.label], ids.trace(1), ids.other(1), b"", start, end, -1.0, b"", b"", extra
