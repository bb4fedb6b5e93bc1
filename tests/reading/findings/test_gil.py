"""Other threads that hold the GIL: found by how the watchdog's turns find it, and named; and who is not to blame."""

from __future__ import annotations

import pytest

from tests.helpers.made_statistics import Made
from tests.helpers.observed import observe, program
from tests.reading.findings.troubled_programs import HOLDING_POWER
from traceloop.reading.findings import thresholds
from traceloop.reading.findings.verdict import verdict

HOG = [["hog"], 1, 9.0, [["/usr/lib/python3/threading.py", 9, "threading", "Thread.run"],
                         ["/srv/shop/app/prices.py", 31, "app.prices", "crunch"]]]  # fmt: skip
OTHER = [["reports_0"], 1, 0.1, [["/srv/shop/app/jobs.py", 14, "app.jobs", "write"]]]


def kinds(made):
    return [kind for kind, _ in made.kinds()]


def test_polls_that_are_late_by_less_than_a_turn_are_explained_and_the_thread_named():
    """60 ms in each 560: a turn of the watchdog meets that now and then only, and is late by less than is written."""
    made = Made()
    made.loop.poll_delays.add_all([0.06] * 170 + [0.0005] * 4000)
    made.gil(90.0, 900, 50, 1.6, 9.5, 3.0, [HOG, OTHER])
    found = made.one("gil-contention")
    assert kinds(made) == ["gil-contention"]
    assert found.title == "app/prices.py:31 in crunch holds the GIL in thread hog while the loop has work to do"
    assert (found.who.function, found.who.line) == ("app.prices.crunch", 31)
    assert 8.0 < found.cost_s < 10.5
    assert [each for each in found.evidence if "thread" in each.split(" ")[0]] == [
        "thread hog computed for at least 9.00 s meanwhile, at app/prices.py:31 in crunch"
    ]


def test_polls_that_are_late_for_another_reason_stay_late_polls():
    made = Made()
    made.loop.poll_delays.add_all([0.06] * 170 + [0.0005] * 4000)
    made.gil(90.0, 900, 2, 0.01, 9.5, 3.0, [HOG])  # it computes with the GIL given away: numpy, a hash
    assert kinds(made) == ["poll-late"]


@pytest.mark.parametrize(
    ("iterations", "found"), [(20_000, True), (500, False)], ids=["a busy service", "a loop with little to do"]
)
def test_each_return_from_a_poll_that_waits_five_milliseconds(iterations, found):
    """A thread that computes in Python gives the GIL away each 5 ms: no poll with a timeout says so."""
    made = Made()
    made.loop.iterations = iterations
    made.gil(90.0, 900, 880, 4.6, 85.0, 4.0, [HOG])
    assert kinds(made) == (["gil-contention"] if found else [])
    if found:
        assert made.one("gil-contention").cost_s >= thresholds.GIL_RETURNS_SHARE * 100.0


@pytest.mark.parametrize(("records", "found"), [(40_000, True), (30, False)], ids=["meanwhile", "before or after"])
def test_a_loop_that_hardly_ran_meanwhile_waited_for_nothing(records, found):
    """Its many iterations may be of the time after the thread had ended."""
    made = Made()
    made.loop.iterations = 20_000
    made.gil(90.0, 900, 880, 4.6, 85.0, 4.0, [HOG], records=records)
    assert kinds(made) == (["gil-contention"] if found else [])


def test_threads_of_a_pool_at_one_function_are_one_holder():
    made = Made()
    made.loop.iterations = 20_000
    pool = [[[f"pool_{n}"], 1, 3.0, [["/srv/shop/app/prices.py", 30 + n, "app.prices", "crunch"]]] for n in range(3)]
    made.gil(90.0, 900, 880, 4.6, 85.0, 4.0, pool)
    assert made.one("gil-contention").title.startswith("app/prices.py:30 in crunch holds the GIL in thread pool_0 and ")


@pytest.mark.parametrize(
    "event",
    [
        {"turns": 0, "waits": 0},
        {"turns": 3, "waits": 9},
        {"turns": float("nan"), "waits": 1},
        {"turns": 9, "waits": 9, "waited": float("inf")},
        {"turns": 9, "waits": 9, "loops": [[1, [], None]]},
        {"turns": 9, "waits": 9, "threads": [[["x"], 1, float("nan"), []]]},
        {"turns": 9, "waits": 9, "from": 1e300, "to": 0},
        {"turns": 9, "waits": 9, "records": float("nan")},
        {"turns": 9, "waits": 9, "records": [], "loops": []},
        {"turns": 10**400, "waits": 9},
        {"turns": 10**308, "waits": 10**308},
    ],
)
def test_damaged_records_of_it_are_passed_over(event):
    made = Made()
    made.loop.poll_delays.add_all([0.06] * 170)
    whole = {"kind": "gil", "from": 10.0, "to": 20.0, "waited": 0.1, "loops": [], "threads": [], **event}
    made.events(whole, whole)
    assert kinds(made) == ["poll-late"]


def test_no_loop_waits_for_longer_than_it_was_observed():
    """Several loops of a process wait beside each other."""
    made = Made()
    made.loop.poll_delays.add_all([0.5] * 1000)
    made.gil(90.0, 900, 880, 400.0, 85.0, 4.0, [HOG])
    made.gil(90.0, 900, 880, 400.0, 85.0, 4.0, [HOG])
    assert made.one("gil-contention").cost_s <= 100.0


def test_a_thread_without_frames_is_no_holder():
    made = Made()
    made.loop.iterations = 20_000
    made.gil(90.0, 900, 880, 4.6, 85.0, 4.0, [[["odd"], 1, 3.0, []]])
    assert made.one("gil-contention").title == "Other threads hold the GIL while the loop has work to do"


HOLDS = (
    HOLDING_POWER
    + """
def crunch():
    while not stopped.wait(PAUSE):
        COMPUTE

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    thread = threading.Thread(target=crunch, name="hog")
    thread.start()
    await asyncio.gather(*(ask(server.sockets[0].getsockname()[1]) for _ in range(5)))
    stopped.set()
    thread.join()

async def answer(reader, writer):
    while line := await reader.readline():
        writer.write(line)
    writer.close()

async def ask(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    end = time.monotonic() + 8
    while time.monotonic() < end:
        writer.write(b"a line\\n")
        await reader.readline()
        await asyncio.sleep(0.01)
    writer.close()

stopped = threading.Event()
run(main())
"""
)
PYTHON = "sum(each * each for each in range(100_000))"


@pytest.mark.slow  # as in test_programs: on a busy machine the holder itself waits for a processor
@pytest.mark.timing
@pytest.mark.parametrize(
    ("pause", "compute", "found"),
    [("0.4", "pow(7, power)", True), ("0.4", "pass", False), ("0", PYTHON, True), ("1", PYTHON, False)],
    ids=["a call in C now and then", "its twin", "Python all the time", "Python now and then"],
)
def test_a_service_beside_a_thread_that_computes(tmp_path, pause, compute, found):
    text = HOLDS.replace("PAUSE", pause).replace("COMPUTE", compute)
    observed = observe(tmp_path, program(tmp_path, text), OTEL_PYTHON_TRACELOOP_SLOW_THRESHOLD="0.2")
    those = [each for each in verdict(observed.statistics).findings if each.kind in ("gil-contention", "poll-late")]
    assert [each.kind for each in those] == ["gil-contention"] * found
    if found:
        assert those[0].who is not None
        assert those[0].who.function.endswith(".crunch")
