"""Names of code cut to a width."""

from __future__ import annotations


def shorten_name(name: str, width: int) -> str:
    """A dotted name cut so that its end stays: modules go first, then classes, then the middle of the function."""
    if len(name) <= width:
        return name
    if width < 5:
        return name[:width]
    parts = name.split(".")
    for first in range(1, len(parts)):
        rest = "…" + ".".join(parts[first:])
        if len(rest) <= width:
            return rest
    last = parts[-1]
    if len(last) + 1 <= width:
        return "…" + last
    tail = (width - 1) * 2 // 3
    return last[: width - 1 - tail] + "…" + last[-tail:]
