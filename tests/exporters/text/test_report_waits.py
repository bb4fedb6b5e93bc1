"""The table of waits in the report: short at first, whole with ``--full``."""

import json

import pytest

from tests.helpers.made_statistics import Made
from traceloop.exporters.text import report_waits
from traceloop.exporters.text.tables import Style
from traceloop.reading.decoding.decoded import Standing
from traceloop.record.layout import SITE_LIMIT

PLACES = 30


@pytest.fixture
def process():
    process = Made().process
    for number in range(1, PLACES + 1):
        frames = [["/srv/shop/app/prices.py", number, "app.prices", "load"]]
        process.waits.chains.define(number, json.dumps([frames, "_asyncio.Future"]))
        ident = number * SITE_LIMIT + 1.0
        process.waits.look([Standing(9.5, ident, number)], 1.0)
        process.waits.step(ident, 9.0, 9.0 + number)
    return process


def rows(lines):
    return [line.split()[0] for line in lines if "prices.py:" in line]


def test_the_first_rows_are_shown_and_how_many_there_are_more(process):
    lines = report_waits.waits(process, Style(False, 120), full=False)
    assert rows(lines) == [f"prices.py:{number}" for number in range(PLACES, PLACES - 3, -1)]
    assert lines[-1].strip() .startswith("and 27 more places (--full)")


def test_every_place_is_in_the_full_report(process):
    lines = report_waits.waits(process, Style(False, 120), full=True)
    assert sorted(rows(lines)) == sorted(f"prices.py:{number}" for number in range(1, PLACES + 1))
    assert "more place" not in "\n".join(lines)


@pytest.mark.parametrize(
    ("waits", "told"), [(1, ["1", "8.00", "ms", "8.00", "ms"]), (2, ["2", "~2.00", "s", "8.00", "ms"])]
)
def test_one_short_wait_is_no_estimate(waits, told):
    process = Made().process
    frames = [["/srv/shop/app/prices.py", 7, "app.prices", "load"]]
    process.waits.chains.define(1, json.dumps([frames, "_asyncio.Future"]))
    for number in range(1, waits + 1):
        process.waits.look([Standing(9.0 + number, SITE_LIMIT + 1.0, 1)], 1.0)
        process.waits.step(SITE_LIMIT + 1.0, 8.996 + number, 9.004 + number)
    lines = report_waits.waits(process, Style(False, 120), full=True)
    assert lines[1].split()[-5:] == told
    assert ("~ estimated" in lines[-1]) == (waits > 1)
    assert lines[-1].strip().endswith("waits shorter than 1.00 s are seen by chance")
    # Of one moment nothing follows for the whole run: only ``--full`` has it.
    assert bool(report_waits.waits(process, Style(False, 120), full=False)) == (waits > 1)


def test_of_too_many_tasks_it_is_said_which_part_was_looked_at(process):
    assert "too many" not in "\n".join(report_waits.waits(process, Style(False, 120), full=False))
    process.waits.look([], 250.0)
    (said,) = [line for line in report_waits.waits(process, Style(False, 120), full=False) if "too many" in line]
    assert said.strip() == (
        "there were too many tasks to look at each: 0.4% of them a second, each once in 4 min 10 s"
    )
