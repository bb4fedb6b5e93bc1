"""On a busy machine the rules blame the machine, and not the code, the GIL or the collector; and nothing else there."""

from __future__ import annotations

import pytest

from tests.helpers.made_statistics import LOAD, Made
from traceloop.exporters.text.report_findings import findings
from traceloop.exporters.text.tables import Style
from traceloop.reading.decoding.decoded import Decoded
from traceloop.reading.decoding.runs import Iteration, IterationRows
from traceloop.reading.findings.model import CRITICAL, NOTE, WARNING
from traceloop.reading.findings.slow_runs import finding_of
from traceloop.reading.findings.verdict import verdict
from traceloop.reading.stalls.parts import stalls_of
from traceloop.reading.stalls.who_waited import SlowRun
from traceloop.reading.statistics.callbacks import SlowTotals
from traceloop.reading.units import seconds


def test_gc_pauses_of_a_busy_machine_are_mostly_waiting_for_a_processor():
    made = Made(active=15.0, idle=85.0)
    made.collected(0.13, 0.13, start=50.0)
    assert ("gc-pauses", "frees-nothing") in made.kinds()  # on an idle machine
    made.waited((5.0, 1.0, 1.0, 1.0, 0), (95.0, 5.0, 5.0, 7.0, 0))
    assert made.kinds() == [("processor-starved", "")]


@pytest.mark.parametrize(("overwritten", "found"), [(0, True), (900, False)])
def test_of_a_record_that_has_the_end_only_a_share_of_the_waiting_counts(overwritten, found):
    made = Made(active=5.0, idle=5.0)
    made.waited((5.0, 1.0, 1.0, 1.0, 0), (95.0, 5.0, 5.0, 3.0, 0))
    made.process.count_records(1, 1000.0, overwritten, overwritten)
    assert (("processor-starved", "") in made.kinds()) == found
    assert (("data-dropped", "overwritten") in made.kinds()) == (overwritten > 0)


@pytest.mark.parametrize(("cause", "cpu", "others"), [("cpu", 0.06, 0.0), ("off_cpu", 0.0, 0.0), ("gil", 0.0, 0.4)])
def test_a_run_that_mostly_waited_for_a_processor_is_the_machines_doing_whatever_the_rest_was(cause, cpu, others):
    made = Made()
    made.slow_run(0.5, cpu, 0.43, others)
    assert [kind for kind, _ in made.kinds()] == ["processor-starved"]
    twin = Made()
    twin.slow_run(0.5, 0.5 if cause == "cpu" else 0.0, 0.0, others)
    assert [kind for kind, _ in twin.kinds()] == [
        {"cpu": "cpu-on-loop", "off_cpu": "blocking-call", "gil": "gil-contention"}[cause]
    ]


@pytest.mark.parametrize(
    ("guess", "waited", "found"),
    [(True, 0.056, "processor-starved"), (False, 0.056, "cpu-on-loop"), (True, 0.01, "cpu-on-loop")],
)
def test_a_guess_at_the_rest_of_a_run_that_waited_much_is_not_enough(guess, waited, found):
    made = Made()
    made.slow_run(0.113, 0.046, waited)
    index = stalls_of(made.process).index
    ((ring, start),) = index.slow_runs()
    info = index.lookup(ring, start)
    info = info._replace(parts=info.parts._replace(cause="cpu", guess=guess))
    assert finding_of(index, info, 0.113, 0.1).kind == found


