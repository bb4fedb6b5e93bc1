"""`traceloop check`: budgets kept and broken, of records and programs; its files; what it refuses."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import xmlschema

from tests.helpers.exported import PROGRAM, record, traceloop
from tests.helpers.made_statistics import SITES, Made
from traceloop.cli.check import _document
from traceloop.cli.junit import as_junit
from traceloop.reading.budgets import Budgets, Judgement, Offender, judge
from traceloop.reading.site_names import SiteNames
from traceloop.reading.statistics.callbacks import CallbackTotals, SlowTotals
from traceloop.reading.statistics.histograms import Histogram
from traceloop.record import files, layout

# What it waits for a processor is taken off: enough is left, however busy the machine is.
SLEEPS = """
async def sleeper():
    time.sleep(1.5)  # long enough for the watchdog to see it on a busy machine
async def main():
    await asyncio.create_task(sleeper())
run(main())
"""


JUNIT = xmlschema.XMLSchema(Path(__file__).with_name("junit.xsd"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return record(tmp_path_factory.mktemp("checked"), SLEEPS)


def test_a_broken_budget_names_the_offender(kept, tmp_path):
    out, xml = tmp_path / "out.json", tmp_path / "out.xml"
    options = ["--max-callback", "10ms", "--max-delay-p99", "60s", "--no-slow", "--json", out, "--junit", xml]
    done = traceloop("check", *options, kept)
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["FAIL", "ok", "FAIL"]
    place = f"__main__.sleeper ({kept.parent / 'program.py'}:"
    # On a busy machine others are too long too, or even longer.
    assert lines[0] == "FAIL  max-callback 10.0 ms" and any(f": {place}" in line for line in lines)
    document = json.loads(out.read_text())
    assert (document["schema"], document["kept"]) == ("traceloop-check/1", False)
    longest, late, slow = document["budgets"]
    assert all(each["value"] > 0.01 for each in longest["offenders"])
    assert "__main__.sleeper" in [each["name"] for each in longest["offenders"]]
    assert late["kept"] and not slow["kept"] and any(each["where"].startswith(place) for each in slow["offenders"])
    suite = ElementTree.parse(xml).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    JUNIT.validate(str(xml))
    failed = [case.get("name") for case in suite.findall("testcase") if case.find("failure") is not None]
    assert failed == ["max-callback 10.0 ms", "no-slow"]
    (failure,) = suite.findall("testcase")[0]
    assert failure.text.startswith(failure.get("message"))
    assert any(line.startswith("__main__.sleeper, ") for line in failure.text.splitlines())


def test_budgets_that_are_kept(kept):
    done = traceloop("check", "--max-callback", "60s", "--no-leak", kept)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok    max-callback 60.0 s\nok    no-leak\n", "")


def test_without_a_budget_findings_count(kept):
    done = traceloop("check", kept)
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL  no-findings\n") and "traceloop explain blocking-call" in done.stdout


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        ("traceloop.recording.offloads.offload.Offload.deliver", "delivering an executor's result"),
        ("app.prices.load", "app.prices.load"),
    ],
)
def test_an_offender_is_called_as_in_the_report(callback, words):
    made = Made()
    slow = made.loop.callbacks.slow[callback, "unknown"] = SlowTotals()
    slow.runs, slow.seconds, slow.longest_s, slow.blocked_s = 1, 0.7, 0.7, 0.5
    made.loop.callbacks.delays["callback"] = Histogram()
    made.loop.callbacks.delays["callback"].add(0.5)
    late, no_slow = judge(made.statistics, Budgets(max_delay_p99=0.01, slow=True))
    assert late.offenders[0].where == f"others waited for {words} (500 ms)"
    (offender,) = no_slow.offenders
    assert offender.text == f"{words}, 1 time, 700 ms at most"
    assert offender.name == callback  # for programs


def test_what_two_processes_do_alike_is_told_apart():
    made = Made()
    other = made.statistics.attach(1, SiteNames(SITES))
    loops = [made.loop, other.open_loop("MainThread", 1, 0.0, None, None)]
    for loop in loops:
        loop.active_s, loop.idle_s, loop.iterations = 1.0, 99.0, 1000
        slow = loop.callbacks.slow["app.prices.load", "unknown"] = SlowTotals()
        slow.runs, slow.seconds, slow.longest_s = 1, 0.7, 0.7
        totals = loop.callbacks.callbacks["app.prices.load"] = CallbackTotals("app.prices.load")
        totals.runs, totals.seconds, totals.longest_s = 1, 0.7, 0.7
        loop.callbacks.delays["callback"] = Histogram()
        loop.callbacks.delays["callback"].add(0.5)
    judged = judge(made.statistics, Budgets(max_callback=0.05, max_delay_p99=0.01, slow=True, findings=True))
    for each in judged:
        assert [offender.within for offender in each.offenders] == ["process 0", "process 1"], each.budget
        assert len({offender.text for offender in each.offenders}) == 2
    assert judged[0].offenders[1].text == "app.prices.load (process 1), 700 ms"
    second = other.open_loop("worker", 2, 0.0, None, None)
    second.callbacks.callbacks["app.prices.load"] = totals
    (judgement,) = judge(made.statistics, Budgets(max_callback=0.05))
    assert [offender.within for offender in judgement.offenders] == [
        "process 0",
        "MainThread of process 1",
        "worker of process 1",
    ]


@pytest.mark.parametrize(("others", "kept"), [(0.5, True), (20.0, False)])
def test_a_busy_machine_is_no_finding_that_counts_but_threads_of_the_process_are(others, kept):
    made = Made()
    made.waited((5.0, 1.0, 1.0, 1.0, 0), (95.0, 5.0, 5.0 + others, 9.0, 0))
    (judged,) = judge(made.statistics, Budgets(findings=True))
    assert judged.kept is kept
    busy = "The process waits for a processor: the machine is busy with something else: 8.00 s of 1 min 40 s"
    assert judged.pardoned == (busy if kept else "")


def test_a_longer_run_that_waited_for_a_processor_is_named_under_a_budget_that_was_kept():
    made = Made()
    made.slow_run(0.4, cpu=0.1, waited=0.3)
    made.ran("app.prices.load", 1, 0.4)
    made.loop.callbacks.callbacks["app.prices.load"].longest_s = 0.4
    loose, strict, wide = (judge(made.statistics, Budgets(max_callback=limit))[0] for limit in (0.3, 0.05, 0.5))
    assert loose.kept and not strict.kept
    assert loose.pardoned == "the longest, app.prices.load, ran for 400 ms with its waits for a processor"
    assert wide.kept and not wide.pardoned


def test_what_is_not_counted_stands_in_the_files():
    waited = "the longest, <app.load>, ran for 400 ms"
    broken = Judgement("max-callback", "50.0 ms", (Offender("app.load", "80.0 ms", 0.08),), waited)
    judged = [broken, Judgement("max-callback", "300 ms", (), waited), Judgement("no-slow", "", ())]
    budgets = _document(judged, ran=7, dropped=0, mostly_lost=False)["budgets"]
    assert [each["not_counted"] for each in budgets] == [None, waited, None]
    text = as_junit(judged, 7)
    JUNIT.validate(text)
    assert ElementTree.fromstring(text).findtext("system-out") == f"max-callback 300 ms: not counted: {waited}"
    assert not ElementTree.fromstring(as_junit(judged[2:], 7)).findtext("system-out")


def test_a_dash_is_stdout_and_the_lines_go_to_stderr(kept, tmp_path):
    done = traceloop("check", "--max-callback", "60s", "--json", "-", kept)
    assert (done.returncode, done.stderr) == (0, "ok    max-callback 60.0 s\n")
    assert json.loads(done.stdout)["kept"]
    done = traceloop("check", "--max-callback", "60s", "--junit", "-", kept)
    JUNIT.validate(done.stdout)
    for options in (["--json", "-", "--junit", "-", kept], ["--json", "-", "--", "no.py"]):
        done = traceloop("check", *options)
        assert (done.returncode, done.stdout) == (2, "") and "stdout" in done.stderr
    page = traceloop("report", "--html", "-", kept)
    assert (page.returncode, page.stderr) == (0, "") and page.stdout.startswith("<!doctype html>")
    done = traceloop("report", "--html", "-", "--json", kept)
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux")
@pytest.mark.parametrize("option", ["--json", "--junit"])
def test_no_room_for_the_result_is_no_broken_budget(kept, option):
    done = traceloop("check", "--max-callback", "60s", option, "/dev/full", kept)
    assert (done.returncode, done.stdout) == (2, "ok    max-callback 60.0 s\n")
    assert done.stderr == "traceloop: cannot write /dev/full: No space left on device\n"


def test_junit_of_names_that_are_markup_or_no_text_at_all():
    names = ['</failure><![CDATA["&', "a\x00\x1b[2J\ufffe\udc80b", "line\nline", "\U0001f600 " * 1000]
    offenders = tuple(Offender(name, "1.00 s", 1.0, "app.f (app.py:1)") for name in names)
    text = as_junit([Judgement("max-callback", "50.0 ms", offenders), Judgement("no-slow", "", ())], 7)
    JUNIT.validate(text)
    (failure,) = ElementTree.fromstring(text.encode()).iter("failure")
    lines = failure.text.splitlines()
    assert len(lines) == 4 and lines[0] == failure.get("message") == '</failure><![CDATA["&, 1.00 s: app.f (app.py:1)'


def test_tasks_that_are_destroyed_are_a_leak(tmp_path):
    text = """
