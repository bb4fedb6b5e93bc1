"""What is called when a module has been imported, and what a program sees of it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
import zipfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from traceloop.recording import import_hooks
from traceloop.recording.import_end import call_after_import
from traceloop.recording.import_hooks import when_imported

NAME = "waited_for_here"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to import from. Nothing that earlier tests wait for is waited for meanwhile."""
    others = [each for each in sys.meta_path if not isinstance(each, import_hooks._Finder)]
    monkeypatch.setattr(sys, "meta_path", others)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop(NAME, None)


def write(folder: Path, text: str) -> None:
    (folder / f"{NAME}.py").write_text(text)
    importlib.invalidate_caches()


def test_a_module_is_patched_when_it_is_whole_and_its_spec_is_as_ever(folder: Path) -> None:
    write(folder, "seen = type(__spec__).__name__, type(__loader__).__name__, vars(__loader__)\nvalue = 1\n")
    patched: list[tuple[str, int]] = []
    finders = len(sys.meta_path)
    when_imported(NAME, lambda module: patched.append((module.__name__, module.value)))
    module = importlib.import_module(NAME)
    assert patched == [(NAME, 1)]
    name, loader, attributes = module.seen
    assert (name, loader) == ("ModuleSpec", "SourceFileLoader")
    assert attributes.keys() == {"name", "path"}
    assert type(module.__spec__) is ModuleSpec
    assert len(sys.meta_path) == finders


def test_a_failed_import_has_no_frame_of_ours_and_the_next_one_is_patched(folder: Path) -> None:
    write(folder, "import no_such_module_anywhere\n")
    patched: list[ModuleType] = []
    when_imported(NAME, patched.append)
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(NAME)
    frames = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert not [path for path in frames if Path(path).parent == Path(import_hooks.__file__).parent], frames
    assert not patched
    write(folder, "value = 22222\n")
    assert importlib.import_module(NAME) is patched[0]


def test_looking_for_a_module_does_not_use_the_patch_up(folder: Path) -> None:
    write(folder, "")
    patched: list[ModuleType] = []
    when_imported(NAME, patched.append)
    spec = importlib.util.find_spec(NAME)
    assert spec is not None and spec == importlib.util.find_spec(NAME)
    assert repr(spec).startswith("ModuleSpec(")
    assert not patched
    importlib.import_module(NAME)
    assert len(patched) == 1


def test_a_zips_modules_are_patched_though_they_share_a_loader(folder: Path) -> None:
    with zipfile.ZipFile(folder / "both.zip", "w") as archive:
        archive.writestr(f"{NAME}.py", "import waited_for_beside\n")
        archive.writestr("waited_for_beside.py", "")
    sys.path.insert(0, str(folder / "both.zip"))
    patched: list[str] = []
    try:
        for name in (NAME, "waited_for_beside"):
            when_imported(name, lambda module: patched.append(module.__name__))
        importlib.import_module(NAME)
    finally:
        del sys.path[0]
        sys.modules.pop("waited_for_beside", None)
    assert patched == ["waited_for_beside", NAME]


def test_two_watches_of_one_spec_are_both_called(folder: Path) -> None:
    write(folder, "")
    called: list[int] = []

    class Twice:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            spec = importlib.machinery.PathFinder.find_spec(name, path, target) if name == NAME else None
            if spec is not None:
                call_after_import(spec, lambda module: called.append(1))
                call_after_import(spec, lambda module: called.append(2))
            return spec

    sys.meta_path.insert(0, Twice())
    spec = importlib.import_module(NAME).__spec__
    assert sorted(called) == [1, 2]
    assert type(spec) is ModuleSpec
    assert not spec._initializing


def test_what_the_call_raises_does_not_leave_the_module_half_imported(folder: Path) -> None:
    write(folder, "")

    def stop(module: ModuleType) -> None:
        raise KeyboardInterrupt  # of a signal that comes meanwhile

    when_imported(NAME, stop)
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module(NAME)
    assert not sys.modules[NAME].__spec__._initializing


def test_a_spec_of_another_kind_is_left_alone() -> None:
    class Odd:
        __slots__ = ("name",)

    odd: Any = Odd()
    call_after_import(odd, print)
    assert type(odd) is Odd