@pytest.mark.parametrize(
    ("length", "cpu", "waited", "others"),
    [
        (0.5, 0.5, 0.0, 0.0),
        (0.5, 0.0, 0.0, 0.0),
        (0.5, 0.0, 0.0, 0.4),
        (0.5, 0.06, 0.43, 0.0),
        (0.37, 0.004, 0.15, 0.0),
        (0.37, 0.004, 0.05, 0.0),
        (0.4, 0.1, 0.14, 0.2),
    ],
)
@pytest.mark.parametrize("late", [0.0, 1.0, 20.0])
def test_a_runs_own_span_names_the_finding_that_the_report_has(length, cpu, waited, others, late):
    made = Made()
    if late:
        made.late("starved", late)
    made.slow_run(length, cpu, waited, others)
    found = of_the_span(made, length)
    assert [found.kind] == [kind for kind, _ in made.kinds() if kind != "processor-starved" or not found.remedy]
    if found.remedy:
        judged = made.one(found.kind)
        assert (found.detail, found.remedy) == (judged.detail, judged.remedy)


@pytest.mark.parametrize("late", [1.0, 20.0])
def test_a_span_of_a_run_that_was_not_measured_agrees_with_the_report(late):
    made = Made()
    made.late("starved", late)
    index = stalls_of(made.process).index
    index.take_loop(1, Decoded(None), [SlowRun((1, 50.0, 50.7, LOAD, 50.0, 0, 0, 0, 0, 0))], 0.1)
    slow = made.loop.callbacks.slow["app.prices.load", "unknown"] = SlowTotals()
    slow.runs, slow.seconds, slow.longest_s = 1, 0.7, 0.7
    found = of_the_span(made, 0.7)
    expected = "processor-starved" if late == 20.0 else "blocking-call"
    assert [found.kind] == [kind for kind, _ in made.kinds()] == [expected]


@pytest.mark.parametrize(("length", "threshold", "found"), [(0.7, 0.1, True), (1.6, 1.0, False), (0.7, 0.05, False)])
def test_a_long_run_that_was_not_measured_is_not_said_to_wait_for_a_processor(length, threshold, found):
    made = Made()
    made.late("starved", 20.0)
    index = stalls_of(made.process).index
    index.take_loop(1, Decoded(None), [SlowRun((1, 50.0, 50.0 + length, LOAD, 50.0, 0, 0, 0, 0, 0))], threshold)
    ((ring, start),) = index.slow_runs()
    finding = finding_of(index, index.lookup(ring, start), length, threshold)
    assert (finding.kind == "processor-starved") is found


def of_the_span(made, length):
    """What the span of the only slow run says, of a loop that has been observed for 100 s by then, as ``Made`` has."""
    index = stalls_of(made.process).index
    ((ring, start),) = index.slow_runs()
    index.began = start + length - 100.0
    return finding_of(index, index.lookup(ring, start), length, 0.1)


def test_what_is_observed_begins_with_the_first_iteration_that_was_read():
    made = Made()
    decoded = Decoded(None)
    index = stalls_of(made.process).index
    for start in (5.0, 7.0):
        decoded.iterations = IterationRows([Iteration(1, start, start + 1.0, 1, 0.0, -1.0)])
        index.take_loop(1, decoded, [], 0.1)
    assert index.began == 5.0


@pytest.mark.parametrize(
    ("late", "waited", "found"),
    [(0.0, 0.25, ["processor-starved"]), (0.0, 0.15, ["blocking-call"]), (20.0, 0.15, ["processor-starved"]),
     (20.0, 0.05, ["blocking-call"])],
)  # fmt: skip
def test_waiting_that_no_line_explains_beside_much_waiting_for_a_processor(late, waited, found):
    made = Made()
    if late:
        made.late("starved", late)
    made.slow_run(0.37, 0.004, waited)
    assert sorted(kind for kind, _ in made.kinds()) == sorted(found)


def test_what_a_run_waited_for_a_processor_does_not_count_against_its_code():
    made = Made(active=2.0, idle=18.0)
    made.slow_run(2.0, 0.5, 1.5).blocked_s = 4.0
    assert made.one("cpu-on-loop").cost_s == pytest.approx(1.5, rel=0.1)
    assert made.one("processor-starved").harm == "1.50 s of 20.0 s"


