"""Each rule on statistics made in memory: just over its thresholds, and just under them."""

from __future__ import annotations

import pytest

from tests.helpers.made_statistics import SITES, Made
from tests.helpers.made_troubles import full_executor, grown
from traceloop.reading.decoding.decoded import Collection, Decoded, StackNode, StackSample
from traceloop.reading.findings import thresholds as limits
from traceloop.reading.findings import verdict as module
from traceloop.reading.findings.blocking_kinds import KINDS
from traceloop.reading.findings.model import CRITICAL, NOTE, WARNING, Finding
from traceloop.reading.findings.slow import Slow
from traceloop.reading.findings.slow_runs import kept
from traceloop.reading.findings.verdict import verdict
from traceloop.reading.stalls.index import Congestion
from traceloop.reading.stalls.model import StackTaken
from traceloop.reading.stalls.parts import stalls_of
from traceloop.reading.statistics.callbacks import SlowTotals
from traceloop.reading.statistics.counting import histogram_of
from traceloop.reading.statistics.labels import DEFAULT_LIMIT
from traceloop.reading.statistics.saturation import Filler
from traceloop.record import layout


def test_nothing_wrong_is_said_with_what_it_rests_on():
    made = Made()
    made.ran("app.prices.load", 1000, 0.5)
    judged = verdict(made.statistics)
    assert judged.findings == ()
    assert judged.line == "no trouble found (1,000 callbacks in 1 min 40 s, 99% waited 1.00 ms or less)"


def test_a_slow_callback_of_which_no_stack_is_known():
    made = Made()
    slow = made.loop.callbacks.slow["app.prices.load", "unknown"] = SlowTotals()
    slow.runs, slow.seconds, slow.longest_s, slow.blocked_s = 3, 0.9, 0.4, 5.0
    found = made.one("blocking-call")
    assert found.who.function == "app.prices.load" and (found.who.file, found.who.line) == (SITES[1].file, 31)
    assert found.title == "app/prices.py:31 in load blocks the loop: it runs for too long"
    assert found.harm == "900 ms in 3 runs, 400 ms at most; others waited 5.00 s for it"
    assert found.cost_s == 5.9 and found.severity == WARNING


def test_of_a_callback_beyond_the_names_that_are_counted_the_cause_and_the_line_are_known():
    """The statistics call it `other`; what is known of its runs goes by its own name."""
    made = Made()
    for number in range(DEFAULT_LIMIT):
        made.process.labels.admit(f"app.many.f{number}")
    made.slow_run(0.3, cpu=0.29, waited=0.0)
    made.loop.callbacks.slow["other", "unknown"] = made.loop.callbacks.slow.pop(("app.prices.load", "unknown"))
    found = made.one("cpu-on-loop")
    assert found.harm == "300 ms once" and any("290 ms of CPU time" in line for line in found.evidence)


def test_the_same_code_that_blocks_several_loops_is_one_finding():
    made = Made()
    for name, longest in (("MainThread", 0.3), ("worker-1", 0.4), ("worker-2", 0.2)):
        loop = made.loop if name == "MainThread" else made.process.open_loop(name, 2, 0.0, None, None)
        loop.active_s, loop.idle_s, loop.iterations = 1.0, 99.0, 1000
        slow = loop.callbacks.slow["app.prices.load", "app.prices.load"] = SlowTotals()
        slow.runs, slow.seconds, slow.longest_s = 1, longest, longest
    found = made.one("blocking-call")
    assert (found.loop, found.harm) == ("", "900 ms in 3 runs, 400 ms at most")
    assert "in 3 loops: MainThread, worker-1, worker-2" in found.evidence


@pytest.mark.parametrize(("seconds", "severity"), [(0.05, NOTE), (2.0, WARNING), (20.0, CRITICAL)])
def test_severity_is_the_share_of_the_time_observed(seconds, severity):
    made = Made()
    slow = made.loop.callbacks.slow["app.prices.load", "app.prices.load"] = SlowTotals()
    slow.runs, slow.seconds, slow.longest_s = 30, seconds, seconds / 30
    assert made.one("blocking-call").severity == severity


