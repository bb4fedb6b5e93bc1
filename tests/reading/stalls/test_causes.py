"""Why a run was slow, decided from what was measured around it."""

from __future__ import annotations

import math

import pytest

from traceloop.reading.budgets import net_seconds
from traceloop.reading.stalls.causes import CPU, GC, GIL, OFF_CPU, SUSPENDED, is_sample, parts_of
from traceloop.reading.stalls.model import StallInfo


def between(begin, end, *, cpu=0.0, process=None, wait=0.0, slices=0):
    """Two measurements: what the loop's thread used between them, the process, waiting, times put on a processor."""
    process = cpu if process is None else process
    return [(begin, 5.0, 7.0, 1.0, 10), (end, 5.0 + cpu, 7.0 + process, 1.0 + wait, 10 + slices)]


UNKNOWN = [(10.0, -1.0, 7.0, -1.0, -1), (11.0, -1.0, 7.0, -1.0, -1)]

# A run from 10 to 11 s. What was measured, collections (start, duration), suspensions (from, to); cause, and whether
# that is a guess.
CASES = {
    "nothing is known": ([], [], [], "", False),
    "one measurement": ([(10.5, 5.0, 7.0, 1.0, 10)], [], [], "", False),
    "clocks that are not read": (UNKNOWN, [], [], "", False),
    "it computed": (between(10, 11, cpu=1.0), [], [], CPU, False),
    "it computed for most of it": (between(10, 11, cpu=0.6), [], [], CPU, False),
    "a collection that waited itself": (between(10, 11, cpu=0.05, wait=0.94), [(10.1, 0.8)], [], GC, True),
    "it slept": (between(10, 11, cpu=0.01), [], [], OFF_CPU, False),
    "others computed and it woke for the GIL": (between(10, 11, cpu=0.05, process=1.0, slices=150), [], [], GIL, False),
    "others computed and it slept": (between(10, 11, cpu=0.05, process=1.0, slices=3), [], [], OFF_CPU, False),
    "others computed a little": (between(10, 11, cpu=0.05, process=0.4, slices=150), [], [], GIL, True),
    "others computed and wakes are not counted": (
        [(10.0, 5.0, 7.0, 1.0, -1), (11.0, 5.0, 8.0, 1.0, -1)], [], [], GIL, True,
    ),
    "a collection": (between(10, 11, cpu=1.0), [(10.1, 0.7)], [], GC, False),
    "a collection before it": (between(10, 11, cpu=1.0), [(9.0, 0.7)], [], CPU, False),
    "two short collections": (between(10, 11, cpu=1.0), [(10.1, 0.3), (10.6, 0.3)], [], GC, False),
    "it was stopped": (between(10, 11, cpu=0.1), [], [(10.2, 10.9)], SUSPENDED, False),
    "it was stopped before": (between(10, 11, cpu=1.0), [], [(5.0, 10.1)], CPU, False),
    "it waited for a processor": (between(10, 11, cpu=0.4, wait=0.55), [], [], CPU, False),
    "it waited for a processor all the time": (between(10, 11, cpu=0.03, wait=0.97), [], [], CPU, True),
    "its wait may have been longer than is said": (between(9.9, 11, cpu=0.05, wait=0.92), [], [], OFF_CPU, True),
    "its wait may have been shorter than is said": (between(9.9, 11, cpu=0.15, wait=0.85), [], [], CPU, True),
    "it waited for a processor, and for something else": (between(9.9, 11, cpu=0.05, wait=0.3), [], [], OFF_CPU, False),
    "measured from long before": (between(9.5, 11, cpu=0.8), [], [], CPU, True),
    "and to long after": (between(9, 12, cpu=0.8), [], [], OFF_CPU, True),
    "a clock that ran backwards": (between(10, 11, cpu=-5.0), [], [], OFF_CPU, False),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_causes(case):
    samples, collections, suspensions, cause, guess = CASES[case]
    parts = parts_of(10.0, 11.0, samples, collections, suspensions)
    assert (parts.cause, parts.guess) == (cause, guess), parts
    # In whichever order they came, and twice.
    assert parts_of(10.0, 11.0, [*reversed(samples), *samples], collections, suspensions) == parts


def test_the_parts():
    parts = parts_of(10.0, 11.0, between(10, 11, cpu=0.5, wait=0.2), [(10.9, 0.5)], [(10.0, 10.25)])
    assert parts.cpu == pytest.approx(0.5) and parts.processor_wait == pytest.approx(0.2)
    assert parts.gc == pytest.approx(0.1) and parts.suspended == pytest.approx(0.25)
    unknown = parts_of(10.0, 11.0, [])
    assert (unknown.cpu, unknown.processor_wait, unknown.gc) == (-1.0, -1.0, 0.0)
    assert parts_of(11.0, 10.0, between(10, 11)).cause == ""


def test_a_sum_is_between_its_bounds():
    """Measured half a second before and after: what was used then may be the run's, or may not."""
    parts = parts_of(10.0, 11.0, between(9.5, 11.5, cpu=1.0))
    assert 0.0 <= parts.cpu <= 1.0 and parts.guess


def test_a_wait_is_the_runs_though_it_is_counted_when_it_ends():
    """The kernel counts a wait at its end: measured in the middle of one, nothing has been waited for yet."""
    samples = [
        (10.0, 5.0, 7.0, 1.0, 10),
        (10.6, 5.0, 7.0, 1.0, 10),
        (10.9, 5.1, 7.1, 1.8, 12),
        (11.0, 5.1, 7.1, 1.9, 13),
    ]
    parts = parts_of(10.0, 11.0, samples)
    assert parts.processor_wait == pytest.approx(0.9) == parts.longest_wait
    assert parts.cpu == pytest.approx(0.1)


def test_as_much_as_a_run_can_have_waited():
    """Measured before it and after it, at a distance: all that was waited for may have been in it."""
    parts = parts_of(10.0, 11.0, between(9.5, 11.5, cpu=0.5, wait=0.9))
    assert parts.longest_wait == pytest.approx(0.9) and parts.processor_wait < 0.6
    assert parts_of(10.0, 11.0, between(10.0, 10.75, wait=0.5)).longest_wait == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        ((1.0, 2.0, 3.0, 4.0, 5), True),
        ([1, 2, 3, 4, 5], True),
        ((1.0, 2.0, 3.0, 4.0), False),
        ((1.0, 2.0, 3.0, 4.0, "5"), False),
        ((1.0, 2.0, math.nan, 4.0, 5), False),
        ((1.0, 2.0, math.inf, 4.0, 5), False),
        ((1.0, 2.0, 1e300, 4.0, 5), False),
        (None, False),
        ("12345", False),
    ],
)
def test_measurements_out_of_a_record(value, is_one):
    assert is_sample(value) is is_one


def test_what_the_machine_owes_a_run_is_taken_off():
    """Of a run of 1 s: what is left as its own."""

    def net(cpu, wait, most=10.0):
        parts = parts_of(10.0, 11.0, between(10, 11, cpu=cpu, wait=wait))
        run = StallInfo(0, 10.0, 11.0, 0.0, "app.work", "app.work", {}, [], parts, None, 0, True, None)
        return net_seconds(1.0, run, most)

    assert net(cpu=0.1, wait=0.2) == pytest.approx(0.8)
    # It waited most of the time: whatever else it waited for, its holder may have waited for a processor too.
    assert net(cpu=0.1, wait=0.6) == pytest.approx(0.1)
    assert net(cpu=0.6, wait=0.1) == pytest.approx(0.9)
    # No more than the thread can have waited.
    assert net(cpu=0.1, wait=0.6, most=0.1) == pytest.approx(0.9)
    assert net_seconds(1.0, None, 0.3) == pytest.approx(0.7) and net_seconds(1.0, None) == 1.0