@pytest.mark.parametrize(("late", "found"), [(20.0, "processor-starved"), (1.0, "blocking-call")])
def test_a_short_run_that_was_not_measured_is_the_machines_doing_where_that_is_always_busy(late, found):
    made = Made()
    made.late("starved", late)
    slow = made.loop.callbacks.slow["app.prices.load", "unknown"] = SlowTotals()
    slow.runs, slow.seconds, slow.longest_s = 1, 0.7, 0.7
    assert [kind for kind, _ in made.kinds()] == [found]


@pytest.mark.parametrize(
    ("callback", "found"),
    [("asyncio.futures._set_result_unless_cancelled", []), ("traceloop.loop.wakeup.WakeupMixin._read_from_self", []),
     ("app.prices.load", ["blocking-call"])],
)  # fmt: skip
def test_an_unmeasured_run_of_what_calls_nothing_of_the_program_is_no_fault_of_its_code(callback, found):
    made = Made()
    slow = made.loop.callbacks.slow[callback, "unknown"] = SlowTotals()
    slow.runs, slow.seconds, slow.longest_s = 1, 0.2, 0.2
    assert [kind for kind, _ in made.kinds()] == found


LIBRARY = ["/lib/python3.12/site-packages/anyio/_core/_eventloop.py", 210, "anyio._core._eventloop", "get_backend"]


@pytest.mark.parametrize(
    ("length", "blocked", "frame", "severity"),
    [
        (0.3, 0.0, None, NOTE),
        (0.3, 0.3, None, NOTE),
        (0.3, 3.0, None, WARNING),
        (0.3, 3.0, LIBRARY, NOTE),
        (1.5, 3.0, LIBRARY, WARNING),
    ],
)
def test_an_import_that_costs_little_is_a_note(length, blocked, frame, severity):
    made = Made()
    slow = made.slow_run(length, 0.05, 0.0)
    slow.blocked_s = blocked
    ((ring, start),) = stalls_of(made.process).index.slow_runs()
    frames = [frame or ["/srv/shop/app/prices.py", 31, "app.prices", "load"],
              ["<frozen importlib._bootstrap>", 1360, "importlib._bootstrap", "_find_and_load"]]  # fmt: skip
    stack = {"kind": "stack", "ring": ring, "run": start, "at": start + 0.1, "ident": LOAD, "culprit": ""}
    stack |= {"callback": "app.prices.load", "frames": frames, "ready": 0, "suppressed": 0, "before": [], "samples": []}
    made.events(stack)
    found = made.one("blocking-call")
    assert (found.detail, found.severity) == ("import", severity)


@pytest.mark.parametrize(
    ("waited", "computed", "found"), [(3.0, 1.0, "processor-starved"), (3.0, 14.0, "gil-contention"),
                                      (0.0, 1.0, "gil-contention")]
)  # fmt: skip
def test_whoever_has_the_gil_may_wait_for_a_processor(waited, computed, found):
    made = Made()
    made.loop.poll_delays.add_all([0.1] * 100)
    made.late("gil", 15.0, waited, computed)
    assert [kind for kind, _ in made.kinds()] == [found]


def test_no_loop_waits_for_longer_than_it_was_observed():
    made = Made()
    made.waited((5.0, 1.0, 1.0, 1.0, 0), (95.0, 5.0, 5.0, 4000.0, 0))
    assert made.one("processor-starved").harm == "1 min 40 s of 1 min 40 s"


def test_polls_that_are_late_for_want_of_a_processor():
    made = Made()
    made.loop.poll_delays.add_all([0.1] * 40 + [0.001] * 100)
    assert [kind for kind, _ in made.kinds()] == ["poll-late"]
    made.waited((5.0, 1.0, 1.0, 1.0, 0), (95.0, 5.0, 5.0, 4.0, 0))
    assert [kind for kind, _ in made.kinds()] == ["processor-starved"]


