"""The text report and the summary, of loops that really ran."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from tests.helpers.made_statistics import SITES, Made
from traceloop.exporters.text import tables as text_tables
from traceloop.exporters.text.names import shorten_name
from traceloop.exporters.text.report import report, summary
from traceloop.loop.event_loop import EventLoop
from traceloop.reading import read_loop
from traceloop.reading.decoding.decoded import Decoded, StackNode, StackSample
from traceloop.reading.new_statistics import new_statistics
from traceloop.reading.site_names import SiteNames
from traceloop.reading.statistics.callbacks import SlowTotals
from traceloop.recording import process

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def statistics():
    old, process._current = process._current, None

    def blocking():
        time.sleep(0.6)  # far longer than anything that a busy machine does to the rest

    async def quick():
        for _ in range(100):
            await asyncio.sleep(0)

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_soon(blocking)
        await asyncio.gather(*(quick() for _ in range(3)))
        await asyncio.to_thread(time.sleep, 0.01)
        await asyncio.sleep(0.01)

    loop = EventLoop()
    loop.run_until_complete(main())
    loop.close()
    yield read_loop(loop)
    process._current = old


def test_the_summary_is_one_line_with_the_worst_by_name(statistics):
    line = summary(statistics)
    assert "\n" not in line
    assert re.match(
        r"1 loop, [\d,]+ callbacks, \d+\.\d% utilization, \d+ slow callbacks?; worst: "
        r"text/test_report\.py:\d+ in blocking blocks the loop: it sleeps \(\d+ ms once(; others waited [^;]+)?\)",
        line,
    )


def test_the_report_says_what_happened(statistics):
    text = report(statistics, color=False, width=120)
    whole = report(statistics, color=False, width=120, full=True)
    words = ["active", "idle", "schedule delay", "duration", "timers:", "tasks:", "memory", "Loop MainThread", "queued"]
    assert [word for word in words if word not in text] == []
    words += ["p99.9", "Executors", "who blocked", "offloaded functions by time", "allocated blocks"]
    assert [word for word in words if word not in whole] == []
    line = next(line for line in whole.splitlines() if "quick" in line)
    assert " 303 " in line or " 306 " in line  # three tasks, a hundred sleeps each, and their last step
    assert "time.sleep" in whole


def test_the_steps_of_one_thing_are_one_row():
    """A connection is accepted by two functions of the loop."""
    old, process._current = process._current, None

    async def main():
        met = asyncio.Event()

        async def serve(reader, writer):
            met.set()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await met.wait()
            writer.close()
            await writer.wait_closed()

    loop = EventLoop()
    try:
        loop.run_until_complete(main())
        loop.close()
        # On a busy machine it may be in other tables too.
        by_time = report(read_loop(loop), full=True).partition("callbacks by time")[2].partition("\n\n")[0]
        (accepting,) = [line.split() for line in by_time.splitlines() if "accepting connections" in line]
    finally:
        process._current = old
    assert int(accepting[2]) >= 2


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("color", [False, True])
def test_tables_keep_to_the_width_and_line_up(statistics, width, color):
    text = report(statistics, color=color, width=width, full=True)
    assert bool(ESCAPE.search(text)) == color
    lines = ESCAPE.sub("", text).splitlines()
    assert not any(line != line.rstrip() for line in lines)
    table = [line for line in lines if line.startswith("    ") and re.search(r"\d (s|ms|µs|ns)$", line)]
    assert len(table) > 8
    if width >= 80:
        tables = [line for line in table if "active" not in line]
        assert all(len(line) <= width for line in tables)


def test_the_short_report_keeps_to_the_width(statistics):
    for width in (80, 100, 200):
        lines = report(statistics, width=width).splitlines()
        assert [line for line in lines if len(line) > width] == []
        assert len(lines) < 60  # also where a busy machine adds findings


def test_of_many_loops_each_is_a_row_of_the_short_report():
    made = Made()
    for number in range(1, 13):
        made.loop = made.process.open_loop(f"worker-{number}", 1 + number, 0.0, None, None)
        made.loop.active_s = 1.0 + number
        made.ran("app.prices.load", number, 0.001)
    lines = report(made.statistics, width=120).splitlines()
    (head,) = (at for at, line in enumerate(lines) if line.split()[:1] == ["loop"])
    shown = [line.split()[0] for line in lines[head + 1 : head + 9]]
    assert shown == [f"worker-{number}" for number in range(12, 4, -1)]
    assert lines[head + 9].strip() == "and 5 more loops with 10 callbacks"
    assert any(line.split()[:2] == ["app.prices.load", "78"] for line in lines)  # of all loops together
    assert sum(line.startswith("  Loop ") for line in report(made.statistics, full=True).splitlines()) == 8


def test_of_several_processes_the_busiest_is_shown_and_each_other_is_a_row():
    made = Made()
    for number in range(1, 6):
        made.process = made.statistics.attach(number, SiteNames(SITES))
        made.loop = made.process.open_loop("MainThread", 1, 0.0, None, None)
        made.loop.active_s = 1.0 + number
        made.ran("app.prices.load", number, 0.001)
    lines = report(made.statistics, width=120).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("Process ")] == ["5"]
    (head,) = (at for at, line in enumerate(lines) if line.split()[:2] == ["other", "processes"])
    assert [line.split()[1].rstrip(",") for line in lines[head + 1 : head + 6]] == ["4", "3", "2", "1", "0"]


def test_of_several_processes_those_with_the_worst_findings_are_shown_however_few_callbacks_they_ran():
    made = Made()
    for number in range(3):
        if number:
            made.process = made.statistics.attach(number, SiteNames(SITES))
            made.loop = made.process.open_loop("MainThread", 1, 0.0, None, None)
        made.loop.active_s, made.loop.idle_s, made.loop.iterations = (1.0, 99.0, 1000) if number < 2 else (8.6, 0.3, 20)
        made.ran("app.prices.load" if number < 2 else "app.prices.parse", 1000 if number < 2 else 20, 0.5)
        decoded = Decoded(None)
        decoded.profile_rate, decoded.nodes = 100.0, [StackNode(1, 0, 1 + number // 2, False)]
        decoded.samples = [StackSample(1.0, 0.01, 1.0 + number // 2, 1, 1)] * 20
        made.process.feed(decoded, None)
    slow = made.loop.callbacks.slow["app.prices.parse", "app.prices.parse"] = SlowTotals()
    slow.runs, slow.seconds, slow.longest_s = 20, 8.56, 0.5
    lines = report(made.statistics, width=120).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("Process ")] == ["2"]
    (head,) = (at for at, line in enumerate(lines) if line.split()[:2] == ["other", "processes"])
    assert [line.split()[1].rstrip(",") for line in lines[head + 1 : head + 3]] == ["0", "1"]
    (profile,) = (at for at, line in enumerate(lines) if "time went by line" in line)
    assert lines[profile + 2].split()[:2] == ["app.prices.parse,", "prices.py:60"]


def workers(made):
    """Three processes, one after the other as those of ``made``: their numbers."""
    for number in range(1, 4):
        if number > 1:
            made.process = made.statistics.attach(number, SiteNames(SITES))
            made.loop = made.process.open_loop("MainThread", 1, 0.0, None, None)
            made.loop.active_s, made.loop.idle_s, made.loop.iterations = 1.0, 99.0, 1000
        yield number


def test_a_finding_that_several_workers_have_is_told_once():
    made = Made()
    for number in workers(made):
        slow = made.loop.callbacks.slow["app.prices.load", "app.prices.load"] = SlowTotals()
        slow.runs, slow.seconds, slow.longest_s = 1, 0.1 + number / 10, 0.1 + number / 10
    lines = report(made.statistics, width=120).splitlines()
    assert lines[2] == "1 finding in 3 processes, the worst first"
    assert summary(made.statistics).endswith("(400 ms once), likewise in 2 more processes")
    titles = [line for line in lines if line.startswith(" 1  ") or line.startswith(" 2  ")]
    assert titles == [" 1  app/prices.py:31 in load blocks the loop: it runs for too long (process 2)"]
    assert "    likewise in process 1: 300 ms once; in process 0: 200 ms once" in lines


def test_a_note_that_several_workers_have_is_told_once():
    made = Made()
    for number in workers(made):
        made.process.count_records(0, 1000.0, 900 + number, 900 + number)
    (line,) = (line for line in report(made.statistics, width=1000).splitlines() if line.startswith("note: "))
    assert "the last 1 min 40 s, with 99 of 1,000 records (9.9%); likewise in process 1: " in line


def test_an_empty_run_has_a_report_too():
    line = "0 loops, 0 callbacks, 0.0% utilization, no slow callbacks; nothing is known of the program"
    line += " (no callback was recorded)"
    assert summary(new_statistics()) == line
    assert report(new_statistics()).startswith("traceloop: 0 loops")
    assert "\nNothing is known of the program: no callback was recorded.\n" in report(new_statistics())



@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 s"),
        (850e-9, "850 ns"),
        (12.34e-6, "12.3 µs"),
        (0.0009999, "1.00 ms"),
        (0.104, "104 ms"),
        (0.99999, "1.00 s"),
        (2.314, "2.31 s"),
        (200.4, "3 min 20 s"),
        (7500.0, "2 h 5 min"),
        (float("inf"), "∞"),
    ],
)
def test_durations_are_written_for_people(value, text):
    assert text_tables.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(512, "512 B"), (1536, "1.50 KiB"), (61.2 * 2**20, "61.2 MiB"), (5 * 2**40, "5120 GiB")]
)
def test_sizes_are_written_for_people(value, text):
    assert text_tables.size(value) == text


def test_names_from_a_record_cannot_drive_the_terminal():
    assert text_tables.clean("a\x1b[31mb\x07\ud800") == "a?[31mb??"


def test_a_long_name_keeps_its_beginning_and_its_end():
    short = text_tables.shorten("application.services.orders.Handlers.create_order", 24)
    assert len(short) == 24 and short.startswith("app") and short.endswith("create_order")


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("shop.api.read_item", 18, "shop.api.read_item"),
        ("shop.api.read_item", 12, "…read_item"),
        ("waits for a processor", 14, "waits for a p…"),
        ("ready behind shop.api.read_item 1.85 s", 34, "ready behind …api.read_item 1.85 s"),
        ("ready behind shop.api.read_item 1.85 s", 25, "ready behind re…em 1.85 s"),
        ("__main__.lookup in executor default", 22, "…lookup in executor d…"),
        ("cancelled_waiters.py:20", 22, "…ncelled_waiters.py:20"),
    ],
)
def test_words_keep_their_beginning_and_names_their_end(text, width, short):
    assert shorten_name(text, width) == short


def test_a_column_without_anything_in_it_is_left_out():
    style = text_tables.Style(False, 80)
    rows = [["load", "3", ""], ["parse", "40", ""]]
    assert text_tables.table(style, ["name", "runs", "failed"], rows) == [
        "    name   runs", "    load      3", "    parse    40"
    ]  # fmt: skip
