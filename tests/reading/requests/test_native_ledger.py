"""The ledger of requests in C counts what the one in Python counts: of any runs whatever, and of a server's."""

from __future__ import annotations

import itertools
import re
import tracemalloc
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from traceloop.reading.decoding import decoded as decoded_module
from traceloop.reading.decoding.choose import load_native
from traceloop.reading.decoding.decoded import KINDS, READER, TASK, Decoded, LoopInfo, NewTask, OffloadStep, Standing
from traceloop.reading.decoding.runs import RunRows
from traceloop.reading.requests import ledger, recent_runs, servers, stretches
from traceloop.reading.requests.ledger import Ledger
from traceloop.reading.requests.totals import SLOWEST, Request, RequestTotals
from traceloop.reading.site_names import SiteNames
from traceloop.reading.statistics import counting
from traceloop.reading.statistics.executors import ExecutorStatistics
from traceloop.reading.statistics.histograms import DURATIONS
from traceloop.reading.statistics.labels import BoundedLabels
from traceloop.reading.statistics.waits import Waits
from traceloop.record.layout import SITE_LIMIT
from traceloop.record.sites import Site

native = load_native()
pytestmark = pytest.mark.skipif(native is None, reason="the reader's C half was not built (make native)")

# A moment: sums and differences of these are exact, however they are added up. Two of them are less than 1 ms.
TICK = 2.0**-11
SITES = [
    Site("", "unknown", "", 0),
    Site("uvicorn.protocols.http.h11_impl", "RequestResponseCycle.run_asgi", "/site-packages/uvicorn/h11.py", 1),
    Site("aiohttp.web_protocol", "RequestHandler.start", "/site-packages/aiohttp/web_protocol.py", 1),
    Site("app", "child", "/srv/app.py", 3),
    Site("app", "handler", "/srv/app.py", 4),
    Site("app", "call", "/srv/app.py", 5),
]
CALLBACKS = [0.0 + site for site in (4, 5)]
TASKS = [float(site + SITE_LIMIT * number) for site in (1, 2, 3) for number in (1, 2, 3)]

RUN = st.fixed_dictionaries(
    {
        "ident": st.one_of(st.sampled_from(TASKS), st.sampled_from(TASKS), st.sampled_from(CALLBACKS)),
        "kind": st.sampled_from(KINDS),
        "pause": st.integers(0, 6),
        "length": st.sampled_from([0, 1, 1, 2, 40]),
        "delay": st.sampled_from([-1, 0, 1, 1, 3, 60]),
        "by": st.integers(0, 6),
        "outcome": st.sampled_from([0, 0, 0, 1]),
        "begins": st.sampled_from([0, 0, 1, 2, 3]),  # by 1: its scheduler, 2: other code than the loop's, 3: a factory
        "marks": st.lists(st.sampled_from([4, 5]), max_size=2),
        "offload": st.sampled_from([0, 0, 0, 1, 2]),
        "looked_at": st.booleans(),
    }
)
CHUNKS = st.lists(st.tuples(st.lists(RUN, max_size=12), st.sampled_from([0, 0, 0, 0, 5])), min_size=1, max_size=5)


def run(ident: float, by: int = 0, kind: str = TASK, **more: Any) -> dict[str, Any]:
    """A run as it is drawn. ``by``: how many runs before it the one that made it ready is."""
    usual = {"pause": 0, "length": 1, "delay": 1, "outcome": 0, "begins": 0, "marks": [], "offload": 0}
    return {"ident": ident, "by": by, "kind": kind, "looked_at": False, **usual, **more}


#: What the process's ring says of its workers, and what the loop's says.
Chunk = tuple[Decoded, Decoded]