@pytest.mark.parametrize(
    ("event", "kinds"),
    [
        ({"kind": "growth", "heap": "memory", "start": 1.0, "end": 20.0, "before": 10, "after": 90_000},
         ["memory-leak", "processor-starved"]),
        ({"kind": "other"}, ["processor-starved", "blocking-call"]),
    ],
)  # fmt: skip
def test_that_the_machine_is_busy_stands_behind_a_leak_and_before_a_little_harm(event, kinds):
    made = Made()
    made.waited((5.0, 1.0, 1.0, 1.0, 0), (95.0, 5.0, 5.0, 61.0, 0))
    made.events(event)
    if "blocking-call" in kinds:
        slow = made.loop.callbacks.slow["app.prices.load", "unknown"] = SlowTotals()
        slow.runs, slow.seconds, slow.longest_s = 1, 1.5, 1.5
    assert made.one("processor-starved").severity == CRITICAL
    assert [kind for kind, _ in made.kinds()] == kinds


def test_a_note_explains_no_polls_that_are_late():
    made = Made()
    made.loop.poll_delays.add_all([0.06] * 170 + [0.0005] * 4000)
    slow = made.loop.callbacks.slow["app.prices.load", "unknown"] = SlowTotals()
    slow.runs, slow.seconds, slow.longest_s = 1, 0.15, 0.15
    made.slow_run(0.15, cpu=0.01, waited=0.13)
    assert made.one("processor-starved").severity == NOTE
    assert "poll-late" in [kind for kind, _ in made.kinds()]


def test_a_process_whose_thread_is_measured_to_wait_all_the_time_is_on_a_busy_machine():
    made = Made()
    made.waited((5.0, 1.0, 1.0, 1.0, 0), (95.0, 5.0, 5.0, 9.0, 0))
    slow = made.loop.callbacks.slow["app.prices.load", "unknown"] = SlowTotals()
    slow.runs, slow.seconds, slow.longest_s = 1, 0.2, 0.2
    assert [kind for kind, _ in made.kinds()] == ["processor-starved"]


@pytest.mark.parametrize(("others", "title"), [(0.5, "the machine is busy with something else"),
                                               (8.5, "the machine is busy with something else"),
                                               (20.0, "its other threads compute")])
def test_a_loop_that_computes_in_short_callbacks_waits_for_a_processor(others, title):
    """Nothing is slow or late: what its thread waited is all that there is."""
    made = Made()
    made.waited((5.0, 1.0, 1.0, 1.0, 0), (95.0, 5.0, 5.0 + others, 9.0, 0))
    found = made.one("processor-starved")
    assert found.title == f"The process waits for a processor: {title}"
    assert (found.harm, found.cost_s, found.severity) == ("8.00 s of 1 min 40 s", 0.64, WARNING)
    assert found.evidence == (
        f"the loop's thread ran for 4.00 s and waited 8.00 s for a processor; the process's other threads ran for "
        f"{seconds(others)}",
    )


def test_that_the_machine_is_busy_is_no_answer_to_where_a_loops_time_goes():
    made = Made(active=95.0, idle=5.0)
    made.ran("app.prices.load", 900, 90.0, 0.06)
    made.waited((5.0, 1.0, 1.0, 1.0, 0), (95.0, 5.0, 5.0, 9.0, 0))
    judged = verdict(made.statistics)
    assert [found.kind for found in judged.findings] == ["processor-starved"]
    (sentence,) = judged.busy
    assert sentence.startswith("Loop MainThread is busy 95.0% of the time: 100.0% of it at app/prices.py:31 in load")
    lines = findings(judged, Style(False, 200))
    assert lines[0] == "1 finding, the worst first" and lines[-1] == f"{sentence}."


