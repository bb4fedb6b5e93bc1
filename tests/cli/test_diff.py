"""`traceloop diff` on two records of one program, of which the second does more in one coroutine."""

from __future__ import annotations

import json

import pytest

from tests.helpers.exported import record, traceloop

TEXT = """
def spin(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
async def same():
    spin(0.0002)
    await asyncio.sleep(0)
async def changed():
    spin(0.0002 * FACTOR)
    await asyncio.sleep(0)
async def main():
    for _ in range(40):
        await asyncio.gather(same(), changed())
run(main())
"""


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diff")
    return record(folder / "a", TEXT.replace("FACTOR", "1")), record(folder / "b", TEXT.replace("FACTOR", "30"))


def test_it_names_what_became_slower(records):
    done = traceloop("diff", *records, "--width", "120")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("__main__.changed takes ") and "99% interval" in lines[0]
    rows = [line.split() for line in lines if line.startswith("    __main__.changed")]
    assert rows and rows[0][1:3] == ["80", "80"] and rows[0][-1] == "slower"
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


def test_what_it_refuses(records, tmp_path):
    done = traceloop("diff", records[0], tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"traceloop: no record of a run in {tmp_path}\n"
    done = traceloop("diff", records[0])
    assert done.returncode == 2 and done.stderr.startswith("traceloop: B is missing")
