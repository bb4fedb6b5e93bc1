"""The pages of docs/ that come with the package: their names, and their form on a terminal."""

from __future__ import annotations

import itertools
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import click

#: Beside cli/ in a checkout as in an installed package: docs/decisions/0001-package-layout.md.
FOLDER: Final = Path(__file__).parent.parent / "docs"
#: Folder below it, and what its pages are called together; names that several have mean the first of them.
GROUPS: Final = (("findings", "Findings"), ("runbooks", "Alerts"), ("", "Other pages"))

_LINK = re.compile(r"!?\[([^\]]*)\]\(([^)\s]+)\)")
_ITEM = re.compile(r"(\s*)([-*] |\d+\. )(.*)")
_ALERTS = re.compile(r"(?m)^Alerts?: (.*)$")


class Page(NamedTuple):
    """name: what `traceloop explain` calls it. stem: its path in docs/ without the suffix. alerts: that lead to it."""

    name: str
    stem: str
    group: str
    title: str
    alerts: tuple[str, ...]
    text: str


def pages() -> list[Page]:
    """All pages, by group, then by name; empty where they were not installed."""
    found: dict[str, Page] = {}
    for folder, group in GROUPS:
        for path in sorted((FOLDER / folder).glob("*.md")):
            if path.stem == "README":
                continue
            text = path.read_text("utf-8")
            stem = f"{folder}/{path.stem}" if folder else path.stem
            # Where another page has the short name already, the path is the name.
            name = path.stem if path.stem not in found else stem if folder else f"docs/{stem}"
            alerts = _ALERTS.search(text)
            names = tuple(re.findall(r"`(\w+)`", alerts[1])) if alerts else ()
            found[name] = Page(name, stem, group, text.partition("\n")[0].lstrip("# "), names, text)
    return list(found.values())


def names_of(every: list[Page]) -> dict[str, Page]:
    """The pages by each of their names: the page's own, those of its alerts, and its path in the repository."""
    found: dict[str, Page] = {}
    for page in every:
        paths = (f"docs/{page.stem}", page.stem)
        for name in (page.name, *page.alerts, *paths, *(f"{path}.md" for path in paths)):
            found.setdefault(name, page)
    return found


def rendered(page: Page, every: list[Page], width: int) -> Iterator[str]:
    """The page's lines for a terminal: paragraphs of this width, tables in columns, links by the names of the pages."""
    by_path = {each.stem: each for each in every}
    seen: dict[str, Page] = {}

    def linked(match: re.Match[str]) -> str:
        words, target = match.groups()
        if match[0].startswith("!"):
            return ""
        if target.startswith(("https://", "http://")):
            return f"{words} ({target})"
        path = os.path.normpath(os.path.join(os.path.dirname(page.stem), target.partition("#")[0]))
        other = by_path.get(path.removesuffix(".md"))
        if other is None or other is page:
            return words
        seen[other.name] = other
        return other.name if words in (other.name, os.path.basename(target), os.path.basename(path)) else words

    empty = False
    for block in _blocks(page.text):
        if block[0].startswith("```"):
            yield from (f"    {line}".rstrip() for line in block[1:-1])
            empty = False
            continue
        block = _LINK.sub(linked, "\n".join(block)).strip("\n").split("\n")
        if block[0].startswith("#"):
            yield click.style(block[0].lstrip("# "), bold=True)
        elif block[0].startswith("|"):
            yield from _table(block, width)
        elif any(block):
            yield from _wrapped(block, width)
        elif not empty:
            yield ""
        empty = not any(block)
    if seen:
        longest = max(map(len, seen))
        yield from ("", click.style("See also", bold=True))
        yield from (f"    traceloop explain {name:<{longest}}  {other.title}" for name, other in seen.items())


def _blocks(text: str) -> Iterator[list[str]]:
    """Code, headings, tables, list items and paragraphs, each as its lines; an empty line by itself."""
    lines = iter(text.strip().split("\n"))
    block: list[str] = []
    for line in lines:
        code = line.lstrip().startswith("```")
        alone = code or not line.strip() or line.startswith("#")
        if block and (alone or _ITEM.match(line) or line.startswith("|") != block[0].startswith("|")):
            yield block
            block = []
        if code:
            inside = [line.lstrip()]
            for line in lines:
                inside.append(line)
                if line.lstrip().startswith("```"):
                    break
            yield inside
        elif alone:
            yield [line.strip()]
        else:
            block.append(line)
    if block:
        yield block


def _wrapped(block: list[str], width: int) -> list[str]:
    item = _ITEM.match(block[0])
    first, words = (item[1] + item[2], [item[3], *block[1:]]) if item else ("", block)
    return textwrap.wrap(
        " ".join(line.strip() for line in words),
        width,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _table(block: list[str], width: int) -> Iterator[str]:
    rows = [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])] for line in block]
    rows = [row for row in rows if any(cell.strip("-: ") for cell in row)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=False)]
    words = [max(len(word) for cell in column for word in [*cell.split(), ""]) for column in zip(*rows, strict=False)]
    # The widest columns become narrower, as far as their longest words allow; text that does not fit is wrapped.
    while sum(widths) + 2 * (len(widths) - 1) > width:
        room = [size if size > longest else 0 for size, longest in zip(widths, words, strict=True)]
        if not any(room):
            break
        widths[room.index(max(room))] -= 1
    for row in rows:
        cells = [
            textwrap.wrap(cell, size, break_on_hyphens=False, break_long_words=False) if size else []
            for cell, size in zip(row, widths, strict=False)
        ]
        for parts in itertools.zip_longest(*cells, fillvalue=""):
            yield "  ".join(part.ljust(size) for part, size in zip(parts, widths, strict=False)).rstrip()
