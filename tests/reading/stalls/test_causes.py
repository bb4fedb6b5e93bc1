"""Why a run was slow, decided from what was measured around it."""

from __future__ import annotations

import math

import pytest

from traceloop.reading.stalls.causes import CPU, GC, GIL, OFF_CPU, SUSPENDED, is_sample, parts_of


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
