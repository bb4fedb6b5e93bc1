"""A handle that blocks in a greenlet, as code under SQLAlchemy's asyncio extension does, is named like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.observed import HEAD, guilty_lines, observe

pytest.importorskip("greenlet")

PROGRAM = """
import greenlet
def load():
    time.sleep(0.4)  # guilty
async def main():
    await asyncio.sleep(0.01)
    greenlet.greenlet(load).switch()
    await asyncio.sleep(0.01)
run(main())
"""


@pytest.mark.parametrize("core", ["c", "python"])
def test_a_block_within_a_greenlet_is_named(tmp_path: Path, core: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(HEAD + PROGRAM)
    observed = observe(tmp_path, program, OTEL_PYTHON_TRACELOOP_CORE=core)
    (info,) = [info for info in observed.slow() if info.culprit == "__main__.load"]
    assert info.callback == "__main__.main"
    assert info.stacks[0].frames[-1][1] in guilty_lines(program)
