"""Programs whose tasks wait for each other, or for what others hold, and their healthy twins."""

from __future__ import annotations

import asyncio

import pytest

from tests.helpers.made_statistics import LOAD, WATCH, Made
from tests.helpers.made_troubles import TASK_AWAITED, two_that_wait
from tests.helpers.observed import observe, program
from traceloop.reading.decoding.decoded import Decoded
from traceloop.reading.findings import waiting as waiting_rules
from traceloop.reading.findings.model import CRITICAL
from traceloop.reading.findings.verdict import verdict
from traceloop.reading.statistics import task_tree
from traceloop.reading.statistics.wait_series import Waited
from traceloop.reading.statistics.waits import AwaitPlace
from traceloop.record.layout import SITE_LIMIT

POOL = """
class Pool:
    def __init__(self, size):
        self.free = asyncio.Semaphore(size)

    async def __aenter__(self):
        await self.free.acquire()

    async def __aexit__(self, *_):
        self.free.release()

async def upstream():
    await asyncio.sleep({upstream})

async def handler(pool):
    async with pool:
        await upstream()

async def main():
    pool = Pool(2)
    await asyncio.gather(*[handler(pool) for _ in range(10)])

run(main())
"""


def waiting(tmp_path, text):
    observed = observe(tmp_path, program(tmp_path, text), OTEL_PYTHON_TRACELOOP_SLOW_THRESHOLD="0.5")
    return [each for each in verdict(observed.statistics).findings if each.kind == "waiting"]


@pytest.mark.timing  # on a busy machine the twin's tasks wait for each other too
def test_a_pool_that_is_empty_is_found_and_its_twin_is_not(tmp_path):
    (found,) = waiting(tmp_path, POOL.format(upstream=1.2))
    assert found.detail == "lock"
    assert found.who is not None and found.who.function == "__main__.Pool.__aenter__"
    assert "tasks of __main__.handler" in found.evidence[0]
    assert "asyncio.sleep: perhaps while they held it" in found.evidence[1]
    assert found.severity == CRITICAL
    assert not waiting(tmp_path, POOL.format(upstream=0.001))


SERVER = """
sys.path.insert(0, {folder!r})
from server import run_asgi

async def elsewhere():
    await asyncio.sleep(3)

async def hold(lock):
    await lock.acquire()
    try:
        await asyncio.sleep(1.5)
    finally:
        lock.release()

async def hold_in_block(lock):
    async with lock:
        await asyncio.sleep(1.5)

async def wait(lock):
    async with lock:
        pass

async def main():
    lock = asyncio.Lock()
    calls = {calls}
    await asyncio.gather(*[run_asgi(elsewhere) for _ in range(6)], *[run_asgi(*call) for call in calls])

run(main())
"""


@pytest.mark.parametrize(
    ("calls", "guessed"),
    [("[(hold, lock)] + [(wait, lock)] * 5", False), ("[(hold, lock)] * 5", True)],
    ids=["another endpoint holds it", "the same endpoint holds it"],
)
def test_an_endpoint_of_a_server_that_never_has_the_lock_is_not_said_to_hold_it(tmp_path, calls, guessed):
    """All requests are tasks of one coroutine of the server's; most of them wait for something else."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "server.py").write_text("async def run_asgi(endpoint, *given):\n    await endpoint(*given)\n")
    text = SERVER.format(folder=str(folder), calls=calls)
    (found,) = waiting(tmp_path, text)
    told = [line for line in found.evidence if "perhaps while they held it" in line]
    assert "tasks of server.run_asgi" in found.evidence[0]
    if not guessed:
        assert not told
    else:
        lines = (tmp_path / "program.py").read_text().splitlines()
        assert f":{lines.index('        await asyncio.sleep(1.5)') + 1}, " in told[0]


def test_an_endpoint_of_a_server_that_has_the_lock_in_a_block_is_said_to_hold_it(tmp_path):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "server.py").write_text("async def run_asgi(endpoint, *given):\n    await endpoint(*given)\n")
    calls = "[(hold_in_block, lock)] + [(wait, lock)] * 5"
    (found,) = waiting(tmp_path, SERVER.format(folder=str(folder), calls=calls))
    (told,) = [line for line in found.evidence if "held" in line]
    line = (tmp_path / "program.py").read_text().split("async with lock:")[0].count("\n") + 2
    assert told.startswith("the lock was held by server.run_asgi at ")
    assert told.endswith(f"program.py:{line}, in asyncio.sleep")


BRIEF = """
async def handler(lock):
    async with lock:
        await asyncio.sleep({held})

