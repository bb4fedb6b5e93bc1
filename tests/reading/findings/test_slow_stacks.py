"""What the finding for a slow callback says of the stack that was taken: who called, and what other threads did."""

from __future__ import annotations

import pytest

from tests.helpers.made_statistics import LOAD, Made
from traceloop.reading.decoding.decoded import Decoded
from traceloop.reading.findings.model import NOTE, short_path
from traceloop.reading.findings.verdict import verdict
from traceloop.reading.stalls.parts import stalls_of
from traceloop.reading.stalls.who_waited import SlowRun
from traceloop.reading.statistics.callbacks import SlowTotals

LOAD_LABEL = "app.prices.load"
SERVER = ["/srv/venv/lib/python3.12/site-packages/server/core.py", 7, "server.core", "run_asgi"]
ENDPOINT = ["/srv/shop/app/main.py", 23, "app.main", "prices"]
LOAD_IT = ["/srv/shop/app/prices.py", 31, "app.prices", "load"]
OTHER_LINE = ["/srv/shop/app/prices.py", 29, "app.prices", "load"]
PARSE = ["/srv/shop/app/parsing.py", 3, "app.parsing", "parse"]
WORKER = ["/srv/lib/python3.12/site-packages/anyio/_backends/_asyncio.py", 98, "anyio._asyncio", "WorkerThread.run"]
QUEUE = ["/usr/lib/python3.12/queue.py", 171, "queue", "Queue.get"]
WAIT = ["/usr/lib/python3.12/threading.py", 355, "threading", "Condition.wait"]


def stack_of(made, ring, start, frames, culprit="", threads=()):
    """The watchdog has taken a stack of a run."""
    stack = {"kind": "stack", "ring": ring, "run": start, "at": start + 0.1, "ident": LOAD, "culprit": culprit}
    stack |= {"callback": LOAD_LABEL, "frames": frames, "ready": 0, "suppressed": 0, "before": [], "samples": []}
    made.events(stack | {"threads": list(threads)})


def stalled(frames, threads=(), cpu=0.5):
    """The finding for a run whose stack was taken."""
    made = Made()
    made.slow_run(0.5, cpu, 0.0)
    ((ring, start),) = stalls_of(made.process).index.slow_runs()
    stack_of(made, ring, start, frames, threads=list(threads))
    return made.one("cpu-on-loop" if cpu else "blocking-call")


@pytest.mark.parametrize(
    ("frames", "callers"),
    [
        ([SERVER, ENDPOINT, *[LOAD_IT] * 9], ["app/prices.py:31 in load (8 times)", "app/main.py:23 in prices"]),
        ([ENDPOINT, *[OTHER_LINE, LOAD_IT] * 9], ["app/prices.py:29 in load (17 times)", "app/main.py:23 in prices"]),
        ([ENDPOINT, PARSE, LOAD_IT], ["app/parsing.py:3 in parse", "app/main.py:23 in prices"]),
    ],
    ids=["recursion", "recursion by two lines", "none"],
)
def test_a_recursion_does_not_hide_who_began_it(frames, callers):
    assert stalled(frames).stack == ("app/prices.py:31 in load", *callers)


@pytest.mark.parametrize("others", [0, 2])
def test_what_the_run_put_in_itself_does_not_count_as_behind_it(others):
    made = Made()
    made.slow_run(0.5, 0.0, 0.0)
    index = stalls_of(made.process).index
    (start,) = (start for _, start in index.slow_runs())
    run = (1, start, start + 0.5, LOAD, start, 0, 0, 0, 0, 0)
    slow = SlowRun(run)
    slow.bill.charge_own(int(LOAD), 0.5)
    for _ in range(others):
        slow.bill.charge(int(LOAD), 0.25)
    index.take_loop(1, Decoded(None), [slow], 0.1)
    evidence = made.one("blocking-call").evidence
    assert [line for line in evidence if "behind it" in line] == ["2 callbacks stood ready behind it"] * bool(others)


