"""Who may import whom (docs/design.md), and what importing costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What each part of the house may import of the others.
ALLOWED = {
    "traceloop.loop": {"traceloop.loop", "traceloop.recording"},
    "traceloop.recording": {"traceloop.recording"},
    "traceloop.reading": {"traceloop.reading", "traceloop.recording"},
}
PARTS = ("loop", "recording", "reading", "exporters", "cli")
FOLDERS = {
    "traceloop.loop": ROOT / "traceloop" / "loop",
    "traceloop.recording": ROOT / "traceloop" / "recording",
    "traceloop.reading": ROOT / "traceloop" / "reading",
    "traceloop.exporters": ROOT / "exporters",
    "traceloop.cli": ROOT / "cli",
    "traceloop.dashboards": ROOT / "dashboards",
}


def imports(path: Path, package: str) -> set[str]:
    """The modules that a file imports anywhere in it, by their absolute names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return found


def files(part: str) -> list[tuple[Path, str]]:
    folder = FOLDERS[part]
    return [
        (path, ".".join([part, *path.relative_to(folder).parent.parts])) for path in sorted(folder.rglob("*.py"))
    ]


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_run_one_way(part):
    checked = 0
    for path, package in files(part):
        for name in imports(path, package):
            if name.startswith("traceloop.") and name.split(".")[1] in PARTS:
                checked += 1
                assert ".".join(name.split(".")[:2]) in ALLOWED[part], f"{path.relative_to(ROOT)} imports {name}"
    assert checked


def test_faces_are_imported_by_nobody_below():
    for part in ("traceloop.loop", "traceloop.recording", "traceloop.reading", "traceloop.exporters"):
        for path, package in files(part):
            for name in imports(path, package):
                assert not name.startswith("traceloop.cli"), f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(
    ("library", "home"),
    [("opentelemetry", "exporters"), ("prometheus_client", "exporters"), ("click", "cli")],
)
def test_libraries_are_imported_in_one_place(library, home):
    for folder in ("traceloop", "exporters", "cli"):
        if folder == home:
            continue
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name in imports(path, "x"):
                assert name.split(".")[0] != library, f"{path.relative_to(ROOT)} imports {name}"


def test_the_package_imports_next_to_nothing():
    code = "import sys, traceloop; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "traceloop" in loaded
    assert not {"asyncio", "opentelemetry", "prometheus_client", "click"} & set(loaded)


def test_public_names():
    code = "import traceloop; print(*sorted(name for name in dir(traceloop) if name[0] != '_'))"
    names = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"EventLoop", "new_event_loop", "run", "install", "start"} <= set(names)
