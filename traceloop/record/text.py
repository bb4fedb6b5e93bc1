"""Text of a record, made fit to be shown: valid Unicode, on one line, of bounded length.

Names of functions, files, threads and executors are the program's choice, and a record may come from another user:
a name may hold bytes that are no UTF-8 (as lone surrogates), control characters that clear a terminal, or line breaks
that begin a forged line. Every reader of a record passes its text through here, where it enters; what is counted,
exported and printed afterwards needs no further look.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

#: Characters of a name, a path or a command line. Longer ones are cut.
MAX_NAME: Final = 300
MAX_TEXT: Final = 4096
_MAX_ITEMS: Final = 10_000
_CUT: Final = "..."


def printable(text: str, limit: int = MAX_NAME) -> str:
    """The text with everything that is not printable as a backslash escape, cut to ``limit`` characters."""
    if len(text) <= limit and text.isprintable():
        return text
    if len(text) > limit:
        text = text[: limit - len(_CUT)] + _CUT
    if not text.isprintable():
        text = "".join(each if each.isprintable() else _escaped(each) for each in text)
        if len(text) > limit:
            text = text[: limit - len(_CUT)] + _CUT
    return text


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def printable_lines(text: str, limit: int = MAX_TEXT) -> str:
    """The same for text that may have several lines."""
    if text.isprintable() and len(text) <= limit:
        return text
    return "\n".join(printable(line, limit) for line in text[:limit].split("\n"))


def printable_data(value: Any, depth: int = 8) -> Any:
    """Decoded JSON with all its text made printable, nested no deeper than ``depth``; what is deeper becomes None."""
    if type(value) is str:
        return printable_lines(value)
    if isinstance(value, dict):
        if depth <= 0:
            return None
        return {printable(str(key)): printable_data(item, depth - 1) for key, item in list(value.items())[:_MAX_ITEMS]}
    if isinstance(value, list):
        return [printable_data(item, depth - 1) for item in value[:_MAX_ITEMS]] if depth > 0 else None
    return value