@pytest.mark.parametrize(
    ("above", "titles"),
    [
        ([], ["server/core.py:90 in render"]),
        ([ENDPOINT], ["app/main.py:23 in prices"]),
    ],
    ids=["a library", "called by the application"],
)
def test_what_only_a_library_computes_is_one_finding_whatever_functions_of_it_were_seen(above, titles):
    made = Made()
    for at, (name, length) in enumerate([("layout", 0.5), ("style", 0.3), ("render", 0.9)]):
        made.slow_run(length, length, 0.0)
        ring, start = stalls_of(made.process).index.slow_runs()[-1]
        frames = [*above, [SERVER[0], 70 + 10 * at, SERVER[2], name]]
        stack_of(made, ring, start, frames, "app.main.prices" if above else f"server.core.{name}")
        slow = made.loop.callbacks.slow.setdefault(
            (LOAD_LABEL, "app.main.prices" if above else f"server.core.{name}"), SlowTotals()
        )
        slow.runs, slow.seconds, slow.longest_s = slow.runs + 1, slow.seconds + length, max(slow.longest_s, length)
    del made.loop.callbacks.slow[LOAD_LABEL, "unknown"]
    found = [each for each in verdict(made.statistics).findings if each.kind == "cpu-on-loop"]
    assert [each.who.place for each in found] == titles
    (one,) = found
    assert one.harm.startswith("1.70 s in 3 runs, 900 ms at most")
    assert ("likewise: server.core.layout (500 ms), server.core.style (300 ms)" in one.evidence) is (not above)


@pytest.mark.parametrize(
    ("began", "blocked", "frames", "noted"),
    [
        (9.5, 0.0, [SERVER], True),
        (2.0, 0.0, [SERVER], False),
        (9.5, 0.7, [SERVER], False),
        (9.5, 0.0, [SERVER, ENDPOINT], False),
    ],
    ids=["start-up", "later", "others waited", "the application's"],
)
def test_a_library_that_prepares_itself_once_as_the_loop_begins_is_a_note(began, blocked, frames, noted):
    made = Made()
    slow = made.slow_run(1.2, 1.2, 0.0)
    slow.blocked_s = blocked
    index = stalls_of(made.process).index
    ((ring, start),) = index.slow_runs()
    index.began = began
    culprit = "app.main.prices" if ENDPOINT in frames else "server.core.run_asgi"
    stack_of(made, ring, start, frames, culprit)
    made.loop.callbacks.slow[LOAD_LABEL, culprit] = made.loop.callbacks.slow.pop((LOAD_LABEL, "unknown"))
    assert (made.one("cpu-on-loop").severity == NOTE) is noted


@pytest.mark.parametrize(
    ("above", "told"), [([QUEUE, WAIT], False), ([LOAD_IT, WAIT], True)], ids=["waits for work", "works"]
)
def test_other_threads_are_told_but_for_workers_that_wait_for_work(above, told):
    threads = [[["AnyIO worker thread"], 1, 0.2, [WORKER, *above]]]
    found = stalled([ENDPOINT, LOAD_IT], threads, cpu=0.0)
    assert any("meanwhile thread AnyIO worker thread" in line for line in found.evidence) == told


MATCH = ["/srv/lib/python3.12/site-packages/soup/parser.py", 3, "soup.parser", "feed"]
DEEPCOPY = ["/usr/lib/python3.12/copy.py", 119, "copy", "deepcopy"]


def of_one_line(*runs):
    """Slow runs of one callback: length, CPU time, and the frames of the stack, None where there was none."""
    made = Made()
    made.ran(LOAD_LABEL, 10, 5.0)
    for length, cpu, frames in runs:
        made.slow_run(length, cpu, 0.0)
        ring, start = stalls_of(made.process).index.slow_runs()[-1]
        if frames is None:
            continue
        culprit = next(f"{each[2]}.{each[3]}" for each in reversed(frames) if each[2].startswith("app."))
        stack_of(made, ring, start, frames, culprit)
        slow = made.loop.callbacks.slow.setdefault((LOAD_LABEL, culprit), SlowTotals())
        slow.runs, slow.seconds, slow.longest_s = slow.runs + 1, slow.seconds + length, max(slow.longest_s, length)
        unknown = made.loop.callbacks.slow[LOAD_LABEL, "unknown"]
        unknown.runs, unknown.seconds = unknown.runs - 1, unknown.seconds - length
    if not made.loop.callbacks.slow[LOAD_LABEL, "unknown"].runs:
        del made.loop.callbacks.slow[LOAD_LABEL, "unknown"]
    return [each for each in verdict(made.statistics).findings if each.kind in ("blocking-call", "cpu-on-loop")]


