"""`traceloop diff` on two records of one program, of which the second does more in one coroutine."""

from __future__ import annotations

import json

import pytest

from tests.helpers.exported import record, traceloop
from traceloop.cli.diff import _headline, _machine, _named, _text
from traceloop.reading.comparison import (
    FASTER,
    ONLY_A,
    SAME,
    SLOWER,
    SOME_SLOWER,
    TOO_FEW,
    Change,
    Comparison,
    Interval,
)
from traceloop.reading.shared import Shift

TEXT = """
def spin(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
async def same():
    spin(0.0002)
    await asyncio.sleep(0)
async def changed():
    for _ in range(2): # most of its runs: the last one does nothing
        spin(0.0002 * FACTOR)
        await asyncio.sleep(0)
async def main():
    for _ in range(40):
        await asyncio.gather(same(), changed())
run(main())
"""


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    # So much longer that what follows such a run, with cold caches, is not slower alike.
    folder = tmp_path_factory.mktemp("diff")
    return record(folder / "a", TEXT.replace("FACTOR", "1")), record(folder / "b", TEXT.replace("FACTOR", "100"))


def test_it_names_what_became_slower(records):
    done = traceloop("diff", *records, "--width", "120")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("__main__.changed takes ") and "99% interval" in lines[0]
    rows = [line.split() for line in lines if line.startswith("    __main__.changed")]
    assert rows and rows[0][1:3] == ["120", "120"] and rows[0][-1] == "slower"
    document = json.loads(traceloop("diff", *records, "--json").stdout)
    assert document["schema"] == "traceloop-diff/1"
    verdicts = {each["name"]: each for each in document["callbacks"]}
    changed = verdicts["__main__.changed"]
    assert changed["verdict"] == "slower" and changed["usual_ratio"]["low"] > 2.0 and changed["added_seconds"] > 0.0
    assert verdicts["__main__.main"]["runs"] == [41, 41]
    assert document["requests"] == [] and len(document["schedule_delay"]) == 1


def test_the_same_record_twice(records):
    done = traceloop("diff", records[0], records[0], "--full")
    assert done.stdout.startswith("Nothing became measurably slower")
    assert "slower\n" not in done.stdout.partition("\n")[2]


SERVER = """
from aiohttp import ClientSession, web

async def answer(request):
    return web.Response(text="ok")

async def main():
    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    async with ClientSession() as session:
        for _ in range(3):
            async with session.get(f"http://127.0.0.1:{port}/") as response:
                await response.text()
    await runner.cleanup()
run(main())
"""


def test_a_short_record_has_its_requests(tmp_path):
    pytest.importorskip("aiohttp")
    kept = record(tmp_path, SERVER)
    document = json.loads(traceloop("diff", kept, kept, "--json").stdout)
    (row,) = document["requests"]
    assert (row["name"].rpartition(".")[2], row["runs"], row["verdict"]) == ("answer", [3, 3], "too few runs")
    line = traceloop("diff", kept, kept).stdout.splitlines()[0]
    assert " not judged: too few runs" in line


def change(name, verdict, ratio=1.0):
    between = Interval(ratio, ratio, ratio)
    return Change(name, 100, 100, 1.0, ratio, 1.0, ratio, between, between, verdict)


@pytest.mark.parametrize(
    ("requests", "delay", "kind", "line"),
    [
        ([change("a", SAME), change("b", TOO_FEW), change("c", TOO_FEW), change("d", ONLY_A)], SAME, FASTER,
         "Nothing became measurably slower (0 became faster, 2 not judged: too few runs, 1 in one record only)"),
        ([change("a", TOO_FEW)], TOO_FEW, TOO_FEW, "Nothing could be judged (1 not judged: too few runs)"),
        ([change("a", SOME_SLOWER, 1.5), change("b", FASTER)], SAME, SOME_SLOWER,
         "Some runs of a became slower: 1.50x as long on average (1 became faster)"),
        ([change("a", SAME)], SOME_SLOWER, SOME_SLOWER,
         "Some callbacks wait longer before they run: 2.00x on average (0 became faster)"),
        ([change("a", SOME_SLOWER)], SLOWER, SLOWER, "Callbacks wait 2.00x as long before they run (0 became faster)"),
        ([change("a", SLOWER, 3.0)], SLOWER, SLOWER, "a takes 3.00x as long"),
    ],
)  # fmt: skip
def test_the_first_line_gives_no_false_all_clear(requests, delay, kind, line):
    found = {"requests": requests, "callbacks": [], "schedule_delay": [change("all callbacks", delay, 2.0)]}
    said, text = _headline(found)
    assert said == kind and text.startswith(line)


READING = "traceloop.loop.network.transports.stream.StreamTransport._read_ready"


@pytest.mark.parametrize(
    ("verdict", "line"),
    [
        (SLOWER, "app.handler takes 1.50x as long"),
        (SOME_SLOWER, "Some runs of app.handler became slower"),
        (SAME, "reading from connections takes 9.00x as long"),
    ],
)
def test_plumbing_is_the_first_line_only_where_nothing_of_the_program_became_slower(verdict, line):
    callbacks = [change(READING, SLOWER, 9.0), change("app.handler", verdict, 1.5)]
    lines = _text({"requests": [], "callbacks": callbacks, "schedule_delay": []}, "", False, False, 120)
    assert lines[0].startswith(line)


@pytest.mark.parametrize(
    ("verdict", "what"), [(SAME, "Everything"), (SLOWER, "Everything else"), (FASTER, "Everything else")]
)
def test_what_stands_out_is_not_everything(verdict, what):
    shift = Shift(0.8, 0.75, 0.85, 5, None)
    compared = Comparison([], [change("app.handler", verdict)], [], shift, (0.0, 0.0))
    said = f"{what} became faster alike (0.80x as long): the machine, or what all of them use"
    assert _machine(compared) == said


def test_where_everything_became_slower_nothing_is_said_to_have_kept_its_pace():
    found = {"requests": [change("GET /", SAME)], "callbacks": [change("a", SAME)] * 2, "schedule_delay": []}
    machine = "Everything became slower alike (1.83x as long): the machine, or what all of them use"
    lines = _text(found, machine, False, False, 120, slower_alike=True)
    assert lines == [
        "Nothing became slower than the rest (0 became faster)",
        machine,
        "",
        "Not shown: 1 request and 2 callbacks without a verdict of slower or faster (--full)",
    ]


def test_plumbing_is_called_by_what_it_does():
    labels = [
        "app.handler",
        "traceloop.loop.network.transports.stream.StreamTransport._read_ready",
        "traceloop.loop.network.servers.Server._accept",
        "traceloop.loop.network.servers.Server._accepted",
    ]
    named = [each.name for each in _named([change(label, SAME) for label in labels])]
    assert named == [
        "app.handler",
        "reading from connections",
        "accepting connections (_accept)",
        "accepting connections (_accepted)",
    ]


def test_what_it_refuses(records, tmp_path):
    done = traceloop("diff", records[0], tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"traceloop: no record of a run in {tmp_path}\n"
    done = traceloop("diff", records[0])
    assert done.returncode == 2 and done.stderr.startswith("traceloop: B is missing")