def test_one_run_as_long_as_the_alert_allows_is_critical_however_long_the_program_ran():
    made = Made(active=10, idle=1e6)
    slow = made.loop.callbacks.slow["app.prices.load", "app.prices.load"] = SlowTotals()
    slow.runs, slow.seconds, slow.longest_s = 1, limits.BLOCKED_SECONDS, limits.BLOCKED_SECONDS
    assert made.one("blocking-call").severity == CRITICAL


@pytest.mark.parametrize(
    ("active", "delay", "found"), [(95.0, 0.5, True), (85.0, 0.5, False), (95.0, 0.05, False), (0.95, 0.5, False)]
)
def test_saturated(active, delay, found):
    made = Made(active=active, idle=100.0 - active if active > 1 else 0.05)
    made.ran("app.prices.load", 900, active * 0.9, delay)
    made.ran("app.prices.parse", 100, active * 0.05, delay)
    assert (("loop-saturated", "") in made.kinds()) == found
    if found:
        each = made.one("loop-saturated")
        assert each.who.function == "app.prices.load" and "app/prices.py:31 in load" in each.title
        assert each.cost_s == pytest.approx(500.0)


def test_a_saturated_loop_whose_time_goes_to_slow_callbacks_is_told_by_those():
    made = Made(active=95.0, idle=5.0)
    made.ran("app.prices.load", 1000, 94.0, 0.5)
    slow = made.loop.callbacks.slow["app.prices.load", "app.prices.load"] = SlowTotals()
    slow.runs, slow.seconds, slow.longest_s = 300, 60.0, 0.4
    assert [kind for kind, _ in made.kinds()] == ["blocking-call"]


@pytest.mark.parametrize(("active", "said"), [(95.0, True), (85.0, False), (0.95, False)])
def test_a_loop_that_is_busy_though_nothing_is_wrong(active, said):
    made = Made(active=active, idle=100.0 - active if active > 1 else 0.05)
    made.ran("app.prices.load", 900, active * 0.9, 0.06)
    judged = verdict(made.statistics)
    assert judged.findings == ()
    where = "100.0% of it at app/prices.py:31 in load; `traceloop run --profile` names the lines"
    assert judged.busy == ((f"Loop MainThread is busy 95.0% of the time: {where}",) if said else ())


@pytest.mark.parametrize(("length", "runs", "said"), [(0.08, 100, True), (0.08, 4, False), (0.02, 400, False)])
def test_runs_that_hold_a_loop_though_none_is_slow(length, runs, said):
    made = Made(active=9.0, idle=41.0)
    made.ran("app.prices.load", runs, runs * length)
    made.loop.callbacks.callbacks["app.prices.load"].longest_s = length
    histogram_of(made.loop.callbacks.durations, "task").add_all([length] * runs)
    judged = verdict(made.statistics)
    assert judged.findings == () and bool(judged.busy) == said
    for sentence in judged.busy:
        assert sentence.startswith("100 runs of 25.0 ms or longer held loop MainThread for some 1"), sentence
        assert "the longest for 80.0 ms at app/prices.py:31 in load: what arrives meanwhile waits" in sentence


def test_a_finding_that_says_nothing_of_the_loop_does_not_hide_what_holds_it(monkeypatch):
    made = Made(active=9.0, idle=41.0)
    made.ran("app.prices.load", 100, 8.0)
    histogram_of(made.loop.callbacks.durations, "task").add_all([0.08] * 100)
    for kind, told in (("waiting", True), ("cpu-on-loop", False)):
        found = Finding(kind, "", WARNING, "title", "harm", 1.0, made.process.slot, "", None, (), "remedy")
        monkeypatch.setattr(module, "RULES", (lambda scope, found=found: iter((found,)),))
        judged = verdict(made.statistics)
        assert judged.findings == (found,) and bool(judged.busy) == told


