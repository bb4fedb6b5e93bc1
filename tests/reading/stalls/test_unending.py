"""Stalls that are seen while they last, and after their process was killed in the middle of one."""

import signal

import pytest

from tests.helpers.observed import TROUBLES, Observed, guilty_lines, start, wait_for
from traceloop.collector.stall_probe import StallProbe
from traceloop.reading.stalls import parts as stall_statistics

# Stacks and causes are told by clocks: on a busy machine something else is to blame.
pytestmark = pytest.mark.timing


@pytest.mark.parametrize("trouble", ["never", "never_python", "never_regex"])
def test_seen_while_it_lasts_and_after_a_kill(tmp_path, trouble):
    process = start(tmp_path / "run", TROUBLES, trouble)
    observed = Observed(tmp_path / "run")

    def in_progress():
        observed.poll()
        for slot in observed.statistics.processes.values():
            for loop in slot.loops.values():
                info = stall_statistics.loop_stalls_of(loop).in_progress()
                if info is not None and len(info.stacks) >= 2:
                    return info
        return None

    try:
        info = wait_for(in_progress, "a second stack")
        assert info.culprit == f"__main__.{trouble}"
        assert {frame[1] for frame in info.stacks[0].frames if frame[3] == trouble} <= set(guilty_lines(TROUBLES))
        assert info.stacks[1].at - info.stacks[0].at >= 0.04
        assert not info.complete
        assert observed.metric("asyncio_eventloop_running_seconds") >= 0.2
        # It has not ended: it is no slow callback yet.
        assert observed.metric("asyncio_eventloop_slow_callbacks_total") == 0
        if trouble != "never_regex":  # under the GIL nobody can say anything
            line = process.stderr.readline()
            assert line.startswith(f"traceloop: stall: __main__.{trouble} ({TROUBLES}:") or trouble == "never"
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL

    # Another reader, afterwards.
    later = Observed(tmp_path / "run")
    later.poll(last=True)
    (ring, run), *_ = later.index.unfinished()
    seen = later.index.lookup(ring, run)
    if trouble != "never_regex":
        assert seen.culprit == f"__main__.{trouble}"
        assert seen.stacks


def test_signal_can_be_switched_off(tmp_path):
    process = start(tmp_path / "run", TROUBLES, "never_regex", OTEL_PYTHON_TRACELOOP_DUMP_SIGNAL="off")
    observed = Observed(tmp_path / "run")

    def standing():
        observed.poll()
        return observed.probe.refused.get("not advertised")

    try:
        wait_for(standing, "a refusal")
        assert observed.probe.asked == 0
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def test_a_stall_under_the_gil_is_told_from_outside_and_after_a_kill(tmp_path):
    process = start(tmp_path / "run", TROUBLES, "never_regex")
    observed = Observed(tmp_path / "run")
    lines = []
    observed.probe = StallProbe(observed.follower, lines.append)
    try:
        wait_for(lambda: (observed.poll(), observed.probe.asked >= 2)[1], "a second dump")
    finally:
        process.kill()
        process.communicate()
    (line,) = lines  # once for the whole stall
    text = f"blocks the loop and every other thread of process {process.pid}: "
    assert line.startswith("stall: __main__.never_regex (") and " within __main__.handler " + text in line

    later = Observed(tmp_path / "run")
    later.poll(last=True)
    (key,) = later.index.unfinished()
    seen = later.index.lookup(*key)
    assert seen.culprit == "__main__.never_regex"
    assert seen.stacks[-1].at - seen.start >= 0.1
