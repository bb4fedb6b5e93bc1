"""Values that several parts of the JSON report share."""

from __future__ import annotations

import math
from typing import Any, Final

from traceloop.reading.statistics.histograms import Histogram

#: Rows of each list.
ROWS: Final = 200


def ratio(part: float, whole: float) -> float:
    """0 of nothing."""
    return part / whole if whole else 0.0


def finite(value: float) -> float | None:
    """None in place of an infinity or NaN."""
    return value if math.isfinite(value) else None


def percentiles(histogram: Histogram) -> dict[str, Any]:
    return {
        "count": histogram.count,
        "sum_seconds": histogram.sum,
        "p50_seconds": histogram.quantile(0.5),
        "p90_seconds": histogram.quantile(0.9),
        "p99_seconds": histogram.quantile(0.99),
        "p999_seconds": histogram.quantile(0.999),
        "longest_seconds": histogram.maximum,
    }
