"""Why a collector cannot start."""

from __future__ import annotations


class CollectorError(ValueError):
    """The collector cannot start as it was asked to; the text is one line for the user (exit status 2)."""
