"""The part of the ledger that the reader's C half does: what tasks waited for, step by step (native/ledger.h).

``Ledger`` is the reference, and runs where there is no C half. Both give the same numbers
(tests/reading/requests/test_native_ledger.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...record.sites import UNKNOWN_LABEL
from ..decoding.decoded import Decoded
from ..site_names import SiteNames
from ..statistics.counting import native_buckets
from ..statistics.waits import Waits
from .looks import look_within
from .servers import kind_of
from .stretches import PARTS
from .totals import Request, RequestTotals


class NativeLedger:
    """The requests of one loop, while its process has the slot."""

    def __init__(self, module: Any, totals: RequestTotals, waits: Waits, sites: SiteNames) -> None:
        """``module``: the reader's extension. ``totals``, ``waits``: of the process."""
        self._requests = module.Requests(native_buckets(module)[0])
        self._totals = totals
        self._waits = waits
        self._sites = sites

    def feed(self, decoded: Decoded, delivered: Mapping[int, object]) -> None:
        """Takes in one chunk. ``delivered``: offloads by the run that delivered them (``ledger.Offloaded``)."""
        totals = self._totals
        incomplete, singles, sums = self._requests.feed(
            self,
            decoded.runs,
            decoded.tasks,
            decoded.requests,
            delivered,
            self._waits.looks,
            self._waits.latest_look,
            decoded.dropped,
            totals.tells_all,
            totals.least_slow,
        )
        totals.incomplete += incomplete
        for name, begin, seconds, listed, task, stretches in singles:
            parts = {(PARTS[part], detail): spent for part, detail, spent in listed}
            moments = tuple((since, end, PARTS[part], detail) for since, end, part, detail in stretches)
            totals.add(Request(name, begin, seconds, parts, task, moments))
        for name, extent, buckets, details in sums:
            totals.add_all(name, extent, buckets, [((PARTS[part], detail), spent) for part, detail, spent in details])

    # -- called by the C half

    def label_of(self, site: int) -> tuple[str, bool]:
        """The label of a site, and whether it is known for good."""
        label = self._sites.label(site)
        return label, label != UNKNOWN_LABEL

    def kind_of(self, site: int) -> int:
        """What a task of this coroutine is (servers.py)."""
        return kind_of(self._sites.label(site))

    def look_within(self, ident: float, begin: float, end: float, wants_name: bool) -> tuple[str, str] | None:
        """See ``looks.look_within``."""
        return look_within(self._waits, ident, begin, end, wants_name=wants_name)
