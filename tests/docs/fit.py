"""Makes the pages fit what test_pages.py asks: `python -m tests.docs.fit`.

Wraps lines of prose at 120 characters, and lists decisions and findings in mkdocs.yml and decisions/README.md.
Code blocks, tables, headings and the changelog stay as they are.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from tests.helpers.paths import ROOT

WIDTH = 119
_STARTS = re.compile(r"\s*([-*] |\d+\. |\||#|```|!\[|>|<)")
_ITEM = re.compile(r"(\s*)([-*] |\d+\. )?(.*)")


def wrapped(text: str) -> str:
    """The text with its long paragraphs and list items wrapped; those that fit stay as they are."""
    found: list[str] = []
    lines = text.split("\n")
    at, fence = 0, False
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.lstrip().startswith("```"):
            fence = not fence
        code = line.startswith("    ") and (not found or not found[-1].strip() or found[-1].startswith("    "))
        match = _ITEM.match(line)
        marked = match is not None and match[2]
        if fence or not line.strip() or code or (_STARTS.match(line) and not marked) or match is None:
            found.append(line)
            continue
        block = [line]
        while at < len(lines) and lines[at].strip() and not _STARTS.match(lines[at]):
            block.append(lines[at])
            at += 1
        if max(map(len, block)) > WIDTH + 1:
            indent, mark = match[1], match[2] or ""
            words = " ".join([match[3], *(more.strip() for more in block[1:])])
            block = textwrap.wrap(
                words, WIDTH, initial_indent=indent + mark, subsequent_indent=indent + " " * len(mark),
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
        found += block
    return "\n".join(found)


def listed(site: str, folder: str, pages: list[Path]) -> str:
    """mkdocs.yml with all pages of a folder where it has some of them."""
    lines = "".join(f"          - {folder}/{page.name}\n" for page in pages)
    return re.sub(rf"(          - {folder}/(?!README).*\n)+", lines, site)


def main() -> None:
    docs = ROOT / "docs"
    for page in [*ROOT.glob("*.md"), *docs.rglob("*.md")]:
        if page.name != "CHANGELOG.md":
            page.write_text(wrapped(page.read_text("utf-8")), "utf-8")
    decisions = sorted((docs / "decisions").glob("0*.md"))
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    site = listed(site, "decisions", decisions)
    site = listed(site, "findings", sorted((docs / "findings").glob("[a-z]*.md")))
    (ROOT / "mkdocs.yml").write_text(site, "utf-8")
    index = docs / "decisions" / "README.md"
    rows = [f"- [{re.sub(r'# [0-9]+[.] ', '', page.read_text().splitlines()[0])}]({page.name})" for page in decisions]
    index.write_text(
        index.read_text("utf-8").partition("\n- [")[0].rstrip("\n") + "\n\n" + "\n".join(rows) + "\n", "utf-8"
    )


if __name__ == "__main__":
    main()
