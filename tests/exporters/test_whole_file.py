"""Files that have their name once they are complete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading

import pytest

from tests.helpers.paths import ROOT
from traceloop.exporters.whole_file import whole_file

WRITE = """
import sys
from traceloop.exporters.whole_file import whole_file
with whole_file(sys.argv[1]) as out:
    out.write(b"after")
"""
# Root writes everywhere, but for those whom this program starts.
AS_ANYBODY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "out"
    path.write_text("before")
    with pytest.raises(ValueError), whole_file(str(path)) as out:
        out.write(b"half")
        raise ValueError
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["out"]
    with whole_file(str(path)) as out:
        out.write(b"after")
    assert path.read_text() == "after" and os.listdir(tmp_path) == ["out"]


def test_a_pipe_is_written_and_not_replaced(tmp_path):
    """Nor is a device: for root `--html /dev/null` would replace it for the whole machine."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    with whole_file(str(path)) as out:
        out.write(b"text")
    reader.join()
    assert read == [b"text"] and path.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_the_target_of_a_link_is_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere" / "out")
    for text in (b"first", b"second"):
        with whole_file(str(link)) as out:
            out.write(text)
        assert link.is_symlink() and (tmp_path / "elsewhere" / "out").read_bytes() == text


@pytest.mark.skipif(bool(AS_ANYBODY) and not shutil.which("setpriv"), reason="root without setpriv writes everywhere")
def test_a_file_in_a_folder_that_takes_no_other_is_written_in_place(tmp_path):
    path = tmp_path / "out"
    path.write_text("before, and longer")
    tmp_path.chmod(0o500)
    try:
        done = subprocess.run(
            [*AS_ANYBODY, sys.executable, "-c", WRITE, str(path)], cwd=ROOT, capture_output=True, text=True
        )
    finally:
        tmp_path.chmod(0o700)
    if done.stderr.startswith("setpriv:"):
        pytest.skip("root may write everywhere here")
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_text() == "after" and os.listdir(tmp_path) == ["out"]


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
def test_a_file_that_is_mounted_by_itself_is_overwritten(tmp_path):
    path, mounted = tmp_path / "out", tmp_path / "mounted"
    path.write_text("before, and longer")
    mounted.touch()
    script = 'mount --bind "$1" "$2" && exec "$3" -c "$4" "$2"'
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh", path, mounted, sys.executable, WRITE],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("needs the right to mount")
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_text() == "after" and sorted(os.listdir(tmp_path)) == ["mounted", "out"]
