"""`traceloop export --format jsonl`: an object for everything that happened, joined by numbers."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.helpers.exported import traceloop


@pytest.fixture(scope="module")
def lines(kept):
    done = traceloop("export", kept, "--format", "jsonl", "-o", "-")
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def of(lines, kind):
    return [line for line in lines if line["type"] == kind]


def test_every_type_is_there(lines):
    counts = Counter(line["type"] for line in lines)
    assert lines[0]["schema"] == "traceloop-records/1"
    assert (counts["export"], counts["process"], counts["offload"]) == (1, 1, 4)
    assert {"run", "slow", "iteration", "task", "task_end", "collection", "memory", "timers"} <= set(counts)


def test_runs_name_the_run_that_scheduled_them(lines):
    runs = {run["number"]: run for run in of(lines, "run")}
    assert sorted(runs) == list(range(1, len(runs) + 1))
    (timer,) = [run for run in runs.values() if run["kind"] == "timer" and "call_soon" in run["callback"]]
    assert runs[timer["scheduled_by"]]["callback"] == "__main__.main"
    (woken,) = [run for run in runs.values() if run["callback"] == "asyncio.locks.Event.set"]
    assert woken["scheduled_by"] == timer["number"]
    starts = [run["start_unix_nano"] for run in runs.values()]
    assert starts == sorted(starts)


def test_tasks_have_their_names_and_ends(lines):
    tasks = {task["name"]: task for task in of(lines, "task")}
    assert {f"child-{n}" for n in range(4)} | {"the <slow> one"} <= set(tasks)
    ends = {end["task"]: end for end in of(lines, "task_end")}
    assert all(ends[task["task"]]["outcome"] == "result" for task in tasks.values())


def test_an_offload_is_whole(lines):
    runs = {run["number"]: run for run in of(lines, "run")}
    for offload in of(lines, "offload"):
        moments = [offload[f"{name}_unix_nano"] for name in ("submit", "start", "end", "delivery")]
        assert moments == sorted(moments)
        assert offload["function"].endswith("offloaded") and offload["outcome"] == "result"
        assert runs[offload["submitted_by"]]["callback"] == "__main__.child"
        assert offload["delivered_by"] in runs


def test_a_slow_run_has_its_culprit_and_stack(lines):
    # On a busy machine others may be slow, too.
    (slow,) = [slow for slow in of(lines, "slow") if slow["callback"] == "__main__.slow_one"]
    assert slow["culprit"] == "__main__.spin"
    assert slow["stacks"][0]["frames"][-1]["function"] == "__main__.spin"
