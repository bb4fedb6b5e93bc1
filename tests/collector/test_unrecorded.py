"""Runs that recorded nothing: where the reason is that there was no room, and where that is not known."""

import os

import pytest

from traceloop.collector.unrecorded import _is_full


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a file system that counts no inodes")
def test_a_file_system_that_counts_no_inodes_is_not_full():
    assert os.statvfs("/proc").f_favail == 0
    assert not _is_full("/proc")


def test_a_folder_that_is_gone_takes_no_word(tmp_path):
    assert _is_full(str(tmp_path / "gone"))
    assert not _is_full(str(tmp_path))