def test_the_profile_says_which_line_a_busy_loop_is_busy_with():
    made = Made(active=95.0, idle=5.0)
    made.ran("app.prices.load", 900, 90.0, 0.06)
    decoded = Decoded(None)
    decoded.profile_rate = 100.0
    decoded.nodes = [StackNode(1, 0, 1, False), StackNode(2, 1, 2, False)]
    decoded.samples = [StackSample(5.0, 3.0, 1.0, 2, 0), StackSample(6.0, 1.0, 1.0, 1, 0)]
    made.process.feed(decoded, None)
    where = "75.0% of it at app/prices.py:60 in parse"
    assert verdict(made.statistics).busy == (f"Loop MainThread is busy 95.0% of the time: {where}",)
    # A finding on the process says it, and who.
    slow = made.loop.callbacks.slow["app.prices.load", "app.prices.load"] = SlowTotals()
    slow.runs, slow.seconds, slow.longest_s = 300, 60.0, 0.4
    assert verdict(made.statistics).busy == ()


@pytest.mark.parametrize(("seconds", "found"), [(2.5, True), (1.5, False)])
def test_congested(seconds, found):
    made = Made(active=50.0, idle=50.0)
    made.ran("app.prices.parse", 100_000, 40.0)
    congestion = stalls_of(made.process).index.congestion[0] = Congestion()
    congestion.iterations, congestion.seconds, congestion.longest, congestion.callbacks = 10, seconds, 0.3, 900
    assert (("congested", "") in made.kinds()) == found
    if found:
        assert "the longest 300 ms with 900 callbacks" in made.one("congested").harm
        assert made.one("congested").title.startswith("Very many short callbacks")


def test_congestion_names_what_ran_often_rather_than_what_ran_long():
    made = Made()
    made.ran("app.one_long_run", 3, 20.0)
    made.ran("app.expire", 1000, 2.0)
    congestion = stalls_of(made.process).index.congestion[0] = Congestion()
    congestion.iterations, congestion.seconds, congestion.longest, congestion.callbacks = 10, 5.0, 0.3, 900
    assert "most of them app.expire" in made.one("congested").title


@pytest.mark.parametrize(
    ("ran", "waited", "found"),
    [(4.0, 0.0, True), (4.0, 0.4, True), (30.0, 10.0, True), (4.0, 6.0, False), (1.0, 0.6, False)],
)
def test_long_iterations_of_a_busy_machine_are_no_congestion(ran, waited, found):
    """13 iterations of 160 ms: what they waited for a processor is taken off them."""
    made = Made(active=10.0, idle=5.0)
    made.ran("app.prices.parse", 1_000, 9.0)
    made.loop.callbacks.threshold = 0.1
    index = stalls_of(made.process).index
    congestion = index.congestion[0] = Congestion()
    congestion.iterations, congestion.seconds, congestion.longest, congestion.callbacks = 13, 13 * 0.16, 0.205, 4
    samples = [(1.0, 1.0, 1.0, 1.0, 0), (14.0, 1.0 + ran, 1.0 + ran, 1.0 + waited, 0)]
    made.waited(*samples)
    assert (("congested", "") in made.kinds()) == found
    if found:
        judged = made.one("congested")
        assert judged.title.startswith("The loop runs several fairly long callbacks one after the other")
        assert len(judged.evidence) == (3 if waited >= 0.5 else 2)
        assert judged.evidence[-1] == "in the longest they took 51.2 ms each"


@pytest.mark.parametrize(
    ("runs", "mean", "iterations", "found"),
    [(250_000, 1e-5, 250_000, True), (150_000, 1e-5, 150_000, False), (250_000, 3e-4, 250_000, False),
     (250_000, 1e-5, 5_000, False)],
)  # fmt: skip
def test_spin(runs, mean, iterations, found):
    made = Made(active=99.5, idle=0.5)
    made.loop.iterations = iterations
    made.ran("app.jobs.Worker.watch", runs, runs * mean)
    assert (("spin", "") in made.kinds()) == found
    if found:
        assert made.one("spin").title.startswith("app/jobs.py:12 in Worker.watch runs over and over")