async def forgotten():
    await asyncio.get_running_loop().create_future()
async def main():
    for _ in range(3):
        asyncio.create_task(forgotten())
    await asyncio.sleep(0)
    gc.collect()
loop = EventLoop()
loop.run_until_complete(main())
loop.close()
"""
    done = traceloop("check", "--no-leak", record(tmp_path, text))
    assert done.returncode == 1
    assert "__main__.forgotten, 3 tasks" in done.stdout or "forgotten" in done.stdout.splitlines()[1]


def check(traced, *words, **more):
    done = [traced.command[0], "check", *map(str, words)]
    return subprocess.run(done, capture_output=True, text=True, timeout=120, **more)


APP = """
import asyncio, sys, time
async def main():
    time.sleep(1.5)  # on a busy machine some of it counts as waiting for a processor
    open("/dev/null").close()
    print("output")
asyncio.run(main())
sys.exit(int(sys.argv[1]))
"""


def test_a_program(traced, tmp_path):
    path = tmp_path / "app.py"
    path.write_text(APP)
    before = set(os.listdir("/dev/shm"))
    done = check(traced, "--max-callback", "50ms", "--no-blocking", "--", path, "0")
    assert (done.returncode, done.stdout) == (1, "output\n")
    lines = done.stderr.splitlines()
    assert all(line.startswith("traceloop: ") for line in lines)
    assert "traceloop: FAIL  max-callback 50.0 ms" in lines and "traceloop: FAIL  no-blocking" in lines
    assert any(f"{path}:5" in line and "open" in line for line in lines)
    done = check(traced, "--max-callback", "60s", "--", path, "7")
    assert (done.returncode, done.stdout) == (7, "output\n")
    assert "traceloop: the program ended with status 7" in done.stderr
    assert "traceloop: ok    max-callback 60.0 s" in done.stderr and "the record is in" not in done.stderr
    assert {name for name in set(os.listdir("/dev/shm")) - before if str(path) in name} == set()


def test_a_program_that_is_killed(traced, tmp_path):
    path = tmp_path / "app.py"
    path.write_text(
        "import asyncio, os, signal\nasync def main():\n    os.kill(os.getpid(), signal.SIGKILL)\nasyncio.run(main())\n"
    )
    done = check(traced, "--max-callback", "60s", "--", path)
    assert done.returncode == 128 + signal.SIGKILL
    assert "killed" in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "what is to be checked?"),
        (["/nonexistent"], "no folder with a record: /nonexistent"),
        ([__file__], f"to run a program: traceloop check -- {__file__}"),
        (
            ["--max-callback", "1s", "--no-leak", "python", "-c", "pass"],
            "a program stands behind --: traceloop check --max-callback 1s --no-leak -- python ARGUMENTS",
        ),
        (["app.py", "--port", "1"], "a program stands behind --: traceloop check -- app.py ARGUMENTS"),
        (["/", "--no-leek"], "no such option: --no-leek; did you mean --no-leak?"),
        (["a", "b"], "a program stands behind --: traceloop check -- a b"),
        (["--max-callback", "soon", "x"], "expected a duration above 0"),
        (["--max-callback", "0", "x"], "expected a duration above 0"),
        (["--max-callback", "50", "x"], "--max-callback: 50: which unit? 50ms or 50s"),
        (["--max-delay-p99", "0.2", "x"], "--max-delay-p99: 0.2: which unit? 0.2ms or 0.2s"),
        (["--", "/bin/true"], "is a binary"),
    ],
)
def test_what_it_refuses(words, text):
    done = traceloop("check", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr and done.stderr.startswith("traceloop: ") and done.stderr.count("\n") == 1


def test_nothing_to_check(kept, tmp_path):
    done = traceloop("check", "--no-blocking", kept)
    assert done.returncode == 2 and "was not made with --find-blocking" in done.stderr
    done = traceloop("check", record(tmp_path, "print('no loop')"))
    assert done.returncode == 2
    assert "no record of a run" in done.stderr or "there is nothing to check" in done.stderr
    (tmp_path / "empty").mkdir()
    done = traceloop("check", tmp_path / "empty")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"traceloop: no record of a run in {tmp_path / 'empty'}\n"


def test_the_budgets_of_a_busy_record_are_those_of_its_report(tmp_path):
    """What another test records: all budgets at once, none fails for want of data."""
    kept = record(tmp_path, PROGRAM)
    options = ["--max-callback", "1us", "--max-delay-p99", "1us", "--no-slow", "--no-leak", "--no-findings"]
    done = traceloop("check", *options, kept)
    assert done.returncode == 1, done.stderr
    verdicts = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" ")}
    assert {verdicts[name] for name in ("max-callback", "max-delay-p99", "no-slow")} == {"FAIL"}, verdicts
    # What it computes is a finding where that is much of the run: not on a machine so busy that the rest takes long.
    assert verdicts["no-leak"] == "ok" and verdicts["no-findings"] in ("FAIL", "ok")


def test_a_record_that_could_mostly_not_be_read_is_not_passed(tmp_path):
    kept = record(tmp_path, "async def main():\n    for _ in range(50):\n        await asyncio.sleep(0)\nrun(main())\n")
    (ring,) = kept.glob(f"*/{files.loop_ring(0)}")
    data = bytearray(ring.read_bytes())
    for at in range(layout.DATA_OFFSET, len(data), 8):
        data[at] ^= 0xFF
    ring.write_bytes(data)
    out = tmp_path / "out.json"
    done = traceloop("check", "--max-callback", "60s", "--json", out, kept)
    assert done.returncode == 2 and " could not be read (overwritten, or damaged)" in done.stderr
    said = traceloop("report", kept).stdout
    assert "Most of the record could not be read" in said and "o trouble found" not in said
    document = json.loads(traceloop("report", "--json", kept).stdout)
    assert not document["verdict"]["healthy"]


def test_a_record_that_has_the_end_of_a_run_only_is_not_passed(tmp_path):
    many = "async def main():\n    for _ in range(20_000):\n        await asyncio.sleep(0)\nrun(main())\n"
    kept = record(tmp_path, many, OTEL_PYTHON_TRACELOOP_RING_SIZE="64K")
    done = traceloop("check", "--max-callback", "60s", kept)
    assert done.returncode == 2
    assert "the record has the latest " in done.stderr and "a larger `--ring-size` keeps more" in done.stderr


def test_a_record_that_has_the_end_of_a_run_only_and_is_damaged(tmp_path):
    many = "async def main():\n    for _ in range(20_000):\n        await asyncio.sleep(0)\nrun(main())\n"
    kept = record(tmp_path, many, OTEL_PYTHON_TRACELOOP_RING_SIZE="64K")
    (ring,) = kept.glob(f"*/{files.loop_ring(0)}")
    data = bytearray(ring.read_bytes())
    head = int(struct.unpack_from("d", data, layout.WORDS_OFFSET + 8 * layout.W_HEAD)[0]) % 65536
    for at in range(65536):
        if (head - at) % 65536 > 4096:  # all but the latest
            data[layout.DATA_OFFSET + at] ^= 0xFF
    ring.write_bytes(data)
    assert "Most of the record could not be read" in traceloop("report", kept).stdout
