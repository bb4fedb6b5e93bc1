"""The pages of the documentation: links that lead somewhere, lines that fit, decisions that are numbered.

`python -m tests.docs.fit` wraps lines and completes the lists of decisions and findings.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def prose(path: Path) -> list[str]:
    """The lines of a page outside of code blocks, with inline code left empty."""
    found, fence = [], False
    for line in path.read_text("utf-8").splitlines():
        if line.lstrip().startswith("```"):
            fence = not fence
        elif not fence:
            found.append(re.sub(r"`[^`]*`", "``", line))
    return found


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = [line.lstrip("#").strip() for line in prose_with_code(path) if line.startswith("#")]
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def prose_with_code(path: Path) -> list[str]:
    """The lines of a page outside of code blocks."""
    text = re.sub(r"(?ms)^\s*```.*?^\s*```", "", path.read_text("utf-8"))
    return text.splitlines()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall("\n".join(prose(path))):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        page = (path.parent / name).resolve() if name else path
        assert page.exists(), target
        if anchor:
            assert anchor in anchors(page), target
        if path.is_relative_to(ROOT / "docs") and page.suffix == ".md":
            assert page.is_relative_to(ROOT / "docs"), f"{target}: not on the site"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_lines_of_prose_fit(path: Path) -> None:
    if path.name == "CHANGELOG.md":
        return  # an entry is one line
    long = [line for line in prose_with_code(path) if len(line) > 120 and not line.lstrip().startswith("|")]
    assert not long, "run python -m tests.docs.fit"


def test_every_page_can_be_found_from_the_first() -> None:
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        for target in LINK.findall("\n".join(prose(page))):
            found = (page.parent / target.partition("#")[0]).resolve()
            if found.is_dir():
                todo += found.glob("*.md")
            elif found.exists():
                todo.append(found)
    assert [path.name for path in PAGES if path not in seen] == []


def test_decisions_are_numbered_without_gaps() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    for number, page in enumerate(pages, 1):
        assert page.read_text().startswith(f"# {number}. ")


def test_every_page_is_on_the_site() -> None:
    listed = re.findall(r"[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text())
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in PAGES if path.is_relative_to(ROOT / "docs")]
    assert sorted(listed) == sorted(pages)
