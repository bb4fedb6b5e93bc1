"""Whose code is named for a stall, and what an ident stands for."""

from __future__ import annotations

import os
import sys
import threading

import anyio
import anyio.to_thread
import pytest

from traceloop.record.frames import (
    OUR_FOLDER,
    culprit_of,
    is_application,
    is_library,
    is_loop,
    waits_for_work,
    whereabouts,
)
from traceloop.record.layout import SITE_LIMIT
from traceloop.record.sites import Site, site_of, task_of
from traceloop.recording.watchdog.other_threads import is_idle, threads_now

STANDARD = os.__file__
APP = ("/srv/app/prices.py", 31, "app.prices", "load")
OTHER_APP = ("/srv/app/main.py", 5, "app.main", "serve")
LIBRARY = ("/usr/lib/python3/site-packages/orm/query.py", 9, "orm.query", "Query.all")
DEBIAN = ("/usr/lib/python3/dist-packages/orm/query.py", 9, "orm.query", "Query.all")
QUEUE = (os.path.join(os.path.dirname(STANDARD), "queue.py"), 171, "queue", "Queue.get")
JSON = (STANDARD, 3, "os", "walk")
OURS = (os.path.join(OUR_FOLDER, "loop", "event_loop.py"), 1, "traceloop.loop.event_loop", "EventLoop._run")
ANOTHER_OF_OURS = ("/opt/venv/lib/python3.12/site-packages/traceloop/loop/tasks.py", 1, "traceloop.loop.tasks", "f")
SCRIPT = ("<string>", 1, "__main__", "main")
GENERATED = ("<attrs generated init>", 1, "app.model", "__init__")


@pytest.mark.parametrize(
    ("frames", "awaiting", "culprit"),
    [
        ([APP], [], "app.prices.load"),
        ([OTHER_APP, APP], [], "app.prices.load"),
        ([APP, LIBRARY, JSON], [], "app.prices.load"),
        ([APP, OURS], [], "app.prices.load"),
        ([SCRIPT], [], "__main__.main"),
        ([SCRIPT, GENERATED], [], "__main__.main"),
        ([LIBRARY, JSON], [], "orm.query.Query.all"),
        ([DEBIAN], [], "orm.query.Query.all"),
        ([LIBRARY], [APP], "app.prices.load"),
        ([JSON], [LIBRARY, OTHER_APP], "app.main.serve"),
        ([JSON], [LIBRARY], ""),
        ([JSON, OURS], [], ""),
        ([("", 0, "", "... 3 frames left out ...")], [], ""),
        ([], [], ""),
        ([], [APP, OTHER_APP], "app.prices.load"),
    ],
)
def test_the_innermost_frame_of_the_application_is_named(frames, awaiting, culprit):
    assert culprit_of(frames, awaiting) == culprit


@pytest.mark.parametrize(
    ("frames", "awaiting", "expected"),
    [
        ([OTHER_APP, APP], [], f"{APP[0]}:{APP[1]}"),
        ([APP, LIBRARY, JSON], [], f"{APP[0]}:{APP[1]}, in {JSON[2]}.{JSON[3]} at {JSON[0]}:{JSON[1]}"),
        ([LIBRARY], [APP], f"{APP[0]}:{APP[1]}, in {LIBRARY[2]}.{LIBRARY[3]} at {LIBRARY[0]}:{LIBRARY[1]}"),
        ([JSON], [], f"{JSON[0]}:{JSON[1]}"),
        ([APP, OURS], [], f"{APP[0]}:{APP[1]}"),
        ([APP, LIBRARY, OURS], [], f"{APP[0]}:{APP[1]}, in {LIBRARY[2]}.{LIBRARY[3]} at {LIBRARY[0]}:{LIBRARY[1]}"),
        ([OURS], [], ""),
        ([OURS], [APP], f"{APP[0]}:{APP[1]}"),
        ([ANOTHER_OF_OURS], [], ""),
        ([], [APP], ""),
    ],
)
def test_the_line_that_is_printed_is_the_culprits_then_where_it_stands(frames, awaiting, expected):
    assert whereabouts(frames, awaiting) == expected


def test_whose_code_a_file_is():
    assert is_application(*APP[::2]) and not is_library(APP[0])
    assert is_library(LIBRARY[0]) and not is_application(LIBRARY[0], "orm")
    assert not is_application(STANDARD, "os") and not is_library(STANDARD)
    assert not is_application(OURS[0], "traceloop") and not is_library(OURS[0])
    assert is_application("<ipython-input-3>", "__main__") and not is_application("<string>", "collections")


def test_the_loops_own_frames():
    assert is_loop(os.path.join(OUR_FOLDER, "core", "recorded_iteration.py"), "iterate_recorded")
    assert is_loop(OURS[0], "_iterate_recorded")
    assert is_loop("/elsewhere/site-packages/traceloop/loop/event_loop.py", "_iterate_recorded")
    assert not is_loop(OURS[0], "run_forever") and not is_loop("/srv/app/my_loop.py", "_iterate_recorded")


@pytest.mark.parametrize(
    ("ident", "site", "task"),
    [
        (3.0, 3, 0),
        (SITE_LIMIT * 7 + 3.0, 3, 7),
        (float(SITE_LIMIT - 1), SITE_LIMIT - 1, 0),
        (1e-9, 0, 0),
        (0.0, 0, 0),
        (-5.0, 0, 0),
        (2.0**53, 0, 0),
        (float("inf"), 0, 0),
        (float("-inf"), 0, 0),
        (float("nan"), 0, 0),
    ],
)
def test_an_ident_is_a_site_and_a_task(ident, site, task):
    assert (site_of(ident), task_of(ident)) == (site, task)


def test_labels():
    assert Site("app", "load", "/srv/app.py", 3).label == "app.load"
    assert Site("", "sleep", "", 0).label == "sleep"
    assert Site("app", "load.<locals>.<lambda>", "/srv/app.py", 3).label == "app.load.<locals>.<lambda>:3"


@pytest.mark.parametrize(
    ("frames", "idle"),
    [
        ([JSON], True),
        ([LIBRARY, QUEUE], True),
        ([LIBRARY, QUEUE, JSON], True),
        ([LIBRARY, JSON], False),
        ([LIBRARY], False),
        ([LIBRARY, APP], False),
        ([APP, QUEUE], False),
        ([QUEUE, LIBRARY], False),
    ],
)
def test_a_worker_that_waits_for_work(frames, idle):
    assert waits_for_work(frames) == idle


def test_a_worker_of_anyio_waits_for_work_between_two_calls():
    """Where a real one stands: in a call of the application, and after it."""
    entered, go_on = threading.Event(), threading.Event()

    def call():
        entered.set()
        go_on.wait(120)

    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, call)
            while not entered.is_set():
                await anyio.sleep(0)
            working = idle_workers()
            go_on.set()
        while idle_workers() != [True]:
            await anyio.sleep(0)
        return working

    def idle_workers():
        standing = threads_now(sys._current_frames(), [threading.get_ident()])
        return [is_idle(each) for each in standing if each.name == "AnyIO worker thread"]

    assert anyio.run(main) == [False]
