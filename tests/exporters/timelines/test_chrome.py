"""The Chrome trace: valid events of the Trace Event Format, with the same slices and arrows as the record's runs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import pytest

from tests.helpers.exported import traceloop

# What each phase has to have, and of which type (the Trace Event Format's table of event descriptions).
COMMON = {"ph": str, "pid": int, "tid": int, "ts": float | int, "name": str}
SCHEMA = {
    "X": COMMON | {"dur": float | int, "args": dict},
    "M": COMMON | {"args": dict},
    "C": COMMON | {"args": dict},
    "b": COMMON | {"cat": str, "id": str},
    "e": COMMON | {"cat": str, "id": str},
    "s": COMMON | {"cat": str, "id": int},
    "t": COMMON | {"cat": str, "id": int},
    "f": COMMON | {"cat": str, "id": int},
}


@pytest.fixture(scope="module")
def events(kept):
    done = traceloop("export", kept, "--format", "chrome", "-o", "-")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)["traceEvents"]


def test_every_event_is_of_its_schema(events):
    for event in events:
        for name, kind in SCHEMA[event["ph"]].items():
            assert isinstance(event[name], kind), event
        assert event["ts"] >= 0 and event.get("dur", 0) >= 0 and event["id" if "id" in event else "pid"] not in (0, "")
        assert not isinstance(event.get("id"), int) or event["id"] < 2**53
    rows = {event["tid"] for event in events if event["ph"] == "M"}
    assert rows >= {event["tid"] for event in events if event["ph"] != "C"}


def within(events, arrow):
    """The slice that an arrow's end binds to."""
    return [
        each["name"]
        for each in events
        if each["ph"] == "X" and each["tid"] == arrow["tid"] and each["ts"] <= arrow["ts"] < each["ts"] + each["dur"]
    ]


def test_arrows_end_in_slices(events):
    ends = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            ends[event["cat"], event["id"]].append(event)
    assert {"".join(end["ph"] for end in each) for each in ends.values()} == {"sf", "stf"}
    pairs = Counter(tuple(within(events, end)[-1] for end in each) for each in ends.values())
    assert pairs["__main__.main", "__main__.child"] == 4
    (through,) = [(pair, count) for pair, count in pairs.items() if len(pair) == 3]
    assert through[1] == 4 and "offloaded" in through[0][1]


def test_counters(events):
    counted = defaultdict(list)
    for event in events:
        if event["ph"] == "C":
            counted[event["name"]] += event["args"].values()
    of_loop = {f"{what} of MainThread" for what in ("ready queue", "tasks", "timers")}
    assert set(counted) == {"allocated blocks", *of_loop}
    assert counted["timers of MainThread"][-1] in (3, 4)
    assert max(counted["tasks of MainThread"]) >= 5 and counted["tasks of MainThread"][-1] <= 1


def test_tasks_begin_and_end(events):
    tasks = defaultdict(list)
    for event in events:
        if event["ph"] in "be":
            tasks[event["id"]].append((event["ph"], event["name"]))
    for each in tasks.values():
        name = each[0][1]
        assert each[0] == ("b", name) and each[-1] == ("e", name)
        assert Counter(phase for phase, _ in each)["b"] * 2 == len(each)
    names = {each[0][1] for each in tasks.values()}
    assert {f"__main__.child: child-{n}" for n in range(4)} | {"__main__.slow_one: the <slow> one"} <= names


def test_names_are_written_as_perfettos_parser_takes_them(kept):
    # It refuses surrogates as escapes, and takes the quote behind a backslash for an escaped one.
    text = traceloop("export", kept, "--format", "chrome", "-o", "-").stdout
    names = {event["name"] for event in json.loads(text)["traceEvents"]}
    assert "asyncio.tasks.sleep: \N{SNAIL} of A:\\" in names
    assert "\N{SNAIL} of A:\\u005c\"" in text and '\\\\"' not in text and "\\ud8" not in text
