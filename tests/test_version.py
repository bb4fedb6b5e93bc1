"""What a message tells pip to install, where traceloop is missing in an environment."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from traceloop.version import what_to_install


def installed_from(path: Path, site: Path) -> None:
    """``site`` as pip leaves it after `pip install PATH`."""
    folder = site / "traceloop_eventloop-0.1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: traceloop-eventloop\nVersion: 0.1.0\n")
    (folder / "direct_url.json").write_text(json.dumps({"url": path.as_uri(), "archive_info": {}}))


def test_the_wheel_that_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "my wheels" / "traceloop_eventloop-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    installed_from(wheel, tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert shlex.split(what_to_install()) == [str(wheel)]


def test_a_checkout_where_the_wheel_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_from(tmp_path / "deleted.whl", tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert shlex.split(what_to_install()) == [str(ROOT)]


def test_metadata_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed_from(tmp_path, tmp_path / "site")
    (tmp_path / "site" / "traceloop_eventloop-0.1.0.dist-info" / "direct_url.json").write_text("[")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert shlex.split(what_to_install()) == [str(ROOT)]
