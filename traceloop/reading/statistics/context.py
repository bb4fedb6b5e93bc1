"""What every part of the statistics needs to know of the run. It is passed down, so that no part knows its owner."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ...version import __version__
from ..site_names import SiteNames
from .labels import DEFAULT_LIMIT

#: Returns the sites of the process that has the slot now. The idents of a later process mean other sites.
SitesOf = Callable[[], SiteNames]


def same_threshold(callback: str, threshold: float) -> float:
    """The loop's own threshold, whatever the callback."""
    return threshold


def own_threshold(threshold: float) -> float:
    """The loop's own threshold is also the lowest."""
    return threshold


class Context(NamedTuple):
    """threshold_for: the threshold (s) of a callback (its label), given its loop's own threshold.

    lowest_threshold: the lowest threshold of any callback, given the loop's own. callback_limit: how many callbacks a
    process may have as label values; the rest is ``other``. version: ours, for processes whose description has none.
    """

    threshold_for: Callable[[str, float], float] = same_threshold
    lowest_threshold: Callable[[float], float] = own_threshold
    callback_limit: int = DEFAULT_LIMIT
    version: str = __version__
