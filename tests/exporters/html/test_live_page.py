"""The page of a program that runs: it is served beside the metrics, updates itself, and outlives the program."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request

import pytest

from tests.exporters.html.test_page import data_in
from tests.helpers.browser import browser
from tests.helpers.firefox import firefox
from tests.helpers.observed import wait_for

PROGRAM = """
import asyncio, sys, time

def block():
    time.sleep(0.4)

async def main():
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    reading = loop.run_in_executor(None, sys.stdin.readline)
    while not reading.done():
        block()
        await asyncio.sleep(0.05)

asyncio.run(main())
"""


class Program:
    """A program under `traceloop run` that blocks its loop until `end`."""

    def __init__(self, traced, folder, *options: str) -> None:
        (folder / "app.py").write_text(PROGRAM)
        self.process = subprocess.Popen(
            [*traced.command, "--metrics-port", "0", *options, "app.py"],
            cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.errors = self.process.stderr.readline()
        assert self.process.stdout.readline() == "ready\n", self.errors
        found = re.search(r"metrics at (http://\S+)/metrics", self.errors)
        assert found is not None, self.errors
        self.url = found[1]

    def get(self, path: str):
        return urllib.request.urlopen(self.url + path, timeout=120)

    def end(self) -> str:
        """Ends it and returns what it said."""
        _, errors = self.process.communicate("\n", timeout=120)
        return self.errors + errors


@pytest.fixture
def program(traced, tmp_path):
    made = []

    def make(*options: str) -> Program:
        made.append(Program(traced, tmp_path, *options))
        return made[-1]

    yield make
    for each in made:
        if each.process.poll() is None:
            each.end()


def test_it_shows_the_program_while_its_loop_is_blocked_and_stays_when_it_has_ended(program, tmp_path):
    running = program()
    with browser() as opened:
        opened.get(running.url + "/")
        tile = "return document.querySelector('#overview dd[data-name=\"slow callbacks\"]')?.dataset.value"
        first = float(wait_for(lambda: opened.execute_script(tile), "a first answer"))
        wait_for(lambda: float(opened.execute_script(tile)) > first, "another answer")
        title = wait_for(
            lambda: opened.execute_script("return document.querySelector('#findings h3')?.textContent"), "a finding"
        )
        assert re.fullmatch(r".*/app\.py:5 in block blocks the loop: it sleeps", title)
        # Who goes by keyboard keeps the place when what has the focus is drawn anew.
        opened.execute_script("(window.had = document.querySelector(\"#nav a[href='#callbacks']\")).focus()")
        wait_for(lambda: opened.execute_script("return !window.had.isConnected"), "another drawing")
        assert opened.execute_script("return document.activeElement.textContent") == "Callbacks by time"
        opened.find_element("id", "pause").click()
        paused = opened.execute_script(tile)
        opened.execute_async_script("setTimeout(arguments[0], 1500)")
        assert opened.execute_script(tile) == paused
        opened.find_element("id", "pause").click()
        running.end()
        status = "return document.getElementById('status').textContent"
        wait_for(lambda: opened.execute_script(status).startswith("No answer: the program has ended"), "the end")
        assert opened.execute_script(tile) is not None
        violations = [entry["message"] for entry in opened.get_log("browser") if "Content Security" in entry["message"]]
        assert violations == []


@pytest.mark.slow
def test_firefox_follows_a_program_whose_loop_is_blocked(program, tmp_path):
    running = program()
    with firefox(tmp_path) as opened:
        opened.get(running.url + "/")
        tile = "document.querySelector('#overview dd[data-name=\"slow callbacks\"]')?.dataset.value ?? null"
        first = float(wait_for(lambda: opened.evaluate(tile), "a first answer"))
        wait_for(lambda: float(opened.evaluate(tile)) > first, "another answer")
        title = "document.querySelector('#findings h3')?.textContent ?? ''"
        assert wait_for(lambda: opened.evaluate(title), "a finding").endswith("block blocks the loop: it sleeps")
        assert opened.complaints == []
        assert {url.rpartition("/")[0] for url in opened.requested if not url.startswith("data:")} == {running.url}
        running.end()
        status = "document.getElementById('status').textContent"
        wait_for(lambda: opened.evaluate(status).startswith("No answer: the program has ended"), "the end")


def test_what_is_served_where(program, tmp_path):
    running = program("--html", "end.html")
    assert running.errors.startswith(f"traceloop: page at {running.url}/, metrics at {running.url}/metrics")
    with running.get("/") as answer:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert b"innerHTML" not in answer.read()
    with running.get("/data.json") as answer:
        data = json.load(answer)
        assert data["live"] is True and data["processes"][0]["pid"] and answer.headers["Cache-Control"] == "no-store"
    with running.get("/metrics") as answer:
        assert b"asyncio_eventloop_time_seconds_total" in answer.read()
    request = urllib.request.Request(running.url + "/data.json", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(request, timeout=120)
    refused.value.close()
    said = running.end()
    assert f"traceloop: wrote {tmp_path / 'end.html'}" in said.splitlines()
    written = data_in((tmp_path / "end.html").read_text())
    assert written["live"] is False
    # The last line names the same finding as the page.
    assert written["verdict"]["findings"][0]["title"] in said.splitlines()[-1]


def test_it_can_be_left_out(program):
    running = program("--no-page")
    assert "page at" not in running.errors
    with running.get("/") as answer:
        assert b"<html" not in answer.read()
