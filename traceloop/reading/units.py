"""Durations, counts and sizes as people read them."""

from __future__ import annotations

from typing import Final

_SECONDS: Final = ((1e-6, 1e9, "ns"), (1e-3, 1e6, "µs"), (1.0, 1e3, "ms"))


def seconds(value: float) -> str:
    """A duration with three digits or so: ``850 ns``, ``12.3 µs``, ``104 ms``, ``2.31 s``, ``3 min 20 s``."""
    if value <= 0.0:
        return "0 s"
    for below, factor, unit in _SECONDS:
        if value < below * 0.9995:
            return f"{_three(value * factor)} {unit}"
    if value < 99.95:
        return f"{_three(value)} s"
    if value == float("inf"):
        return "∞"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _three(value: float) -> str:
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def count(value: float) -> str:
    """A number of things: ``1,203,322``."""
    return f"{round(value):,}"


def about(value: float) -> str:
    """An estimated number of things, to two digits: ``1,500,000``."""
    return count(float(f"{value:.2g}"))


def counted(value: float, one: str, many: str | None = None) -> str:
    """``1 loop``, ``3 loops``."""
    return f"{count(value)} {one if round(value) == 1 else many or one + 's'}"


def size(value: float) -> str:
    """Bytes: ``512 B``, ``61.2 MiB``."""
    if value < 1024:
        return f"{round(value)} B"
    units = ["GiB", "MiB", "KiB"]
    value /= 1024
    while value >= 1000 and len(units) > 1:
        value /= 1024
        units.pop()
    return f"{_three(value)} {units[-1]}"


def percent(share: float) -> str:
    """A share of 1: ``25.7%``; what rounds to nothing without being nothing is ``<0.1%``."""
    if 0.0 < share < 0.0005:
        return "<0.1%"
    return f"{share * 100:.1f}%"
