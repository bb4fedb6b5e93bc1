"""The report as JSON: all its fields are documented, its numbers are the statistics', and no record can break it."""

from __future__ import annotations

import json
import math
import re

import pytest

from tests.helpers.observed import TROUBLES, Observed, observe, program, start, wait_for
from tests.helpers.paths import ROOT
from traceloop.exporters.json.report import dump, report
from traceloop.reading.follower import RunFollower
from traceloop.reading.new_statistics import new_statistics
from traceloop.reading.site_names import SiteNames

DOCS = (ROOT / "docs" / "report-json.md").read_text()


@pytest.fixture(scope="module")
def statistics(tmp_path_factory):
    return observe(tmp_path_factory.mktemp("json"), TROUBLES, "sleep").statistics


def names(value):
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from names(each)
    elif isinstance(value, list):
        for each in value:
            yield from names(each)


def test_every_field_is_documented(statistics):
    words = set(re.findall(r"\w+", DOCS))
    assert set(names(report(statistics))) <= words


def test_its_numbers_are_the_statistics(statistics):
    data = json.loads(dump(statistics, command="python troubles.py sleep"))
    (loop,) = statistics.loops()
    (process,) = data["processes"]
    (shown,) = process["loops"]
    assert data["command"] == "python troubles.py sleep" and data["live"] is False
    assert data["overview"]["callbacks"] == shown["callbacks"] == loop.callbacks.runs
    assert sum(each["runs"] for each in shown["by_callback"]) == loop.callbacks.runs
    for each in shown["by_callback"]:
        assert sum(each["runs_by_duration"]) == each["runs"]
        assert 0 < each["p50_seconds"] <= each["p99_seconds"] <= each["longest_seconds"]
        bounds = [0.0, *data["duration_bounds_seconds"], math.inf]
        longest = max(index for index, count in enumerate(each["runs_by_duration"]) if count)
        assert bounds[longest] < each["longest_seconds"] <= bounds[longest + 1]
    assert shown["schedule_delay"][0]["kind"] == "all"
    assert shown["slow_callbacks"] == loop.callbacks.slow_runs == sum(each["runs"] for each in shown["slow"])
    first = data["verdict"]["findings"][0]
    assert (first["kind"], first["detail"], first["who"]["function"]) == ("blocking-call", "sleep", "__main__.sleep")
    assert any(each["culprit"] == "__main__.sleep" and each["seconds"] > 0.3 for each in process["stalls"])
    assert any(each["culprit"] == "__main__.sleep" for each in process["blocked"])


def test_the_timeline_adds_up(statistics):
    (loop,) = statistics.loops()
    (shown,) = report(statistics)["processes"][0]["loops"]
    timeline = shown["timeline"]
    assert sum(each["callbacks"] for each in timeline) == loop.callbacks.runs
    assert sum(each["active_seconds"] for each in timeline) == pytest.approx(loop.iteration_durations.sum, abs=0.05)
    assert max(each["longest_seconds"] for each in timeline) == loop.iteration_durations.maximum
    times = [each["time"] for each in timeline]
    assert times == sorted(times) and abs(times[-1] - report(statistics)["generated"]) < 600


def test_nothing_was_recorded():
    data = json.loads(dump(new_statistics()))
    assert data["verdict"]["healthy"] is False and data["processes"] == []


def test_what_is_no_number_is_null(statistics):
    (loop,) = statistics.loops()
    loop.poll_delays.add(math.inf)
    threshold, loop.callbacks.threshold = loop.callbacks.threshold, math.inf
    try:
        (shown,) = json.loads(dump(statistics))["processes"][0]["loops"]
    finally:
        loop.callbacks.threshold = threshold
    assert shown["slow_threshold_seconds"] is None


@pytest.mark.parametrize(
    ("run", "command"),
    [
        ({"command": ["uvicorn"]}, "uvicorn"),
        ({"command": ["-m pytest"]}, "-m pytest"),
        ({"command": ["python", "an app.py", "\x1b[2J"]}, "python 'an app.py' '\\x1b[2J'"),
        ({"command": 3}, ""),
        ([], ""),
    ],
)
def test_it_is_called_by_what_was_run_and_not_by_its_first_process(tmp_path, run, command):
    (tmp_path / "run.json").write_text(json.dumps(run))
    statistics = RunFollower(tmp_path, new_statistics()).statistics
    assert report(statistics)["command"] == command
    statistics.attach(1, SiteNames([]), {"command": "multiprocessing"})
    assert report(statistics)["command"] == (command or "multiprocessing")


DEEP = """
import contextlib
async def main():
    await asyncio.sleep(0.01)
    holds()
def holds():
    innermost = threading.Event().wait
    for _ in range(COUNT):
        stack = contextlib.ExitStack()
        stack.callback(innermost)
        innermost = stack.close
    innermost()
run(main())
"""


@pytest.mark.parametrize("count", [2, 20])
def test_the_blamed_frame_is_in_the_stack_however_far_out_it_stands(tmp_path, count):
    path = program(tmp_path, DEEP.replace("COUNT", str(count)))
    process = start(tmp_path / "run", path)
    observed = Observed(tmp_path / "run")

    def stack():
        observed.poll()
        loops = [loop for each in report(observed.statistics)["processes"] for loop in each["loops"]]
        return next((loop["stall"]["stack"] for loop in loops if loop["stall"]), None)

    try:
        lines = wait_for(stack, "a stack")
    finally:
        process.kill()
        process.communicate()
    number = path.read_text().splitlines().index("    innermost()") + 1
    blamed = lines.index(f"{path}:{number} in __main__.holds")
    assert "threading" in lines[0]
    if count == 2:
        assert not [line for line in lines if "more frame" in line]
        assert "main" in lines[blamed + 1]
        return
    left_out = re.fullmatch("and ([0-9]+) more frames?", lines[blamed - 1])
    assert blamed == 40 and left_out and int(left_out[1]) >= 20
    assert re.fullmatch("and [0-9]+ more frames?", lines[-1])