def test_a_line_that_computes_and_was_off_the_processor_for_most_of_one_run_is_one_finding():
    (found,) = of_one_line((0.5, 0.5, [SERVER, ENDPOINT, DEEPCOPY]), (0.3, 0.01, [SERVER, ENDPOINT, DEEPCOPY]))
    assert (found.kind, found.detail) == ("cpu-on-loop", "pickle") and found.harm.startswith("800 ms in 2 runs")


def test_a_line_that_is_found_at_two_sorts_of_computing_is_one_finding():
    (found,) = of_one_line((0.5, 0.5, [SERVER, ENDPOINT, DEEPCOPY]), (0.4, 0.4, [SERVER, ENDPOINT, MATCH]))
    assert (found.kind, found.detail) == ("cpu-on-loop", "cpu") and found.harm.startswith("900 ms in 2 runs")


def test_a_lambda_in_a_line_that_computes_is_no_second_finding():
    inside = [*ENDPOINT[:3], "prices.<locals>.<lambda>:23"]
    (found,) = of_one_line((0.5, 0.5, [SERVER, ENDPOINT, inside]), (0.4, 0.4, [SERVER, ENDPOINT]))
    assert found.harm.startswith("900 ms in 2 runs") and found.who.place == "app/main.py:23 in <lambda>"


def test_two_lines_of_a_function_are_two_findings():
    other = [ENDPOINT[0], ENDPOINT[1] + 4, *ENDPOINT[2:]]
    assert len(of_one_line((0.5, 0.5, [SERVER, ENDPOINT, DEEPCOPY]), (0.4, 0.4, [SERVER, other, MATCH]))) == 2


def test_runs_without_a_stack_are_of_the_one_culprit_that_their_callback_has():
    (found,) = of_one_line((0.5, 0.5, [SERVER, ENDPOINT]), (0.12, 0.12, None))
    assert found.who.place == "app/main.py:23 in prices" and found.harm.startswith("620 ms in 2 runs")
    assert f"no stack was taken of 1 run of {LOAD_LABEL}: they count here as its others do" in found.evidence


def test_runs_of_which_nothing_was_measured_are_too():
    made = Made()
    made.ran(LOAD_LABEL, 10, 5.0)
    made.slow_run(0.5, 0.0, 0.0)
    ((ring, start),) = stalls_of(made.process).index.slow_runs()
    stack_of(made, ring, start, [SERVER, ENDPOINT], "app.main.prices")
    unknown = made.loop.callbacks.slow[LOAD_LABEL, "unknown"]
    made.loop.callbacks.slow[LOAD_LABEL, "app.main.prices"] = unknown
    other = made.loop.callbacks.slow[LOAD_LABEL, "unknown"] = SlowTotals()
    other.runs, other.seconds, other.longest_s = 2, 0.3, 0.2
    assert made.one("blocking-call").harm.startswith("800 ms in 3 runs, 500 ms at most")


def test_what_blocks_and_runs_without_a_stack_that_compute_are_two_findings():
    found = of_one_line((0.5, 0.0, [SERVER, ENDPOINT]), (0.12, 0.12, None))
    assert [each.kind for each in found] == ["blocking-call", "cpu-on-loop"]


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("/srv/shop/app/prices.py", "app/prices.py"),
        ("prices.py", "prices.py"),
        ("<stdin>", "<stdin>"),
        ("/srv/venv/lib/python3.12/site-packages/server/core.py", "server/core.py"),
        ("/srv/venv/lib/python3.12/site-packages/anyio/_core/_sockets.py", "anyio/_core/_sockets.py"),
        ("/usr/lib/python3/dist-packages/uvicorn/protocols/http/h11_impl.py", "uvicorn/…/http/h11_impl.py"),
        ("/usr/lib/python3/dist-packages/six.py", "six.py"),
    ],
)
def test_a_file_is_shown_by_what_it_is_known_by(file, shown):
    assert short_path(file) == shown
