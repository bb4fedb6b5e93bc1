"""What the finding for a slow callback says of the stack that was taken: who called, and what other threads did."""

from __future__ import annotations

import pytest

from tests.helpers.made_statistics import LOAD, Made
from traceloop.reading.stalls.parts import stalls_of

SERVER = ["/srv/venv/lib/python3.12/site-packages/server/core.py", 7, "server.core", "run_asgi"]
ENDPOINT = ["/srv/shop/app/main.py", 23, "app.main", "prices"]
LOAD_IT = ["/srv/shop/app/prices.py", 31, "app.prices", "load"]
OTHER_LINE = ["/srv/shop/app/prices.py", 29, "app.prices", "load"]
PARSE = ["/srv/shop/app/parsing.py", 3, "app.parsing", "parse"]
WORKER = ["/srv/lib/python3.12/site-packages/anyio/_backends/_asyncio.py", 98, "anyio._asyncio", "WorkerThread.run"]
QUEUE = ["/usr/lib/python3.12/queue.py", 171, "queue", "Queue.get"]
WAIT = ["/usr/lib/python3.12/threading.py", 355, "threading", "Condition.wait"]


def stalled(frames, threads=(), cpu=0.5):
    """The finding for a run whose stack was taken."""
    made = Made()
    made.slow_run(0.5, cpu, 0.0)
    ((ring, start),) = stalls_of(made.process).index.slow_runs()
    stack = {"kind": "stack", "ring": ring, "run": start, "at": start + 0.1, "ident": LOAD, "culprit": ""}
    stack |= {"callback": "app.prices.load", "frames": frames, "ready": 0, "suppressed": 0, "before": [], "samples": []}
    made.events(stack | {"threads": list(threads)})
    return made.one("cpu-on-loop" if cpu else "blocking-call")


@pytest.mark.parametrize(
    ("frames", "callers"),
    [
        ([SERVER, ENDPOINT, *[LOAD_IT] * 9], ["app/prices.py:31 in load (8 times)", "app/main.py:23 in prices"]),
        ([ENDPOINT, *[OTHER_LINE, LOAD_IT] * 9], ["app/prices.py:29 in load (17 times)", "app/main.py:23 in prices"]),
        ([ENDPOINT, PARSE, LOAD_IT], ["app/parsing.py:3 in parse", "app/main.py:23 in prices"]),
    ],
    ids=["recursion", "recursion by two lines", "none"],
)
def test_a_recursion_does_not_hide_who_began_it(frames, callers):
    assert stalled(frames).stack == ("app/prices.py:31 in load", *callers)


@pytest.mark.parametrize(
    ("above", "told"), [([QUEUE, WAIT], False), ([LOAD_IT, WAIT], True)], ids=["waits for work", "works"]
)
def test_other_threads_are_told_but_for_workers_that_wait_for_work(above, told):
    threads = [[["AnyIO worker thread"], 1, 0.2, [WORKER, *above]]]
    found = stalled([ENDPOINT, LOAD_IT], threads, cpu=0.0)
    assert any("meanwhile thread AnyIO worker thread" in line for line in found.evidence) == told
