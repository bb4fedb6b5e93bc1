"""What is in the folders of a run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from traceloop.reading.process_folders import ProcessFolder
from traceloop.record import files


@pytest.mark.parametrize("step_ns", [1_000_000_000, 2_000_000_000])
def test_a_ring_is_found_where_the_file_system_counts_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_ns: int
) -> None:
    tick = 1_700_000_000 * 1_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: tick + step_ns - 1)
    folder = ProcessFolder(str(tmp_path), 1, 1, 1)
    for number in range(2):
        os.utime(tmp_path, ns=(tick, tick))
        assert len(folder.rings()) == number
        (tmp_path / files.loop_ring(number)).touch()
    os.utime(tmp_path, ns=(tick, tick))
    assert len(folder.rings()) == 2


def test_a_folder_that_has_not_changed_for_long_is_not_listed_again(tmp_path: Path) -> None:
    tick = time.time_ns() - 10_000_000_000
    os.utime(tmp_path, ns=(tick, tick))
    folder = ProcessFolder(str(tmp_path), 1, 1, 1)
    assert folder.rings() is folder.rings()
    (tmp_path / files.ENDED).touch()
    assert folder.ended