async def main():
    started = time.monotonic()
    while True:
        lock = asyncio.Lock()
        await asyncio.gather(*[handler(lock) for _ in range(6)])
        if time.monotonic() - started >= {seconds}:
            break

run(main())
"""


@pytest.mark.timing  # on a busy machine the waiting is the machine's doing
def test_many_short_waits_that_one_look_saw_are_no_finding_and_those_that_many_looks_saw_are(tmp_path):
    assert not waiting(tmp_path, BRIEF.format(held=0.05, seconds=0))
    (found,) = waiting(tmp_path, BRIEF.format(held=0.05, seconds=6))
    assert "seen, some" in found.harm and "in all by estimate" in found.harm


def test_what_is_an_estimate_is_called_one():
    place = AwaitPlace("__main__.handler", "/app.py", 7, "asyncio.Lock.acquire", "lock")
    told = waiting_rules._waits(Waited("__main__.handler", place, 3.0, 3.0, 0.6, 3, 0, 3))
    assert told == "3 waits seen, some 3.00 s in all by estimate"
    told = waiting_rules._waits(Waited("__main__.handler", place, 3.0, 0.0, 1.2, 3, 0, 0))
    assert told == "3 waits, 3.00 s in all"


SHARED = """
class Shared:
    def __init__(self):
        self.lock = asyncio.Lock()

    async def use(self):
        async with self.lock:
            await asyncio.sleep(0.6)

async def first(shared):
    await shared.use()

async def second(shared):
    await shared.use()

async def main():
    shared = Shared()
    await asyncio.gather(*[each(shared) for _ in range(3) for each in (first, second)])

run(main())
"""


def test_tasks_of_several_coroutines_that_wait_at_one_line_are_one_finding(tmp_path):
    (found,) = waiting(tmp_path, SHARED)
    assert found.who is not None and found.who.function == "__main__.Shared.use"
    assert "__main__.first" in found.evidence[0] and "__main__.second" in found.evidence[0]


def made(awaited, ran_since=False, ended_at=None, kind="deadlock", chain=TASK_AWAITED):
    """Two tasks that stand at a line each since second 1, and whom they wait for."""
    case = Made(active=1.0, idle=9.0)
    one = two_that_wait(case, awaited, chain)
    if ran_since:
        ran = Decoded(None)
        ran.runs.append((3, 2.5, 2.6, one, "task", 0.0, 0, 0, 1, 0))
        case.process.feed(ran, case.loop)
    if ended_at:
        case.statistics.detach(case.process, at=ended_at)
    return [each for each in verdict(case.statistics, 10.0).findings if each.kind == kind]


@pytest.mark.parametrize(("function", "found"), [("Lock.acquire", 1), ("Semaphore.acquire", 0)])
def test_one_long_wait_for_a_lock_is_found_and_one_for_a_semaphore_may_be_a_signal(function, found):
    inside = [asyncio.locks.__file__, 9, "asyncio.locks", function]
    chain = [[*TASK_AWAITED[0], inside], "_asyncio.Future"]
    assert len(made(awaited=False, kind="waiting", chain=chain)) == found


def test_tasks_in_a_circle_are_a_deadlock_and_those_in_a_row_are_not():
    (found,) = made(awaited=True)
    assert found.severity == CRITICAL
    assert "app/prices.py:31 in load" in found.title
    assert found.harm == "2 tasks, for 9.00 s"
    assert found.evidence[0].startswith("one at app/prices.py:31 waits for two")
    assert not made(awaited=False)


def test_tasks_that_waited_for_each_other_when_their_process_ended_are_a_deadlock_of_the_run():
    """The report of a service that hung and was killed is read afterwards."""
    (found,) = made(awaited=True, ended_at=7.0)
    assert found.harm == "2 tasks, for 6.00 s"
    assert not made(awaited=True, ran_since=True, ended_at=7.0)
    assert not made(awaited=False, ended_at=7.0)


BROKEN = """
async def wait_for(other):
    await asyncio.sleep(0.1)
    await asyncio.wait([TASKS[other]])

