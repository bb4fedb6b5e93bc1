"""Who may import whom (docs/design.md), for every package and file; no circles; and what importing costs."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from traceloop.cli.pages import GROUPS

# What the files of each package, or each single file, may import of the others. A name with a dot is one file or
# folder of a package, and takes its package's place in the table. Everybody may import version.
ALLOWED: dict[str, set[str]] = {
    "version": set(),
    "notices": {"record", "settings"},
    "parsing": {"record.secrets"},
    "settings": {"parsing", "record"},
    # What both wings share.
    "record": set(),
    # The writing wing.
    "core": {"record"},
    "recording": {"core", "record", "settings", "notices"},
    "loop": {"core", "recording", "record"},
    # The reading wing.
    "reading": {"record", "settings"},
    "exporters": {"reading", "record", "settings", "parsing"},
    "collector": {"exporters", "reading", "record", "settings", "notices"},
    # It reads the process that it runs in.
    "collector.collector_thread": {"collector", "recording", "exporters", "reading", "record", "settings", "notices"},
    # They meet here.
    "instrument": {"collector", "exporters.text", "loop", "recording", "record", "settings", "parsing", "notices"},
    "cli": {
        "core.choose",
        "instrument",
        "collector",
        "exporters",
        "reading",
        "record",
        "settings",
        "parsing",
        "dashboards",
        "notices",
    },
    "dashboards": set(),
    # Faces.
    "__init__": {"api", "loop", "checkout"},
    "__main__": {"cli"},
    "checkout": set(),
    "api": {"ANYTHING"},
    "pytest_plugin": {"ANYTHING"},
    "pytest_watch": {"ANYTHING"},
}

# The libraries that only one part may import.
LIBRARIES = {"opentelemetry": "exporters", "prometheus_client": "exporters", "click": "cli", "google": "exporters"}

FOLDERS = {"": ROOT / "traceloop", **{name: ROOT / name for name in ("exporters", "cli", "dashboards")}}


@functools.cache
def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Every module of ours without the leading ``traceloop.``, parsed. A package's name is its own ``__init__``."""
    found = {}
    for prefix, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [*([prefix] if prefix else []), *path.relative_to(folder).with_suffix("").parts]
            if parts[-1] == "__init__" and len(parts) > 1:
                parts.pop()
            found[".".join(parts)] = path, ast.parse(path.read_text())
    return found


def imports(name: str) -> Iterator[str]:
    """What a module imports anywhere in it, for type checking too, by absolute names."""
    path, tree = modules()[name]
    is_package = path.name == "__init__.py"
    package = ["traceloop", *(name.split(".") if name != "__init__" else [])]
    package = package if is_package else package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


@functools.cache
def edges() -> dict[str, set[str]]:
    """For each module of ours, the modules of ours that it imports by name."""
    found: dict[str, set[str]] = {}
    for name in modules():
        found[name] = set()
        for imported in imports(name):
            first, _, rest = imported.partition(".")
            if first != "traceloop":
                continue
            # `from package import name`: the module of that name if there is one, or what defines the name.
            while rest and rest not in modules():
                rest = rest.rpartition(".")[0]
            found[name].add(rest or "__init__")
        found[name].discard(name)
    return found


def unit(name: str) -> str:
    """The row of the table that a module belongs to."""
    while name not in ALLOWED and "." in name:
        name = name.rpartition(".")[0]
    return name


def allows(importer: str, imported: str) -> bool:
    if imported == "version" or unit(importer) == unit(imported):
        return True
    allowed = ALLOWED[unit(importer)]
    return "ANYTHING" in allowed or any(imported == each or imported.startswith(f"{each}.") for each in allowed)


def test_the_table_has_every_package_and_every_file_at_the_root():
    for name in modules():
        assert unit(name) in ALLOWED, f"who may {name} import? Say so in ALLOWED and in docs/design.md"
    for row in ALLOWED:
        assert row in modules(), f"{row} is no more: take its row out"


def test_imports_run_one_way():
    pairs = {(importer, imported) for importer, found in edges().items() for imported in found}
    assert {pair for pair in pairs if not allows(*pair)} == set()


