"""Names of code cut to a width."""

from __future__ import annotations

import re

#: ``views.py:12``: the end of a file's name and the line say more than the line alone.
_PLACE = re.compile(r"[^ ]+\.\w+:\d+")


def shorten_name(name: str, width: int) -> str:
    """A dotted name cut so that its end stays: modules go first, then classes, then the middle of the function."""
    if len(name) <= width:
        return name
    if width < 5:
        return name[:width]
    if " " in name:
        return _shorten_words(name, width)
    if _PLACE.fullmatch(name):
        return "…" + name[1 - width :]
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


def _shorten_words(text: str, width: int) -> str:
    """Words cut so that their beginning stays; names of code among them are cut first, the longest most.

    Where that does not suffice, functions keep their own names (two thirds of the width at most) and the end goes.
    """
    words = text.split(" ")
    names = [number for number, word in enumerate(words) if "." in word and not word[0].isdigit()]
    names.sort(key=lambda number: -len(words[number]))
    cut = _cut_names(words, names, width, [5] * len(words))
    if len(cut) > width:
        cut = _cut_names(words, names, width, [min(len(_own(word)) + 1, width * 2 // 3) for word in words])
    return cut if len(cut) <= width else cut[: width - 1].rstrip() + "…"


def _own(name: str) -> str:
    return name.rpartition(".")[2]


def _cut_names(words: list[str], names: list[int], width: int, least: list[int]) -> str:
    """The words with those of these numbers cut until all fit; none to fewer characters than its ``least``."""
    words = list(words)
    for number in names:
        over = len(" ".join(words)) - width
        if over > 0:
            words[number] = shorten_name(words[number], max(5, least[number], len(words[number]) - over))
    return " ".join(words)
