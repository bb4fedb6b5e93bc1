"""What a run says of a /dev/shm that has too little room for the record of a loop."""

from __future__ import annotations

import pytest

from tests.helpers.small_shared_memory import run_in_shared_memory


@pytest.mark.parametrize(("kib", "said"), [(16, False), (128, True)])
def test_no_more_is_promised_than_is_free(traced, tmp_path, kib, said):
    (tmp_path / "app.py").write_text("import asyncio; asyncio.run(asyncio.sleep(0))\n")
    done = run_in_shared_memory(f"{kib}k", f"{traced.command[0]} run --no-metrics app.py", tmp_path)
    line = f"traceloop: /dev/shm has {kib} KiB free; the record of a loop gets at most 64 KiB of it\n"
    assert (line in done.stderr) == said, done.stderr
    assert ("KiB free" in done.stderr) == said, done.stderr
    assert "no ring can be made in /dev/shm" in done.stderr
    assert done.returncode == 0