def test_no_circles_between_files():
    """Depth first over what imports what; an import of a file that is still open closes a circle."""
    done: set[str] = set()
    circles: list[str] = []

    def visit(name: str, way: list[str]) -> None:
        if name in way:
            circles.append(" -> ".join([*way[way.index(name) :], name]))
        elif name not in done:
            for imported in sorted(edges()[name]):
                visit(imported, [*way, name])
            done.add(name)

    for name in modules():
        visit(name, [])
    assert circles == []


@pytest.mark.parametrize(("library", "home"), LIBRARIES.items())
def test_libraries_are_imported_in_one_place(library, home):
    for name in modules():
        if name.partition(".")[0] not in (home, "dashboards"):
            for imported in imports(name):
                assert imported.split(".")[0] != library, f"{name} imports {imported}"


#: The loop's recorded iteration and the decoder's loop over records, for which a call at each turn costs too much.
HOT_LOOPS = {"iterate_recorded", "_decode"}


def test_no_file_and_no_function_is_too_long_to_read():
    for path, tree in modules().values():
        assert len(path.read_text().splitlines()) <= 500, f"{path} has more than 500 lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in HOT_LOOPS:
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 120, f"{path}:{node.lineno}: {node.name} has {length} lines"


def c_sources() -> list[Path]:
    return [path for folder in ("traceloop", "exporters") for path in sorted((ROOT / folder).rglob("*.[ch]"))]


def test_sources_in_c_have_short_files_and_lines():
    for path in c_sources():
        lines = path.read_text().splitlines()
        assert len(lines) <= 600, f"{path} has more than 600 lines"
        assert [number for number, line in enumerate(lines, 1) if len(line) > 120] == [], path


def test_the_header_of_a_folder_lists_its_sources_in_c():
    for folder in {path.parent for path in c_sources()}:
        headers = "".join(path.read_text() for path in folder.glob("*.h"))
        for source in folder.glob("*.c"):
            assert f" {source.name} " in headers, f"{source}: no header says what it does"


def run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_package_imports_next_to_nothing():
    loaded = run("import sys, traceloop; print(*{name.partition('.')[0] for name in sys.modules})")
    assert "traceloop" in loaded
    assert not {"asyncio", "opentelemetry", "prometheus_client", "click"} & set(loaded)


def test_public_names():
    names = run("import traceloop; print(*sorted(name for name in dir(traceloop) if name[0] != '_'))")
    assert {"EventLoop", "new_event_loop", "run", "install", "start"} <= set(names)


def test_a_checkout_has_three_packages_beside_this_one_and_no_more():
    code = """
import importlib.util, traceloop
for name in ("exporters", "cli", "dashboards", "tests", "traceloop", "benchmarks", "buildtools", "docs", "examples"):
    if importlib.util.find_spec(f"traceloop.{name}"):
        print(name)
"""
    assert run(code) == ["exporters", "cli", "dashboards"]


def test_every_package_is_installed():
    """A folder that is missing from this list is there in a checkout, and in no installation."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = set()
    for top in ("traceloop", "exporters", "cli", "dashboards"):
        for file in (ROOT / top).rglob("__init__.py"):
            name = ".".join(file.parent.relative_to(ROOT).parts)
            there.add(name if top == "traceloop" else f"traceloop.{name}")
    assert there <= listed


def test_the_pages_that_explain_shows_are_installed():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {f"traceloop.docs{'.' if folder else ''}{folder}" for folder, _ in GROUPS}
    assert folders <= set(setuptools["packages"]) and setuptools["package-dir"]["traceloop.docs"] == "docs"
    assert {name: setuptools["package-data"].get(name) for name in folders} == {name: ["*.md"] for name in folders}


def test_every_file_of_a_package_is_installed_but_sources_in_c():
    """`package-data` is all that decides: what MANIFEST.in names is the source distribution's."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["include-package-data"] is False
    named = [pattern for package in ("*", "traceloop") for pattern in setuptools["package-data"][package]]
    patterns = ["*.py", "*.c", "*.h", ".lint", *named]
    built = {"__pycache__", ".mypy_cache"}
    files = [path for folder in FOLDERS.values() for path in folder.rglob("*") if path.is_file()]
    data = [path for path in files if not built & set(path.parts) and path.suffix not in (".so", ".pyc")]
    assert [path for path in data if not any(path.match(pattern) for pattern in patterns)] == []
    assert sum(path.suffix == ".yml" for path in data) > 10
