"""What a run says of a /dev/shm that has too little room for the record of a loop."""

from __future__ import annotations

import subprocess

import pytest

from tests.helpers.differential import clean_environ


@pytest.mark.parametrize(("kib", "said"), [(16, False), (128, True)])
def test_no_more_is_promised_than_is_free(traced, tmp_path, kib, said):
    (tmp_path / "app.py").write_text("import asyncio; asyncio.run(asyncio.sleep(0))\n")
    script = f"mount -t tmpfs -o size={kib}k tmpfs /dev/shm || exit 77; {traced.command[0]} run --no-metrics app.py"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], cwd=tmp_path, env=clean_environ(), capture_output=True, text=True,
        timeout=100,
    )  # fmt: skip
    if "unshare" in done.stderr or done.returncode == 77:
        pytest.skip("needs the right to mount")
    line = f"traceloop: /dev/shm has {kib} KiB free; the record of a loop gets at most 64 KiB of it\n"
    assert (line in done.stderr) == said, done.stderr
    assert ("KiB free" in done.stderr) == said, done.stderr
    assert "no ring can be made in /dev/shm" in done.stderr
    assert done.returncode == 0