@pytest.mark.parametrize(("late", "found"), [(0.08, True), (0.02, False)])
def test_late_polls(late, found):
    made = Made()
    made.loop.poll_delays.add_all([late] * 200)
    assert (("poll-late", "") in made.kinds()) == found


@pytest.mark.parametrize(("paused", "found"), [(15.0, True), (5.0, False)])
def test_peers_that_do_not_read(paused, found):
    made = Made()
    made.counter(layout.W_PAUSED_SECONDS, paused)
    assert (("slow-peer", "") in made.kinds()) == found


def test_what_a_busy_loop_did_not_write_on_is_no_peers_doing():
    made = Made(active=95.0, idle=5.0)
    made.counter(layout.W_PAUSED_SECONDS, 100.0)
    assert ("slow-peer", "") not in made.kinds()


@pytest.mark.parametrize(("number", "found"), [(6000, True), (4000, False)])
def test_storms(number, found):
    made = Made()
    made.counter(layout.W_ACCEPTED, number)
    assert (("connection-storm", "connections") in made.kinds()) == found
    made.counter(layout.W_TLS_HANDSHAKES, number)
    made.counter(layout.W_TLS_SECONDS, 20.0)
    assert (("connection-storm", "tls") in made.kinds()) == found


def test_refused_connections():
    made = Made()
    made.counter(layout.W_ACCEPTED, 10)
    assert made.kinds() == []
    made.counter(layout.W_REFUSED, 3)
    assert made.one("connections-refused").harm == "3 accepts failed, 10 succeeded"


def test_sweeps_of_cancelled_timers():
    made = Made()
    made.counter(layout.W_COMPACTIONS, 400)
    assert made.kinds() == []
    made.counter(layout.W_COMPACTIONS, 600)
    assert made.one("cancelled-timers").severity == NOTE


@pytest.mark.parametrize(
    ("waited", "longest", "seconds", "found"),
    [(3, 0.5, 5, True), (0.3, 0.2, 5, False), (3, 0.05, 5, False), (3, 0.5, 1, False)],
)
def test_full_executor(waited, longest, seconds, found):
    made = Made()
    full_executor(made, waited, longest, seconds)
    assert (("executor-full", "") in made.kinds()) == found
    if found:
        each = made.one("executor-full")
        assert each.who.function == "app.prices.load"
        busy = "all 4 workers were busy with app/prices.py:31 in load for 5.00 s while 10 calls waited"
        assert each.title == f"Executor reports is full: {busy}"


@pytest.mark.parametrize(
    ("label", "remedy"),
    [
        ("reports", "max_workers"),
        ("anyio-pool", "max_workers"),
        ("anyio", "total_tokens"),
        ("anyio-2", "total_tokens"),
        ("anyio-limiter", "CapacityLimiter"),
        ("anyio-limiter-2", "CapacityLimiter"),
        ("default", "set_default_executor"),
        ("default-2", "set_default_executor"),
    ],
)
def test_what_helps_a_full_executor_depends_on_who_made_it(label, remedy):
    made = Made()
    full_executor(made, label=label)
    told = made.one("executor-full").remedy
    remedies = ("max_workers", "total_tokens", "CapacityLimiter", "set_default_executor")
    assert [each for each in remedies if each in told] == [remedy]


@pytest.mark.parametrize("label", ["ProcessPoolExecutor", "ProcessPoolExecutor-2"])
def test_a_full_pool_of_processes_is_not_said_to_wait(label):
    made = Made()
    full_executor(made, label=label)
    told = made.one("executor-full").remedy
    assert "processors" in told and "wait" not in told


@pytest.mark.parametrize(
    ("workers", "told"), [(0, "its workers were"), (1, "its one worker was"), (2, "both workers were")]
)
def test_a_full_executor_of_few_workers(workers, told):
    made = Made()
    full_executor(made, workers=workers)
    assert made.one("executor-full").title.startswith(f"Executor reports is full: {told} busy with ")


