"""Errors that nobody handles: counted and named, while the interpreter's own reports stay as they are."""

import json
import subprocess
import sys

import pytest

from tests.helpers.cores import CORES
from tests.helpers.paths import ROOT
from traceloop.reading.decoding.decoded import Decoded, Event
from traceloop.reading.statistics.labels import BoundedLabels
from traceloop.reading.statistics.swallowed import SwallowedErrors
from traceloop.recording import swallowed

PROGRAM = """
import asyncio, contextlib, sys

async def notify():
    pass

async def fail():
    raise ValueError("secret")

def callback():
    raise KeyError("secret")

async def call(number):
    notify()
    if number % 2:
        asyncio.create_task(fail())
    if number % 3 == 0:
        asyncio.get_running_loop().call_soon(callback)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

async def main():
    for number in range(12):
        await call(number)
    thrown_away = notify()
    del thrown_away

def traced():
    import traceloop
    traceloop.install()
    return traceloop.start(metrics=False, spans="off", record=sys.argv[1])

with traced() if len(sys.argv) > 1 else contextlib.nullcontext():
    asyncio.run(main())
"""


def _line(text):
    return PROGRAM.splitlines().index(text) + 1


@pytest.mark.parametrize("core", CORES)
def test_each_is_counted_and_the_warnings_are_pythons(tmp_path, core):
    (tmp_path / "app.py").write_text(PROGRAM)
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
        "PYTHONWARNINGS": "always",
        "OTEL_PYTHON_TRACELOOP_CORE": core,
    }
    options = {"cwd": tmp_path, "env": environment, "check": True, "timeout": 120, "capture_output": True, "text": True}
    plain = subprocess.run([sys.executable, "app.py"], **options)
    traced = subprocess.run([sys.executable, "app.py", str(tmp_path / "kept")], **options)

    def warned(done):
        return [each for each in done.stderr.splitlines() if "RuntimeWarning" in each]

    assert len([each for each in warned(plain) if "never awaited" in each]) == 13
    assert warned(traced) == warned(plain)
    (kept,) = (tmp_path / "kept").iterdir()
    done = subprocess.run([sys.executable, "-m", "traceloop", "report", "--json", str(kept)], **options)
    findings = json.loads(done.stdout)["verdict"]["findings"]
    found = {each["detail"]: each for each in findings if each["kind"] == "errors-swallowed"}
    assert {detail: each["harm"] for detail, each in found.items()} == {
        "not_awaited": "13 times",
        "not_retrieved": "6 times",
        "callback": "4 times",
    }
    calls = _line("    notify()")
    assert f"app.py:{calls} in call calls notify and never awaits it" in found["not_awaited"]["title"]
    assert found["not_awaited"]["evidence"][0].startswith("12 times called at ")
    raises = _line('    raise ValueError("secret")')
    assert found["not_retrieved"]["evidence"][0].endswith(f"app.py:{raises} in fail")
    assert "ValueError" in found["not_retrieved"]["evidence"][0]
    assert found["callback"]["who"]["line"] == _line('    raise KeyError("secret")')
    assert "secret" not in done.stdout


@pytest.mark.parametrize(
    "entries", [None, 3, [[1]], [["other", "f", "", ["", 0, "", ""], 1]], [["callback", "f", "", ["", 0, "", ""], -1]]]
)
def test_an_event_that_makes_no_sense_is_passed_over(entries):
    part = SwallowedErrors(BoundedLabels(10))
    decoded = Decoded(None)
    decoded.events.append(Event(1.0, 1, {"kind": "swallowed", "entries": entries}))
    part.feed(decoded)
    assert not part.found and not list(part.metrics())


def test_what_may_not_be_written_now_is_written_later(monkeypatch):
    """There are so many events a minute, and so many entries an event: none is lost to that."""
    monkeypatch.setattr(swallowed, "_pending", None)
    may, events = [False, True, True, True], []
    seen = swallowed.Swallowed(lambda event, now: may.pop(0) and events.append(event) is None)
    pending = swallowed._pending
    for number in range(1000):
        pending.append(("callback", f"app.f{number % 500}", "KeyError", ("/srv/app.py", number % 500, "app", "f")))
    seen.poll(10.0)
    assert events == [] and not pending
    seen.poll(11.0)
    assert [len(event["entries"]) for event in events] == [200, 200, 100]
    assert sum(entry[-1] for event in events for entry in event["entries"]) == 1000
    seen.poll(12.0)
    assert may == []
