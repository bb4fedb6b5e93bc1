"""Recording leaves no cycles to the garbage collector: libraries' own tests (tornado's) look for those of theirs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.helpers.differential import clean_environ
from tests.helpers.traced import Traced

PROGRAM = """
import asyncio, gc, time

async def main():
    await asyncio.to_thread(int)
    await asyncio.gather(*[asyncio.sleep(0.001) for _ in range(50)])
    asyncio.get_running_loop().call_later(0.001, time.sleep, 0.3)
    await asyncio.sleep(0.002)

gc.collect()
gc.disable()
for _ in range(2):
    asyncio.run(main())
gc.set_debug(gc.DEBUG_SAVEALL)
gc.collect()
print(sorted({type(each).__name__ for each in gc.garbage}))
"""


@pytest.mark.parametrize("core", ["c", "python"])
def test_recording_leaves_no_cyclic_garbage(core: str, traced: Traced, tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(PROGRAM)
    environ = clean_environ({"OTEL_PYTHON_TRACELOOP_CORE": core})
    # Without a collector nobody would remove the record from shared memory.
    recorded = [*traced.command, "--collector", "none", "--record", str(tmp_path / "record")]
    for command in ([traced.python], recorded):
        result = subprocess.run([*command, str(app)], capture_output=True, text=True, env=environ, check=True)
        assert result.stdout == "[]\n", (command, result.stdout)
