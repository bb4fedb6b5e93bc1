"""Names of code cut to a width."""

from __future__ import annotations


def shorten_name(name: str, width: int) -> str:
    """A dotted name cut so that its end stays: modules go first, then classes, then the middle of the function."""
    if len(name) <= width:
        return name
    if width < 5:
        return name[:width]
    if " " in name:
        return _shorten_words(name, width)
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
    """Words cut so that their beginning stays; names of code among them are cut first, the longest most."""
    words = text.split(" ")
    names = [number for number, word in enumerate(words) if "." in word and not word[0].isdigit()]
    for number in sorted(names, key=lambda number: -len(words[number])):
        over = len(" ".join(words)) - width
        if over > 0:
            words[number] = shorten_name(words[number], max(5, len(words[number]) - over))
    text = " ".join(words)
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
