"""What two records share, on durations that are made up: a busier machine is no verdict, one slower handler is."""

from __future__ import annotations

from random import Random

import pytest

from traceloop.reading.comparison import FASTER, SLOWER, SOME_SLOWER, Durations, compare_records
from traceloop.reading.shared import Became, shared_by

HANDLERS = ("app.users", "app.orders", "app.prices", "app.stock")
PLUMBING = (
    "traceloop.loop.network.stream._SelectorSocketTransport._read_ready",
    "traceloop.loop.network.accepting.AcceptMixin._accept_connection",
    "asyncio.futures._set_result_unless_cancelled",
)


def durations(seed, factor=1.0, runs=400, **changed):
    """Of one record. factor: of all, more or less; the machine changes its pace every fifty runs."""
    random = Random(seed)
    out = Durations()
    for number in range(runs):
        if number % 50 == 0:
            pace = random.uniform(0.8, 1.25)
        for name in (*HANDLERS, *PLUMBING):
            base = 0.001 if name in HANDLERS else 0.00001
            took = base * factor * pace * random.uniform(0.9, 1.1) * changed.get(name.rpartition(".")[2], 1.0)
            blocks = out.callbacks.setdefault(name, type(out.delays)())
            blocks.add(took)
            out.delays.add(took)
    return out


def judged(compared):
    return {each.name: each.verdict for each in (*compared.callbacks, *compared.schedule_delay)}


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.64])
def test_what_all_callbacks_share_gives_no_verdict(factor):
    for seed in range(5):
        compared = compare_records(durations(seed), durations(100 + seed, factor))
        assert not {SLOWER, SOME_SLOWER, FASTER} & {*judged(compared).values()}
        assert compared.shift.is_everything == (factor != 1.0)
        assert compared.shift.is_the_loop_too or factor == 1.0


@pytest.mark.parametrize("factor", [1.0, 1.64])
def test_one_slower_handler_is_seen(factor):
    for seed in range(5):
        compared = compare_records(durations(seed), durations(100 + seed, factor, prices=2.0))
        found = judged(compared)
        assert found.pop("app.prices") == SLOWER
        assert not {SLOWER, SOME_SLOWER, FASTER} & {*found.values()}


def test_a_handler_that_takes_half_as_long_again_is_seen_in_a_long_record():
    found = judged(compare_records(durations(1, runs=3000), durations(2, runs=3000, prices=1.5)))
    assert found["app.prices"] == SLOWER


def test_processor_waits_explain_what_lasts_as_much_longer():
    others = {"a": Became(1.0, 100), "b": Became(1.02, 100), "c": Became(0.99, 100)}
    assert shared_by(others, (0.0, 0.0)).high < 1.1
    assert shared_by(others, (0.0, 0.5)).high > 2.0
    assert shared_by(others, (0.5, 0.0)).low < 0.5
    assert shared_by({}, (0.0, 0.5)).others == 0
