"""In a checkout, finds the three packages that lie beside this one and are installed inside it.

Only these names are found there: not the tests, not the repository's other folders. The reasons for the layout are in
docs/decisions/0001-package-layout.md. Not imported where traceloop is installed.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from types import ModuleType

BESIDE = ("exporters", "cli", "dashboards")


class BesideFinder:
    """A finder for ``sys.meta_path``: ``traceloop.exporters`` is ``exporters/`` in the folder of the checkout."""

    def __init__(self, package: str, folder: str) -> None:
        self._folder = folder
        self._folders = {f"{package}.{name}": f"{folder}/{name}" for name in BESIDE}

    def __repr__(self) -> str:
        return f"<traceloop packages in {self._folder}>"

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        folder = self._folders.get(name)
        if folder is None:
            return None
        return spec_from_file_location(name, f"{folder}/__init__.py", submodule_search_locations=[folder])


def find_beside(package: str, folder: str) -> None:
    """Lets ``import`` find the packages in ``folder``. Our modules may be imported anew: the finder stays the same."""
    if not any(repr(finder) == f"<traceloop packages in {folder}>" for finder in sys.meta_path):
        # Before the finder of an editable install, which may be of another checkout.
        place = next((n for n, each in enumerate(sys.meta_path, 1) if each is PathFinder), len(sys.meta_path))
        sys.meta_path.insert(place, BesideFinder(package, folder))