@pytest.mark.parametrize(("others", "first"), [(0, ""), (1, "3 times ")])
def test_how_often_an_error_was_swallowed_is_said_once(others, first):
    made = Made()
    place = ["/srv/shop/app/jobs.py", 14, "app.jobs", "Worker.watch"]
    entries = [["callback", "app.jobs.Worker.watch", error, place, 3] for error in ("ValueError", "KeyError")]
    made.events({"kind": "swallowed", "entries": entries[: 1 + others]})
    found = made.one("errors-swallowed")
    assert found.harm == f"{3 * (1 + others)} times"
    assert f"{first}ValueError at app/jobs.py:14 in Worker.watch" in found.evidence


def test_a_full_executor_that_several_functions_fill():
    made = Made()
    full_executor(made, workers=1)
    filler = made.process.executors.executors["reports"]._saturation.fillers["app.prices.parse"] = Filler()
    filler.seconds, filler.waiters = 1.0, {"app.prices.load": 1.0}
    told = "its one worker was busy for 5.00 s while 10 calls waited, 75.0% of it with app/prices.py:31 in load"
    assert made.one("executor-full").title == f"Executor reports is full: {told}"


@pytest.mark.parametrize(
    ("pause", "number", "freed", "found"),
    [(0.15, 2, 0, "frees-nothing"), (0.15, 2, 90_000, ""), (0.02, 50, 0, "frees-nothing"), (0.001, 500, 0, None),
     (0.15, 1, 0, None)],
)  # fmt: skip
def test_gc_pauses(pause, number, freed, found):
    made = Made(active=15.0, idle=85.0)
    made.collected(*[pause] * number, freed=freed)
    assert made.kinds() == ([] if found is None else [("gc-pauses", found)])


def test_collections_while_the_loop_sleeps_hold_nothing():
    made = Made(active=1.0, idle=99.0)
    made.collected(*[0.4] * 7, within=False)
    assert made.kinds() == []


def test_what_held_a_loop_is_told_apart_from_other_collections_of_the_process():
    made = Made(active=1.0, idle=99.0)
    made.collected(0.15, 0.15)
    assert made.one("gc-pauses").harm == "300 ms in 2 collections, 150 ms at most"
    made.collected(0.4, within=False, start=10.0)
    found = made.one("gc-pauses")
    assert found.harm == "300 ms in 2 collections, 150 ms at most; 400 ms more of collections held no loop"
    assert found.cost_s == pytest.approx(0.3)


@pytest.mark.parametrize(("calls", "itself"), [(3, 2), (2, 3)])
def test_where_most_collections_are_called_for_no_threshold_is_advised(calls, itself):
    made = Made(active=1.0, idle=99.0)
    made.collected(*[0.15] * calls, called=True)
    made.collected(*[0.15] * itself, start=20.0)
    remedy = made.one("gc-pauses").remedy
    assert ("450 ms of that went into calls of `gc.collect()`" in remedy) == (calls > itself)
    assert ("set_threshold" in remedy) == (calls < itself)


def test_the_costliest_generation_stands_first():
    made = Made(active=1.0, idle=99.0)
    decoded = Decoded(None)
    decoded.collections = [Collection(n / 100, 0.001, n % 2, 0, 0) for n in range(100)]
    made.process.feed(decoded, None)
    made.collected(0.3, 0.3)
    assert made.one("gc-pauses").evidence[0] == "generation 2: 2 collections, 600 ms, freed 0 objects"


@pytest.mark.parametrize(("active", "found"), [(90.0, True), (5.0, False)])
def test_starved(active, found):
    made = Made(active=active, idle=100.0 - active)
    made.events({"kind": "late", "reason": "starved", "from": 10.0, "to": 20.0, "held": 0.0, "loops": []})
    assert (("processor-starved", "") in made.kinds()) == found


def test_plumbing_that_was_kept_from_running_is_called_by_what_it_does():
    worst = Slow("starved", "asyncio.futures._set_result_unless_cancelled", "", KINDS["unknown"], "MainThread")
    worst.runs, worst.seconds = 1, 0.172
    (line,) = kept(worst, "that waited for a processor")
    assert line == "slow callbacks that waited for a processor: 1 run of ending a sleep, 172 ms"