def chunks_of(drawn: Any) -> list[list[Chunk]]:
    """The chunks for the one in Python, and the same ones for the one in C."""
    out: list[list[Chunk]] = [[], []]
    now, number = 100.0, 0
    runs: list[Any] = []
    for listed, dropped in drawn:
        both = [Decoded(LoopInfo(1, "MainThread", 0.0)) for _ in out]
        both[1].runs, _, both[1].tasks, _, both[1].requests, _ = native.new_columns()
        first, workers = len(runs), []
        for each in listed:
            number += 1
            start = now + each["pause"] * TICK
            end = now = start + each["length"] * TICK
            by = number - each["by"] if each["by"] and each["by"] < number else 0
            ident = each["ident"]
            kind = TASK if ident >= SITE_LIMIT else each["kind"] if each["kind"] != TASK else READER
            runs.append((number, start, end, ident, kind, each["delay"] * TICK, by, 0, number, each["outcome"]))
            for decoded in both:
                if each["begins"] and ident >= SITE_LIMIT:
                    maker = runs[by - 1][3] if by else 0.0
                    waited_from = start - 2 * each["pause"] * TICK if each["begins"] == 3 else -1.0
                    is_made = each["begins"] != 2
                    decoded.tasks.append(NewTask(ident, "", number, start, by, maker, is_made, waited_from))
                for site in each["marks"]:
                    decoded.requests.append((number, site))
                if each["offload"]:
                    submit = OffloadStep("submit", start - 4 * TICK, number, 1, 5.0)
                    decoded.offloads += [submit, OffloadStep("deliver", start, number, run=number)]
                    if each["offload"] == 2:
                        workers += [
                            OffloadStep("start", start - 3 * TICK, number),
                            OffloadStep("finish", start - TICK, number),
                        ]
                if each["looked_at"]:
                    decoded.standing.append(Standing(start - 2 * TICK, ident, 1))
        for decoded in both:
            for row in runs[first:]:
                decoded.runs.append(row)
            decoded.dropped = dropped
        for chunks, decoded in zip(out, both, strict=True):
            of_workers = Decoded(None)
            of_workers.offloads = workers
            chunks.append((of_workers, decoded))
    return out


CHAIN = '[[["/srv/app.py", 4, "app", "handler"], ["/lib/asyncio/locks.py", 9, "asyncio.locks", "Lock.acquire"]], ""]'


def told(chunks: list[Chunk], watched: bool) -> Any:
    """All that is known of the requests of these chunks."""
    seen: list[Request] = []
    totals = RequestTotals([seen.append] if watched else ())
    for each in range(SLOWEST):  # so that not every request is one of the slowest
        totals.add(Request("slow", 0.0, (10 + each) * TICK, {}))
    sites, waits = SiteNames(SITES), Waits()
    executors = ExecutorStatistics(sites, BoundedLabels(9))
    waits.chains.define(1, CHAIN)
    requests = Ledger(totals, lambda: sites, waits, executors)
    for of_workers, decoded in chunks:
        waits.look(decoded.standing, 1.0)
        executors.feed(of_workers)
        requests.feed(decoded)
        executors.feed(decoded)
    by_name = {}
    for name, each in totals.by_name.items():
        parts = {part: seconds for part, seconds in each.parts.items() if seconds}
        alike = {
            bucket: (count, {part: seconds for part, seconds in known.items() if seconds})
            for bucket, (count, known) in each.by_duration.items()
        }
        by_name[name] = each.count, parts, each.details, alike, each.durations.counts, each.durations.sum
    slowest = [
        (each.name, each.begin, each.seconds, {part: seconds for part, seconds in each.parts.items() if seconds})
        for each in totals.slowest()
    ]
    assert all(add_up(each) for each in seen)
    moments = [each.moments for each in seen]
    return by_name, sorted(each[2] for each in slowest), totals.incomplete, moments


def add_up(request: Request) -> bool:
    """Whether the moments are the parts, one after the other, where all of them are there."""
    if not request.moments or request.moments[0][0] > request.begin + TICK / 2:
        return True
    sums: dict[str, float] = {}
    for begin, end, part, _ in request.moments:
        sums[part] = sums.get(part, 0.0) + end - begin
    parts: dict[str, float] = {}
    for (part, _), seconds in request.parts.items():
        parts[part] = parts.get(part, 0.0) + seconds
    follow = all(one[1] == other[0] for one, other in itertools.pairwise(request.moments))
    return follow and sums == pytest.approx({part: parts.get(part, 0.0) for part in sums}, abs=1e-6)




