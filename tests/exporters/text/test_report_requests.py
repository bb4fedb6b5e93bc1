"""The tables of requests: what a reader adds up in them adds up."""

import re
from types import SimpleNamespace

import pytest

from traceloop.exporters.json.requests import requests as as_json
from traceloop.exporters.text.report_requests import requests
from traceloop.exporters.text.tables import Style
from traceloop.reading.requests.stretches import READY, RUNNING, UNKNOWN
from traceloop.reading.requests.totals import Request, RequestTotals

UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}


@pytest.fixture
def process():
    """Ninety-eight short requests, and two that took long in other parts than these."""
    totals = RequestTotals()
    for number in range(98):
        totals.add(Request("app.read", float(number), 0.004, {(RUNNING, ""): 0.001, ("wait_timer", ""): 0.003}))
    for number in range(2):
        parts = {(RUNNING, ""): 0.002, (READY, "behind app.g"): 0.6, (UNKNOWN, ""): 0.098}
        totals.add(Request("app.read", 98.0 + number, 0.7, parts))
    return SimpleNamespace(parts=[totals])


def values(line):
    return [float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+) (s|ms|µs)\b", line)]


def test_the_parts_beside_a_percentile_add_up_to_what_stands_beside_them(process):
    lines = requests(process, Style(False, 120), full=True)
    found = {}
    for line in lines[lines.index(next(line for line in lines if "requests around" in line)) + 1 :]:
        which = re.match(r" +app\.read +(the mean|p50|p99) ", line)
        if which:
            took, *parts = values(line)
            found[which[1]] = took
            assert sum(parts) == pytest.approx(took, rel=0.01)  # three digits are shown
    assert found == {"the mean": pytest.approx(0.0179), "p50": pytest.approx(0.004), "p99": pytest.approx(0.7)}


def test_the_short_table_says_what_its_parts_add_up_to(process):
    lines = requests(process, Style(False, 120), full=False)
    assert "add up to the mean duration, not to p50 or p99" in lines[-1]
    assert not any("requests around" in line for line in lines)
    known = process.parts[-1].by_name["app.read"]
    shown = values(lines[1])[2:-1]
    assert sum(shown) == pytest.approx(known.durations.sum / known.count, rel=0.01)


def test_the_parts_in_json_add_up_to_the_mean(process):
    (row,) = as_json(process, lambda moment: moment)["by_name"]
    assert sum(row["mean"].values()) == pytest.approx(row["mean_seconds"])
    assert sum(row["at_p50"].values()) == pytest.approx(0.004)
    assert sum(row["at_p99"].values()) == pytest.approx(0.7)


def test_a_task_that_a_request_waited_for_is_another_one():
    totals = RequestTotals()
    totals.add(Request("app.read", 1.0, 0.2, {(RUNNING, ""): 0.05, ("wait_task", ""): 0.15}))
    lines = requests(SimpleNamespace(parts=[totals]), Style(False, 120), full=False)
    assert lines[1].endswith("another task 150 ms")