def test_what_another_thread_waited_that_had_a_loop_in_the_same_ring_does_not_count():
    made = Made()
    made.waited((5.0, 1.0, 1.0, 40.0, 0), (6.0, 2.0, 2.0, 40.2, 0))
    made.waited((7.0, 0.0, 3.0, 0.0, 0), (8.0, 1.0, 4.0, 0.1, 0))
    made.waited((7.0, 0.0, 3.0, 0.0, 0), (9.0, 2.0, 5.0, 0.2, 0))
    assert stalls_of(made.process).index.processor[1, 7.0] == (2.0, 0.2, 0.0)
    assert made.kinds() == []
    made.waited((10.0, -1.0, 0.0, -1.0, 0), (20.0, 1.0, 1.0, 9.0, 0))
    assert made.kinds() == []  # not known at first


def test_threads_that_wait_for_a_processor_at_the_same_time_do_not_wait_longer_than_there_was_time():
    made = Made()
    first, last = (1.0, 0.0, 0.0, 0.0, 0), (99.0, 5.0, 5.0, 20.0, 0)
    for ring in range(2, 52):
        made.events({"kind": "processor", "loops": [[ring, first, last]]})
    made.waited(first, (40.0, 2.0, 2.0, 14.0, 0))
    made.waited((50.0, 0.0, 0.0, 0.0, 0), (90.0, 2.0, 2.0, 10.0, 0))  # the ring's next loop
    assert made.one("processor-starved").harm == "24.0 s of 1 min 40 s"


def test_slow_runs_of_loops_beside_each_other_did_not_wait_longer_than_there_was_time():
    made = Made(active=2.0, idle=1.0)
    for _ in range(5):
        made.slow_run(1.0, 0.05, 0.94)
    assert made.one("processor-starved").harm.startswith("3.00 s of 3.00 s")


@pytest.mark.parametrize(
    ("waited", "cost", "severity"), [(6.0, 0.36, WARNING), (30.0, 9.0, WARNING), (50.0, 25.0, CRITICAL)]
)
def test_a_little_waiting_for_a_processor_costs_little(waited, cost, severity):
    made = Made()
    made.waited((1.0, 0.0, 0.0, 0.0, 0), (99.0, 5.0, 5.0, waited, 0))
    found = made.one("processor-starved")
    assert (found.cost_s, found.severity) == (pytest.approx(cost), severity)


def test_a_run_in_which_the_process_was_stopped_is_no_finding():
    made = Made()
    made.slow_run(1.5, 0.0, 0.0)
    assert [kind for kind, _ in made.kinds()] == ["blocking-call"]
    stopped = Made()
    stopped.slow_run(1.5, 0.0, 0.0)
    stalls_of(stopped.process).index.add_suspension(10.0, 11.5)
    assert stopped.kinds() == []


@pytest.mark.parametrize(("cpu", "kind"), [(0.3, "cpu-on-loop"), (0.05, "blocking-call")])
def test_code_that_only_computes_did_so_though_it_was_off_the_processor_for_longer(tmp_path, cpu, kind):
    file = tmp_path / "app.py"
    file.write_text("rows = json.loads(text)\n")
    made = Made()
    slow = made.slow_run(1.0, cpu, 0.1)
    slow.blocked_s = 1.0
    frames = [[str(file), 1, "app", "load"]]
    stack = {"kind": "stack", "ring": 1, "run": 10.0, "at": 10.1, "ident": LOAD, "culprit": "", "frames": frames}
    stack |= {"callback": "app.prices.load", "ready": 0, "suppressed": 0, "before": [], "samples": []}
    made.events(stack)
    assert made.one(kind).detail == "json"


@pytest.mark.parametrize(("pauses", "waited", "found"), [([0.35], 9.0, False), ([0.35, 0.2], 9.0, True),
                                                         ([0.35], 0.0, True)])  # fmt: skip
def test_one_long_collection_on_a_busy_machine_may_have_waited_for_a_processor(pauses, waited, found):
    made = Made(active=15.0, idle=85.0)
    if waited:
        made.waited((5.0, 1.0, 1.0, 1.0, 0), (95.0, 21.0, 21.0, 1.0 + waited, 0))
    made.collected(*pauses, 0.02, 0.02, freed=10)
    assert (("gc-pauses", "frees-nothing") in made.kinds()) == found
