"""Extension modules that were built from other sources than those beside them: plain Python runs instead."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cores import NATIVE
from traceloop.record.built import OUTDATED, SHARED, fingerprint, is_outdated, sources_of

ROOT = Path(__file__).resolve().parents[2]
LINE = f"traceloop: {OUTDATED}\n"
FOLDERS = {
    "core": Path("traceloop", "core"),
    "reader": Path("traceloop", "reading", "decoding"),
    "packer": Path("exporters", "otlp"),
}
WHICH = """
import asyncio, traceloop
from traceloop.core.choose import core
from traceloop.reading.decoding.choose import native, extension

traceloop.run(asyncio.sleep(0))
packer = extension("traceloop.exporters.otlp._packer")
print(core().native is not None, native() is not None, packer is not None)
"""

built = pytest.mark.skipif(NATIVE is None, reason="there are no extension modules here")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Another checkout, with the modules that were built for this interpreter."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in ("traceloop", "exporters", "cli", "dashboards"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)  # by which a checkout is known
    return root


def change(path):
    """A change that any pull might bring; returns what takes it back."""
    before = path.read_bytes()
    path.write_bytes(before + b"\n/* Changed. */\n")
    return lambda: path.write_bytes(before)


def traceloop(root, *words):
    done = subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


@built
def test_sources_that_were_only_written_anew_belong_to_what_was_built(checkout):
    for folder in FOLDERS.values():
        for path in (checkout / folder / "native").glob("*.[ch]"):
            os.utime(path)
    assert traceloop(checkout, "-c", WHICH) == ("True True True\n", "")


@built
@pytest.mark.parametrize("part", FOLDERS)
def test_plain_python_takes_the_place_of_what_was_built_from_other_sources(checkout, part):
    take_back = change(checkout / FOLDERS[part] / "native" / "module.c")
    try:
        found = {"core": "True", "reader": "True", "packer": "True"} | {part: "False"}
        out, err = traceloop(checkout, "-c", WHICH)
        assert out == " ".join(found.values()) + "\n"
        assert err == (LINE if part == "core" else "")  # the collector reads and packs
        out, err = traceloop(checkout, "-m", "traceloop", "--version")
        assert f"Python {part}" in out and err == LINE
    finally:
        take_back()


@built
def test_a_shared_header_belongs_to_all_of_them(checkout):
    take_back = change(checkout / "traceloop" / SHARED[0] / "extension.h")
    try:
        assert traceloop(checkout, "-c", WHICH) == ("False False False\n", LINE)
    finally:
        take_back()


COLLECTOR = """
import sys
from traceloop.collector.collector import Collector
from traceloop.settings import Settings

Collector(Settings(run_dir=sys.argv[1], metrics=False)).open(None)
"""


@built
def test_the_collector_says_it_of_the_reader_once_a_run(checkout, tmp_path):
    take_back = change(checkout / FOLDERS["reader"] / "native" / "module.c")
    try:
        assert traceloop(checkout, "-c", COLLECTOR, tmp_path) == ("", LINE)
        assert traceloop(checkout, "-c", COLLECTOR, tmp_path) == ("", "")
    finally:
        take_back()


def test_what_is_younger_than_its_sources_was_built_from_them(tmp_path):
    (tmp_path / "native").mkdir()
    source, module = tmp_path / "native" / "module.c", tmp_path / "module.so"
    source.write_text("")
    module.write_text("")
    os.utime(source, (1.0, 1.0))
    assert not is_outdated(str(module), "")
    os.utime(module, (0.5, 0.5))
    shared = [str(ROOT / "traceloop" / folder) for folder in SHARED]
    assert is_outdated(str(module), "")
    assert not is_outdated(str(module), fingerprint(sources_of(str(tmp_path / "native"), shared)))


def test_what_was_installed_has_no_sources(tmp_path):
    (tmp_path / "module.so").write_text("")
    assert not is_outdated(str(tmp_path / "module.so"), "")
    assert not is_outdated("", "")