UVICORN, AIOHTTP, CHILD = TASKS[0], TASKS[3], TASKS[6]
READ = run(CALLBACKS[0], kind=READER)
# A request of aiohttp's that a task of its own answers, and one that its connection's task does; one of uvicorn's that
# waits for a timer, for a call in an executor, and for a task of its own.
OF_A_TASK = [
    run(AIOHTTP, begins=1),
    READ,
    run(AIOHTTP, 1),
    run(CHILD, 1, begins=1, marks=[4], outcome=1),
    run(AIOHTTP, 1),
    READ,
    run(AIOHTTP, 1, marks=[4, 5]),
]
OF_SEVERAL_STEPS = [
    READ,
    run(UVICORN, 1, begins=1, marks=[4]),
    run(CALLBACKS[1], kind="timer", delay=3, pause=6),
    run(UVICORN, 1, looked_at=True),
    run(CALLBACKS[1], kind="threadsafe", offload=2, delay=1, pause=6),
    run(UVICORN, 1),
    run(CHILD, 1, begins=1, length=40),
    run(CHILD, 0, delay=40, outcome=1),
    run(UVICORN, 1, outcome=1),
]

# A connection that lasts (a websocket's): more steps than are kept one by one.
OF_VERY_MANY_STEPS = [
    run(AIOHTTP, begins=1),
    READ,
    run(AIOHTTP, 1),
    run(CHILD, 1, begins=1, marks=[4]),
    *(each for _ in range(700) for each in (run(CALLBACKS[0], kind=READER, pause=6), run(CHILD, 1, delay=0))),
    run(CHILD, 0, outcome=1, pause=3),
    run(AIOHTTP, 1),
]


@settings(max_examples=200)
@given(CHUNKS, st.booleans())
@example([(OF_A_TASK, 0)], False)
@example([(OF_A_TASK[:3], 0), (OF_A_TASK[3:], 0)], True)
@example([(OF_SEVERAL_STEPS, 0)], False)
@example([([each], 0) for each in OF_SEVERAL_STEPS], False)
@example([(OF_VERY_MANY_STEPS, 0)], False)
@example([(OF_SEVERAL_STEPS, 0)], True)
@example([(OF_VERY_MANY_STEPS, 0)], True)
def test_the_same_runs_give_the_same_requests(drawn: Any, watched: bool) -> None:
    in_python, in_c = chunks_of(drawn)
    assert isinstance(in_python[0][1].runs, RunRows) and not isinstance(in_c[0][1].runs, RunRows)
    expected = told(in_python, watched)
    assert told(in_c, watched) == expected


@pytest.mark.parametrize("seed", range(20))
def test_what_ran_before_a_step_is_the_same(seed: int) -> None:
    """Steps that were ready for long, with many runs before them: short and long ones, in an order that a damaged
    record may have.
    """
    choose = Random(seed)
    drawn = [([run(AIOHTTP, begins=1)], 0)]
    for _ in range(20):
        lengths = choose.choices([0, 1, 2, 40], [100, 5, 2, 1], k=choose.choice([3, 30, 300]))
        pauses = choose.choices([0, 1, -20], [200, 5, 1], k=len(lengths))
        runs = [
            run(CALLBACKS[0], kind=READER, length=length, pause=pause)
            for length, pause in zip(lengths, pauses, strict=True)
        ]
        runs.append(run(AIOHTTP, choose.randrange(1, 4), delay=choose.choice([1, 20, 300]), marks=[4]))
        drawn.append((runs, 0))
    in_python, in_c = chunks_of(drawn)
    assert told(in_c, False) == told(in_python, False)


