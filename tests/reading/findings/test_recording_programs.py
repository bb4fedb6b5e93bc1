"""Real programs whose trouble lies outside of their code: a poll that comes back late, a record that is overwritten."""

from __future__ import annotations

import pytest

from tests.helpers.observed import Observed, observe, program, start
from traceloop.reading.findings.verdict import verdict

POLLS = """
import selectors

class Selector(selectors.DefaultSelector):
    late = []
    def select(self, timeout=None):
        due = time.monotonic() + (timeout or 0.0)
        events = super().select(timeout)
        if timeout and not events:
            time.sleep(DELAY)
            self.late.append(time.monotonic() - due)
        return events

async def main():
    for _ in range(130):
        await asyncio.sleep(0.002)

loop = EventLoop(Selector())
loop.run_until_complete(main())
loop.close()
tell(late=sorted(Selector.late)[-1 - len(Selector.late) // 100], polls=len(Selector.late))
"""


@pytest.mark.timing
@pytest.mark.parametrize("delay", [0.07, 0.0])
def test_a_loop_that_wakes_late_whatever_it_runs(tmp_path, delay):
    """As with a selector that other code has put in the place of the kernel's (gevent, a GUI's). Of the twin it is only
    asked that it agrees with what the selector itself has measured, for a busy machine is late too.
    """
    observed = observe(tmp_path, program(tmp_path, POLLS.replace("DELAY", str(delay))))
    assert observed.facts["polls"] >= 100
    kinds = {each.kind for each in verdict(observed.statistics).findings}
    explained = kinds & {"processor-starved", "gil-contention", "container-throttled"}
    if delay:
        assert "poll-late" in kinds or explained
    elif observed.facts["late"] < 0.03:  # a histogram's bucket ends within this and the threshold
        assert "poll-late" not in kinds


MANY = """
async def main():
    for _ in range(200):
        for _ in range(500):
            asyncio.get_running_loop().call_soon(int)
        await asyncio.sleep(0)

run(main())
"""


@pytest.mark.parametrize(("size", "found"), [("64K", True), ("8M", False)])
def test_a_record_that_was_overwritten_before_it_was_read(tmp_path, size, found):
    process = start(tmp_path / "run", program(tmp_path, MANY), OTEL_PYTHON_TRACELOOP_RING_SIZE=size)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    observed = Observed(tmp_path / "run")
    observed.poll(last=True)
    dropped = [each for each in verdict(observed.statistics).findings if each.kind == "data-dropped"]
    assert ("overwritten" in [each.detail for each in dropped]) == found
    (process,) = observed.statistics.processes.values()
    assert (process.overwritten > process.records / 2) == found