TASKS = {}

async def main():
    TASKS["a"] = asyncio.create_task(wait_for("b"), name="first")
    TASKS["b"] = asyncio.create_task(wait_for("a"), name="second")
    await asyncio.sleep(4)
    END
    await asyncio.sleep(1)

import gc
run(main())
"""
CANCELLED = "[each.cancel() for each in TASKS.values()]"
DESTROYED = "TASKS.clear(); gc.collect()"


@pytest.mark.parametrize("end", [CANCELLED, DESTROYED])
def test_tasks_that_waited_for_each_other_until_something_ended_it_were_a_deadlock(tmp_path, end):
    observed = observe(tmp_path, program(tmp_path, BROKEN.replace("END", end)))
    found = {each.kind: each for each in verdict(observed.statistics).findings}
    assert "lost-tasks" not in found
    deadlock = found["deadlock"]
    assert "none went on until they were cancelled or destroyed: " in deadlock.title
    assert deadlock.title.endswith("program.py:12 in wait_for")
    assert deadlock.harm.startswith("2 tasks, for ") and deadlock.cost_s >= 2 * 3.5  # they waited for 3.9 s at least
    assert sorted(each.split()[0] for each in deadlock.evidence) == ["first", "second"]


CROSSWISE = """
async def transfer(source, target):
    async with source:
        await asyncio.sleep(0.1)
        async with target:
            pass

async def main():
    a, b = asyncio.Lock(), asyncio.Lock()
    tasks = [asyncio.create_task(transfer(a, b), name="there"), asyncio.create_task(transfer(b, a), name="back")]
    tasks += [asyncio.create_task(transfer(a, b)) for _ in range(3)]
    await asyncio.sleep(4)
    for each in tasks:
        each.cancel()
    await asyncio.sleep(0)

