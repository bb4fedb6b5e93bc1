"""setuptools' build backend, plus the startup hook: `traceloop.pth` at the root of every wheel.

setuptools has no word for a file at the root of site-packages that works for an editable install too, and hooks into
its commands break with its releases. A wheel is a zip file with a list of its contents: adding to both is the same
for wheels and editable wheels, and rests on nothing but the wheel format
(https://packaging.python.org/en/latest/specifications/binary-distribution-format/).
"""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = (
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
)

HOOK = "traceloop.pth"


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """PEP 517."""
    name = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    _add_hook(os.path.join(wheel_directory, name))
    return name


def build_editable(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """PEP 660."""
    name = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    _add_hook(os.path.join(wheel_directory, name))
    return name


def _add_hook(wheel: str) -> None:
    with open(os.path.join(os.path.dirname(__file__), HOOK), "rb") as file:
        hook = file.read()
    digest = base64.urlsafe_b64encode(hashlib.sha256(hook).digest()).rstrip(b"=").decode("ascii")
    written = f"{wheel}.new"
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                content = content.rstrip(b"\n") + f"\n{HOOK},sha256={digest},{len(hook)}\n".encode("ascii")
                # The list of contents stands last, as the format advises.
                record = entry, content
                continue
            new.writestr(entry, content)
        new.writestr(HOOK, hook)
        new.writestr(*record)
    os.replace(written, wheel)