def test_throttled():
    made = Made()
    made.events({"kind": "throttled", "held": [[10.0, 11.0, 15, 2.0], [11.0, 12.0, 25, 3.0]]})
    assert made.one("container-throttled").harm == "40 periods in which it was stopped, 5.00 s in all"


@pytest.mark.parametrize(("late_polls", "found"), [(100, True), (10, False)])
def test_gil_contention_by_late_polls(late_polls, found):
    made = Made()
    made.loop.poll_delays.add_all([0.1] * late_polls)
    made.events({"kind": "late", "reason": "gil", "from": 10.0, "to": 25.0, "held": 0.0, "loops": []})
    assert (("gil-contention", "") in made.kinds()) == found
    assert ("poll-late", "") not in made.kinds()


def test_a_loop_that_computes_is_no_gil_contention_though_the_watchdog_waits_for_it():
    made = Made(active=90.0, idle=10.0)
    made.events({"kind": "late", "reason": "gil", "from": 10.0, "to": 95.0, "held": 0.0, "loops": []})
    assert made.kinds() == []


@pytest.mark.parametrize(("dropped", "found"), [(20, True), (5, False)])
def test_dropped_records(dropped, found):
    made = Made()
    made.process.count_records(0, 10_000, dropped)
    assert (("data-dropped", "records") in made.kinds()) == found


def test_a_record_that_could_mostly_not_be_read_is_no_all_clear():
    made = Made()
    made.process.count_records(0, 376, 372)
    found = made.one("data-dropped")
    assert (found.detail, found.severity, found.harm) == ("unreadable", WARNING, "372 of 376 records (98.9%)")
    assert "no trouble" not in verdict(made.statistics).line and "Record it again" in found.remedy


def test_dropped_spans():
    from traceloop.reading.statistics.parts import Sample

    made = Made()
    made.statistics.extra.append(
        lambda: [
            Sample("traceloop_spans_exported_total", (), 90),
            Sample("traceloop_spans_dropped_total", (("reason", "queue_full"),), 10),
        ]
    )
    assert made.one("data-dropped").harm == "10 of 100 spans"


def test_debug_mode_that_the_program_sets():
    made = Made()
    made.loop.debugged = True
    assert made.one("debug-mode").severity == NOTE


def test_debug_mode():
    made = Made()
    made.process.description = {"debug": True}
    assert made.one("debug-mode").severity == NOTE


def test_the_worst_comes_first_and_notes_last():
    made = Made()
    made.process.description = {"debug": True}
    full_executor(made, waited=3.0)
    made.events(grown("timer", 0, 2500))
    slow = made.loop.callbacks.slow["app.prices.load", "app.prices.load"] = SlowTotals()
    slow.runs, slow.seconds, slow.longest_s, slow.blocked_s = 3, 2.0, 1.0, 30.0
    assert [kind for kind, _ in made.kinds()] == ["blocking-call", "timer-leak", "executor-full", "debug-mode"]
    assert verdict(made.statistics).line.endswith("; and 2 more findings")


def test_a_rule_that_fails_costs_only_itself(monkeypatch):
    def broken(scope):
        raise KeyError("x")

    made = Made()
    made.process.description = {"debug": True}
    monkeypatch.setattr(module, "RULES", (broken, *module.RULES))
    assert made.kinds() == [("data-dropped", "rule"), ("debug-mode", "")]


def test_starved_in_a_run_during_which_its_process_was_killed(monkeypatch):
    """The time that the run waited counts as it does of a run that has ended."""
    made = Made(active=0.5, idle=0.5)
    made.slow_run(0.25, 0.02, 0.216)
    made.loop.callbacks.slow.clear()
    index = stalls_of(made.process).index
    (key,) = index.slow_runs()
    info = index.lookup(*key)
    stack = StackTaken(info.end, [], [], 0, {}, "watchdog", info.start, info.culprit)
    monkeypatch.setattr(index, "unfinished", lambda: [key])
    monkeypatch.setattr(index, "lookup", lambda *key: info._replace(stacks=[stack]))
    assert made.one("processor-starved").harm == "216 ms of 1.00 s"
