"""The report's part on stalls: the blocker, its cause and its line, who waited; congestion is told apart."""

import re

import pytest

from tests.helpers.observed import TROUBLES, Observed, guilty_lines, observe, program, start, wait_for
from traceloop.exporters.text.report import report

# Stacks and causes are told by clocks: on a busy machine something else is to blame.
pytestmark = pytest.mark.timing


@pytest.mark.parametrize(("trouble", "cause"), [("busy", "cpu"), ("sleep", "off_cpu")])
def test_blocker_cause_line_and_victims(tmp_path, trouble, cause):
    observed = observe(tmp_path, TROUBLES, trouble)
    text = report(observed.statistics, width=160, full=True)
    part = text[text.index("  Stalls\n") :]
    title = next(line for line in part.splitlines() if f"__main__.{trouble} in __main__.handler" in line)
    assert re.match(r" +[\d.]+ (ms|s)  ", title)
    facts = part.splitlines()[part.splitlines().index(title) + 1]
    assert facts.strip().startswith(f"{cause}: ") and " of CPU time" in facts
    assert any(f"{TROUBLES}:{line} in __main__.{trouble}" in part for line in guilty_lines(TROUBLES))
    assert "in __main__.main, which awaits it" in part
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in part.splitlines()}
    assert rows[f"__main__.{trouble}", "__main__.stood_ready"][0] == "5"
    assert rows[f"__main__.{trouble}", "__main__.fell_due"][0] == "1"
    assert "up to" in " ".join(rows[f"__main__.{trouble}", "__main__.put_in"])


def test_many_short_callbacks_are_congestion_and_nobody_is_blamed(tmp_path):
    observed = observe(
        tmp_path,
        program(
            tmp_path,
            """
def short():
    end = time.monotonic() + 0.001
    while time.monotonic() < end:
        pass

async def main():
    for _ in range(900):
        asyncio.get_running_loop().call_soon(short)
    await asyncio.sleep(0)

run(main())
""",
        ),
        OTEL_PYTHON_TRACELOOP_SLOW_THRESHOLD="0.5",
    )
    text = report(observed.statistics, width=160, full=True)
    assert re.search(r"congested: 1 iteration took .* and no slow one; the longest .* with 90\d", text)
    assert "who blocked" not in text


def test_a_stall_that_never_ended_is_told_first(tmp_path):
    process = start(tmp_path / "run", TROUBLES, "never")
    observed = Observed(tmp_path / "run")
    try:
        wait_for(lambda: (observed.poll(), observed.statistics.processes and observed.index.unfinished())[1], "a stall")
    finally:
        process.kill()
        process.communicate()
    observed.poll(last=True)
    text = report(observed.statistics, width=160, full=True)
    assert re.search(r"or more, never seen to end  __main__\.never in __main__\.handler", text)
    assert f"{TROUBLES}:" in text
