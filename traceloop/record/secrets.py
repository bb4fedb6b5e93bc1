"""Keeps secrets in arguments and URLs out of records, labels, reports and notices.

Arguments may have passwords and tokens in them (`--password ...`); URLs have them as userinfo and in the query. This
module imports nothing, because it is used before the program's first line.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

# Options of the interpreter that take a value: in the same word, or as the next one.
_WITH_VALUE: Final = "WXcm"
_HIDDEN: Final = "***"


def without_secrets(text: str) -> str:
    """The text with userinfo, query and fragment of each URL in it replaced by `***`."""
    if "://" not in text:
        return text
    out: list[str] = []
    rest = text
    while True:
        before, separator, rest = rest.partition("://")
        out += (before, separator)
        if not separator:
            return "".join(out)
        end = next((at for at, character in enumerate(rest) if character.isspace() or character in "\"'<>`"), len(rest))
        out.append(_url(rest[:end]))
        rest = rest[end:]


def _url(text: str) -> str:
    """What follows `://`."""
    ends = [at for at in (text.find(mark) for mark in "/?#") if at >= 0]
    # A password may itself have these in it: an `@` further on shows it.
    authority_end = min(ends, default=len(text))
    at = text.rfind("@")
    if at >= 0 and (at < authority_end or ":" in text[:authority_end]):
        text = f"{_HIDDEN}@{text[at + 1 :]}"
    cut = min((at for at in (text.find(mark) for mark in "?#") if at >= 0), default=-1)
    if cut < 0:
        return text
    # Punctuation of the sentence that the URL stands in.
    tail = text[len(text.rstrip(".,;:)]}")) :]
    return text[: cut + 1] + _HIDDEN + tail if cut + 1 < len(text) - len(tail) else text


def program_of(argv: Sequence[str]) -> str:
    """The name of the program of an interpreter's command line, without its arguments: `app.py`, `uvicorn`,
    `-m package.module`, `-c`; the interpreter's own name where it runs nothing else.
    """
    at = 1
    while at < len(argv):
        word = argv[at]
        if not word.startswith("-") or word == "-":
            return _base(word)
        if word.startswith("--"):
            at += 2 if word == "--check-hash-based-pycs" else 1
            if word == "--":
                return _base(argv[at]) if at < len(argv) else _base(argv[0])
            continue
        letters = 1
        while letters < len(word) and word[letters] not in _WITH_VALUE:
            letters += 1
        if letters < len(word) and word[letters] == "c":
            return "multiprocessing" if "--multiprocessing-fork" in argv else "-c"
        if letters < len(word) and word[letters] == "m":
            return f"-m {word[letters + 1 :] or (argv[at + 1] if at + 1 < len(argv) else '')}"
        at += 2 if letters == len(word) - 1 else 1  # -X dev, in two words
    return _base(argv[0]) if argv else ""


def _base(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2] or path


def command_line(argv: Sequence[str], arguments: bool) -> list[str]:
    """A command line as it is recorded: with its arguments, without the secrets of URLs; or the program's name alone.
    """
    return [without_secrets(word) for word in argv] if arguments else [program_of(argv)]
