"""Tables, bars and human units for text on a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from traceloop.reading.units import count, counted, percent, seconds, size

from .names import shorten_name

__all__ = [
    "Style",
    "bar",
    "clean",
    "count",
    "counted",
    "percent",
    "seconds",
    "shorten",
    "size",
    "table",
    "visible",
]

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BLOCKS: Final = " ▏▎▍▌▋▊▉█"


def bar(share: float, width: int) -> str:
    """A share of 1 as a bar of ``width`` characters."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_BLOCKS[rest] if rest else "")).ljust(width, "░")


def clean(text: str) -> str:
    """A name as it may stand on a terminal: without control characters and lone surrogates."""
    return _CONTROL.sub("?", text).encode("utf-8", "replace").decode()


def shorten(text: str, width: int) -> str:
    """A name cut in its middle where it is too long: its module's beginning and its own end tell most."""
    if len(text) <= width:
        return text
    if width < 5:
        return text[:width]
    tail = (width - 1) * 2 // 3
    return text[: width - 1 - tail] + "…" + text[-tail:]


def clip(text: str, width: int) -> str:
    """A line cut at its end where it is too long; a cut one loses its colours."""
    if visible(text) <= width:
        return text
    return _ESCAPES.sub("", text)[: width - 1] + "…"


def visible(text: str) -> int:
    """The characters of a text that carries colours."""
    return len(_ESCAPES.sub("", text))


class Style:
    """Colours, or none; and the width to keep to."""

    def __init__(self, color: bool, width: int) -> None:
        self.color = color
        self.width = max(60, width)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and text else text

    def bold(self, text: str) -> str:
        """What stands out."""
        return self._paint("1", text)

    def dim(self, text: str) -> str:
        """What may be passed over."""
        return self._paint("2", text)

    def warn(self, text: str) -> str:
        """What wants to be looked at."""
        return self._paint("33", text)

    def bad(self, text: str) -> str:
        """What is wrong."""
        return self._paint("31;1", text)

    def good(self, text: str) -> str:
        """What is as it should be."""
        return self._paint("32", text)


def table(
    style: Style, header: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1, indent: int = 4
) -> list[str]:
    """Lines of a table: the first ``names`` columns to the left and shortened to fit, numbers to the right.

    A column of numbers in which no row has anything is left out.
    """
    if not rows:
        return []
    kept = [at for at in range(len(header)) if at < names or any(row[at] for row in rows)]
    header, rows = [header[at] for at in kept], [[row[at] for at in kept] for row in rows]
    numbers = [max(visible(row[column]) for row in (header, *rows)) for column in range(names, len(header))]
    room = style.width - indent - sum(numbers) - 2 * (len(header) - 1)
    widest = [max(visible(row[column]) for row in (header, *rows)) for column in range(names)]
    while sum(widest) > room and max(widest) > 8:
        widest[widest.index(max(widest))] -= 1
    lines = []
    for position, row in enumerate((header, *rows)):
        cells = [shorten_name(clean(text), width).ljust(width) for text, width in zip(row, widest, strict=False)]
        for text, width in zip(row[names:], numbers, strict=True):
            cells.append(" " * (width - visible(text)) + text)
        line = " " * indent + "  ".join(cells).rstrip()
        lines.append(style.dim(line) if position == 0 else line)
    return lines