@pytest.mark.skipif(counting.native() is None, reason="the reader in Python was asked for")
def test_these_requests_are_what_they_are() -> None:
    """Of the examples it is known what they took; that both agree would be true of nothing as well."""
    by_name, *_ = told(chunks_of([(OF_A_TASK, 0)])[1], False)
    assert (by_name["app.handler"][0], by_name["app.call"][0]) == (2, 1)
    by_name, *_ = told(chunks_of([(OF_SEVERAL_STEPS, 0)])[1], False)
    count, parts, details, *_ = by_name["app.handler"]
    assert count == 1 and set(parts) >= {"running", "executor_run", "executor_queue", "executor_return", "wait_timer"}
    assert any(detail == ("executor_run", " app.call") for detail in details)
    by_name, *_ = told(chunks_of([(OF_VERY_MANY_STEPS, 0)])[1], False)
    _, parts, *_ = by_name["app.handler"]
    assert parts["wait_network"] == 700 * 5 * TICK and parts.get("unknown", 0.0) == 0.0


def test_names_and_limits_are_the_same() -> None:
    folder = Path(decoded_module.__file__).with_name("native")
    text = (folder / "ledger.h").read_text()
    numbers = {name: float(value) for name, value in re.findall(r"#define (\w+) ([\d.]+)\n", text)}
    for name in ("MAX_FOLLOWED", "MAX_ENDED", "MAX_MARKS", "MAX_FURTHER", "MAX_HOPS", "NAMED_SHARE", "SHARED_SECONDS"):
        assert numbers[name] == getattr(ledger, f"_{name}"), name
    assert numbers["MAX_BEHIND"] == ledger._MAX_BEHIND and numbers["MAX_NAMED"] == ledger._MAX_NAMED
    assert numbers["MOST_STRETCHES"] == stretches._MOST
    assert numbers["MOST_PARTS"] == stretches._MOST_PARTS
    assert numbers["KEPT_RUNS"] == recent_runs._KEPT
    assert (numbers["REQUEST"], numbers["CONNECTION"]) == (servers.REQUEST, servers.CONNECTION)
    order = re.search(r"enum \{\s+(IN_.*), PARTS\s+\}", text, re.DOTALL)
    assert order is not None
    names = [name.strip().removeprefix("IN_") for name in order[1].split(",")]
    assert tuple(getattr(stretches, name) for name in names) == stretches.PARTS


def test_what_is_kept_of_a_quiet_server_takes_as_much_memory_as_its_runs() -> None:
    requests = native.Requests(native.Buckets(DURATIONS.fine))

    def feed(numbers: range) -> None:
        for number in numbers:
            runs, _, tasks, _, marks, _ = native.new_columns()
            runs.append((number, float(number), number + 0.5, 5.0, READER, 0.0, 0, 0, number, 0))
            requests.feed(None, runs, tasks, marks, {}, {}, 0.0, 0, False, -1.0)

    feed(range(1, 10))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        feed(range(10, 1010))
        assert tracemalloc.get_traced_memory()[0] - before < 1000 * 500
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("half", ["python", "c"])
def test_a_row_of_makers_goes_with_what_was_given_up(half: str) -> None:
    """Each task makes the next one, the last of them ends, and then records are lost: again and again."""
    sites, waits = SiteNames(SITES), Waits()
    requests = Ledger(RequestTotals(), lambda: sites, waits, ExecutorStatistics(sites, BoundedLabels(9)))
    of_request, of_child = UVICORN % SITE_LIMIT, CHILD % SITE_LIMIT
    number = 0

    def lose_a_row(length: int) -> None:
        nonlocal number
        decoded = Decoded(None)
        if half == "c":
            decoded.runs, _, decoded.tasks, _, decoded.requests, _ = native.new_columns()
        decoded.dropped = 1
        maker = 0.0
        for each in range(length):
            number += 1
            ident = number * SITE_LIMIT + (of_child if each else of_request)
            decoded.tasks.append(NewTask(ident, "", number, float(number), number - 1 if each else 0, maker, True))
            ended = 1 if each == length - 1 else 0
            decoded.runs.append((number, float(number), number + 0.5, ident, TASK, 0.0, 0, 0, 0, ended))
            maker = ident
        requests.feed(decoded)

    tracemalloc.start()
    try:
        for _ in range(20):  # as many runs as are kept for looking back, and more
            lose_a_row(1000)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            lose_a_row(1000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 1_000_000  # a row takes some 300 KB in C, 500 KB in Python
