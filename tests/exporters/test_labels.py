"""Every label of the catalogue is bounded in number and in length and is valid text, whatever the program is called."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from traceloop.exporters.catalogue import BY_NAME, CATALOGUE
from traceloop.exporters.prometheus.server import serve
from traceloop.loop.event_loop import EventLoop
from traceloop.reading import read_loop
from traceloop.reading.requests.stretches import PARTS
from traceloop.reading.statistics.labels import OTHER, BoundedLabels, FoldedLabels
from traceloop.record.text import MAX_NAME
from traceloop.recording import process

#: Label: its possible values, or how many there may be at most in one process.
BOUNDS = {
    "process": 1,
    "loop": 64,
    "state": {"active", "idle", "live", "cancelled"},
    "kind": {"task", "soon", "timer", "reader", "writer", "signal", "threadsafe"},
    "callback": 201,
    "culprit": 201,
    "location": 500,
    "site": 500,
    "request": 101,
    "part": {*PARTS},
    "outcome": {"result", "exception", "cancelled", "abandoned"},
    "heap": {"timer", "memory"},
    "generation": {"0", "1", "2"},
    "executor": 65,
    "transport": {"stream", "tls", "datagram", "pipe"},
    "direction": {"in", "out"},
    "result": {"accepted", "refused"},
    "error": {"not_awaited", "not_retrieved", "callback"},
    "reason": {"queue_full", "rejected", "unavailable", "shutdown", "damaged"},
    "pid": 1,
    "python": 1,
    "version": 1,
    "command": 1,
    "core": {"", "python", "c"},
    "reader": {"python", "c"},
}
HOSTILE = 'x\n\udcff\x1b[2J\u202e"\\' + "y" * 5000


@pytest.fixture(scope="module")
def statistics():
    """Of a program with more callbacks, pools and functions than there are labels, all named to do harm."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(process, "_current", None)
        monkeypatch.setattr(sys, "orig_argv", ["python", "caf\udce9.py", HOSTILE])
        return hostile_program()


def hostile_program():

    def named(number):
        def function():
            pass

        function.__qualname__ = f"f{number}{HOSTILE}"
        # Each needs a code object of its own: callbacks are known by it.
        function.__code__ = function.__code__.replace(co_firstlineno=number + 1, co_qualname=function.__qualname__)
        return function

    functions = [named(number) for number in range(400)]
    pools = [ThreadPoolExecutor(1, thread_name_prefix=prefix) for prefix in
             [f"request-{number}" for number in range(30)] + [f"{chr(97 + number % 26)}{'z' * (number // 26)}{HOSTILE}"
                                                              for number in range(80)]]  # fmt: skip

    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 1e-9
        for function in functions:
            loop.call_soon(function)
        for number, pool in enumerate(pools):
            await asyncio.gather(*(loop.run_in_executor(pool, functions[(number * 7 + k) % 400]) for k in range(8)))

    found = []

    def work():
        loop = EventLoop()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()
        found.append(read_loop(loop))

    thread = threading.Thread(target=work, name="T" + HOSTILE)
    thread.start()
    thread.join(120)
    for pool in pools:
        pool.shutdown()
    return found[0]


def test_every_label_of_the_catalogue_has_a_bound_here():
    assert {label for metric in CATALOGUE for label in metric.labels} == set(BOUNDS)


def test_labels_are_bounded_in_number_and_length_and_valid(statistics):
    values = {}
    with statistics.lock:
        samples = list(statistics.samples())
    for sample in samples:
        assert tuple(label for label, _ in sample.labels) == BY_NAME[sample.name].labels
        for label, value in sample.labels:
            assert isinstance(value, str) and value.isprintable() and 0 < len(value) <= MAX_NAME, (label, value)
            values.setdefault(label, set()).add(value)
    for label, found in values.items():
        bound = BOUNDS[label]
        if isinstance(bound, int):
            assert len(found) <= bound, label
        else:
            assert found <= bound, label
    # They were reached.
    assert OTHER in values["callback"] and OTHER in values["executor"] and "request" in values["executor"]
    assert len(samples) < 5000


def test_they_are_served(statistics):
    server = serve(statistics, socket.create_server(("127.0.0.1", 0)))
    try:
        for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
            request = urllib.request.Request(server.url, headers={"Accept": accept})
            with urllib.request.urlopen(request, timeout=120) as answer:
                text = answer.read().decode()
        assert sum(1 for family in parse_openmetrics(text) for _ in family.samples) > 1000
    finally:
        server.close()


def test_pools_made_for_each_request_fold_into_one_label():
    labels = FoldedLabels()
    first = [labels.take("thumb" if number == 0 else f"thumb-{number + 1}") for number in range(8)]
    assert first == ["thumb", *(f"thumb-{number}" for number in range(2, 9))]
    assert {labels.take(f"thumb-{number}") for number in range(9, 3000)} == {"thumb"}
    assert labels.take("db") == "db"
    # A worker process in the place of another: its first ones are told apart as well.
    labels.forget()
    assert labels.take("thumb-2") == "thumb-2"


def test_names_that_nothing_binds_together_end_in_other():
    labels = FoldedLabels()
    found = {labels.take("".join(chr(97 + int(digit)) for digit in str(number))) for number in range(5000)}
    assert len(found) == 65 and OTHER in found


def test_long_names_that_are_cut_to_the_same_share_a_label():
    labels = BoundedLabels()
    assert labels.admit("z" * 1000) == labels.admit("z" * 2000)
    assert len(labels) == 1
