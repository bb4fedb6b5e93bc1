"""The page: one HTML file without any request to another host, with its data inside, or asking for it once a second.

What a record says is data in it, never markup: it stands in a JSON block, in which ``<`` is escaped, and the script
sets it as text only. The content security policy names the script and the style by their hashes, so that nothing else
would run even then.
"""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from ..json.report import dump
from ..whole_file import whole_file

if TYPE_CHECKING:
    from traceloop.reading.statistics.run import Statistics

#: The largest page that is written, bytes.
MAX_BYTES: Final = 5 << 20
_SCRIPTS: Final = ("format.js", "tables.js", "timeline.js", "flame.js", "drill.js", "page.js")
# Lists are cut to so many entries until the data fits.
_CUTS: Final = (100, 50, 20, 10, 5, 2)
# Lists of which the latest entries stay.
_LATEST: Final = ("timeline", "stalls", "growth")
# Lists whose entries mean something by their place.
_WHOLE: Final = ("runs_by_duration", "duration_bounds_seconds")


class Page:
    """The page's parts, read once."""

    def __init__(self) -> None:
        style, script = _part("page.css"), "\n".join(_part(name) for name in _SCRIPTS)
        self._frame = _part("page.html").replace("@STYLE@", style).replace("@SCRIPT@", script)
        self._policy = (
            # The icon is empty: without one Firefox asks for /favicon.ico, and says that the policy forbids it.
            f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
            "base-uri 'none'; form-action 'none'"
        )

    def policy(self, *, live: bool) -> str:
        """The content security policy. A live page may ask its own server for data, a file may ask no host."""
        return self._policy + ("; connect-src 'self'" if live else "")

    def text(self, data: str | None) -> str:
        """The page with this JSON in it; None: one that asks for ``data.json``."""
        safe = "null" if data is None else data.replace("<", "\\u003c")
        return self._frame.replace("@CSP@", self.policy(live=data is None)).replace("@DATA@", safe)


@lru_cache(maxsize=1)
def the_page() -> Page:
    """The page's parts."""
    return Page()


def write_page(path: str, statistics: Statistics, *, command: str = "") -> None:
    """Writes the page with everything that was read. Raises OSError where it cannot be written."""
    page = page_of(statistics, command=command)
    with whole_file(path) as file:
        file.write(page)


def page_of(statistics: Statistics, *, command: str = "") -> bytes:
    """The page with everything that was read, in UTF-8."""
    return the_page().text(_small_enough(dump(statistics, command=command))).encode("utf-8", "backslashreplace")


def write_at_end(path: str, statistics: Statistics) -> str:
    """Writes the page at the end of a run, and returns the line that says so, or why it could not. Never raises."""
    try:
        write_page(path, statistics)
    except Exception as error:
        return f"cannot write {path}: {getattr(error, 'strerror', None) or error}"
    return f"wrote {path}"


def _small_enough(data: str) -> str:
    """The data with its lists cut until the page keeps to its size."""
    room = MAX_BYTES - len(the_page().text(None))
    for most in _CUTS:
        # What is escaped takes more; no real name is all markup.
        if len(data.encode()) + 5 * data.count("<") <= room:
            break
        data = json.dumps(_cut(json.loads(data), most))
    return data


def _cut(value: Any, most: int) -> Any:
    if isinstance(value, dict):
        return {
            key: each if key in _WHOLE else _cut(each[-most:] if key in _LATEST else each, most)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_cut(each, most) for each in value[:most]]
    return value


def _part(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    import hashlib  # with it comes OpenSSL: 4 MB that a collector need not have for /metrics

    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