run(main())
"""


def test_two_that_took_two_locks_crosswise_were_a_deadlock_and_who_waits_behind_them_is_told_who_holds(tmp_path):
    observed = observe(tmp_path, program(tmp_path, CROSSWISE))
    lines = (tmp_path / "program.py").read_text().splitlines()
    outer, inner = (lines.index(line) + 1 for line in ("    async with source:", "        async with target:"))
    deadlock, behind = verdict(observed.statistics).findings[:2]
    assert deadlock.kind == "deadlock" and deadlock.title.endswith(f"program.py:{inner} in transfer")
    assert sorted(deadlock.evidence) == [
        f"{one} at {deadlock.who.place.partition(' in ')[0]} waits for a lock that {other} holds"
        for one, other in (("back", "there"), ("there", "back"))
    ]
    assert "same order" in deadlock.remedy
    assert behind.kind == "waiting" and behind.title.endswith(f"program.py:{outer} in transfer")
    held = [line for line in behind.evidence if line.startswith("the lock was held by ")]
    # An early look may have found the holder before it wanted the other lock.
    assert any(".transfer at " in line and line.endswith(f":{inner}, in asyncio.Lock.acquire") for line in held)
    assert not any("perhaps" in line for line in behind.evidence)


def test_a_task_that_took_its_own_lock_twice_is_said_to_wait_for_itself(tmp_path):
    text = CROSSWISE.replace("a, b = asyncio.Lock(), asyncio.Lock()", "a = b = asyncio.Lock()")
    observed = observe(tmp_path, program(tmp_path, text))
    deadlock = next(each for each in verdict(observed.statistics).findings if each.kind == "deadlock")
    assert deadlock.title.startswith("A task waited for a lock that it held itself, until ")
    assert deadlock.harm.startswith("1 task, for ")
    assert deadlock.evidence[0].startswith("there at ")
    assert deadlock.evidence[0].endswith(" waits for a lock that it holds itself")


def test_a_circle_out_of_date_is_none():
    """A task has run since the look that found whom it waits for."""
    (found,) = made(awaited=True)
    assert found
    assert not made(awaited=True, ran_since=True)


def test_a_verdict_makes_nothing_of_the_tasks_that_wait_for_nobody(monkeypatch):
    """The live page asks for one each second, of processes that have a hundred thousand."""
    asked = []
    monkeypatch.setattr(task_tree, "tasks_now", lambda *args: asked.append(args) or [])
    made(awaited=False)
    assert not asked
    made(awaited=True)
    assert [sorted(only) for _, _, only in asked] == [[SITE_LIMIT + LOAD, 2 * SITE_LIMIT + WATCH]]


@pytest.mark.parametrize(
    ("function", "line", "kind"),
    [
        ("app.pools.Pool.acquire", "return await self.free.get()", "pool"),
        ("app.pools.ConnectionPool.get", "return await self.free.get()", "pool"),
        ("app.db.get_connection", "return await idle.get()", "pool"),
        ("app.views.show", "connection = await POOL.get()", "pool"),
        ("app.views.show", "connection = await asyncio.wait_for(self.connections.get(), 3)", "pool"),
        ("app.pool.worker", "job = await self.jobs.get()", "queue"),
        ("app.jobs.WorkerPool.run", "job = await self.queue.get()", "queue"),
        ("app.jobs.acquired", "job = await queue.get()", "queue"),
    ],
)
def test_a_queue_that_keeps_connections_is_a_pool(tmp_path, function, line, kind):
    source = tmp_path / "app.py"
    source.write_text(f"async def f():\n    {line}\n")
    place = AwaitPlace(function, 2, function, "asyncio.Queue.get", "queue")._replace(file=str(source))
    assert waiting_rules._kind_of(place) == kind
    assert waiting_rules._kind_of(place._replace(inside="asyncio.Queue.put")) == "queue"


@pytest.mark.parametrize(
    ("function", "kind"), [("app.pools.Pool.acquire", "pool"), ("app.jobs.Jobs.next", "other")]
)
@pytest.mark.parametrize("inside", ["Condition.wait", "Condition.wait_for"])
def test_a_pool_may_wait_for_a_condition(function, inside, kind):
    place = AwaitPlace("/srv/app/x.py", 2, function, f"asyncio.{inside}", "other")
    assert waiting_rules._kind_of(place) == kind


LIMIT = """
async def call(limit):
    async with limit:
        await asyncio.sleep(0.2)

async def main():
    limit = asyncio.{made}
    await asyncio.gather(*(call(limit) for _ in range({calls})))

run(main())
"""


@pytest.mark.parametrize(
    ("made", "calls", "title"),
    [("Semaphore(2)", 40, "a semaphore that others hold"), ("Lock()", 20, "a lock that others hold")],
)
def test_a_semaphore_is_no_lock(tmp_path, made, calls, title):
    (found,) = waiting(tmp_path, LIMIT.format(made=made, calls=calls))
    assert found.title.startswith(f"Tasks wait for {title} at ")
    assert ("asyncio.Semaphore(n)" in found.remedy) == (made == "Lock()")
