"""Every trouble of troubles.py: is it named, with its guilty line, its cause and those who paid?"""

import pytest

from tests.helpers.observed import TROUBLES, guilty_lines, observe

# Stacks and causes are told by clocks: on a busy machine something else is to blame.
pytestmark = pytest.mark.timing

CAUSES = {
    "sleep": "off_cpu",
    "blocking_socket": "off_cpu",
    "regex": "cpu",
    "big_json": "cpu",
    "busy": "cpu",
    "collection": "gc",
    "lock": "off_cpu",
    "busy_lock": "off_cpu",
    "gil": "gil",
    "dns": "off_cpu",
}
# These hold the GIL, so that other threads can put nothing in before they end.
HOLD_THE_GIL = {"regex", "big_json", "collection"}


@pytest.mark.parametrize("trouble", CAUSES)
def test_trouble(tmp_path, trouble):
    for attempt in range(3):
        observed = observe(tmp_path / str(attempt), TROUBLES, trouble)
        if not observed.index.suspensions:  # else the machine stood still, and that is what there was
            break
    truth = {}
    for line in observed.truth:
        truth.update(line)
    start, end = truth["start"], truth["end"]

    # On a busy machine something else may have been slow, too; not with this callback.
    slow = [info for info in observed.slow() if info.callback == "__main__.handler"]
    assert [info.culprit for info in slow] == [f"__main__.{trouble}"], slow
    (info,) = slow
    assert info.complete

    # Where: the guilty line, in the first stack of the culprit, under the handler, which main awaits. A busy machine
    # may have kept the handler from its processor before it came to the trouble: there is a stack of that then.
    stack = next(each for each in info.stacks if each.culprit == info.culprit)
    frames = stack.frames
    assert (frames[0][0], frames[0][3]) == (str(TROUBLES), "handler")
    assert (str(TROUBLES), trouble) in [(file, qualname) for file, _, _, qualname in frames]
    lines = [line for file, line, _, qualname in frames if (file, qualname) == (str(TROUBLES), trouble)]
    assert set(lines) <= set(guilty_lines(TROUBLES))
    if stack.source == "watchdog":  # a dump has no coroutines
        assert [qualname for _, _, _, qualname in stack.awaiting] == ["main"]

    # Why. A machine so busy that the run mostly waits for a processor leaves little to tell the cause by: a guess then.
    parts = info.parts
    if not (parts.guess and parts.processor_wait > (end - start) / 3):
        assert parts.cause == CAUSES[trouble], (parts, info.stacks)
    if CAUSES[trouble] == "off_cpu":
        assert info.parts.cpu < (end - start) / 2
    if CAUSES[trouble] == "gc":
        assert info.parts.gc > (end - start) / 2

    # Who paid. What the program saw is between the run's start and its end, and a busy machine may come in between.
    labels = {"callback": "__main__.handler", "culprit": f"__main__.{trouble}"}
    length = observed.metric("asyncio_slow_callback_time_seconds_total", **labels)
    run_end = info.start + length
    assert info.start <= start < end <= run_end
    key = ("__main__.handler", f"__main__.{trouble}")
    matrix = {victim: entry for (*blocker, victim), entry in observed.index.matrix.items() if tuple(blocker) == key}
    ready = matrix["__main__.stood_ready"]
    assert (ready.handles, ready.own_handles) == (5, 0)
    assert ready.exact == pytest.approx(5 * length, abs=1e-3)
    timer = matrix["__main__.fell_due"]
    assert (timer.handles, timer.own_handles) == (1, 0)
    # Where the machine stood still before the run, the timer fell due before it.
    assert timer.exact == pytest.approx(run_end - max(truth["due"], info.start), abs=1e-3)
    own = matrix["__main__.put_in"]
    assert (own.handles, own.exact, own.own_handles) == (0, 0.0, 3)
    assert own.at_most == pytest.approx(3 * length, abs=1e-3)
    if trouble not in HOLD_THE_GIL and info.start < truth["thread"] < truth["put"] < end:
        threadsafe = matrix["__main__.from_thread"]
        assert (threadsafe.handles, threadsafe.own_handles) == (1, 0)
        assert run_end - truth["put"] <= threadsafe.exact <= run_end - truth["thread"]
    # No idle waiter paid.
    assert set(matrix) <= {f"__main__.{name}" for name in ("stood_ready", "fell_due", "put_in", "from_thread", "main")}

    assert observed.metric("asyncio_slow_callbacks_total", **labels) == 1
    exact = sum(entry.exact for entry in matrix.values())
    assert observed.metric("asyncio_callback_blocked_seconds_total", **labels) == pytest.approx(exact, abs=1e-3)
