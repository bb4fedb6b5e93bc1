"""Who has what a blocked loop waits for: from a program that waits in every way, to its report."""

import asyncio
import sys
import threading
from types import SimpleNamespace

import pytest

from tests.helpers.cores import CORES
from tests.helpers.kept_report import report_of
from tests.helpers.waiting import until
from traceloop.loop.event_loop import EventLoop
from traceloop.recording.watchdog.holders import gil_holder
from traceloop.recording.watchdog.other_threads import Standing
from traceloop.recording.watchdog.stacks import find_run
from traceloop.recording.watchdog.surroundings import _at_this_moment

# Each wait ends when the watchdog has written down who is waited for. What leads to it is over in an earlier step of
# the task: on a busy machine starting a thread blocks for longer than the threshold, and is another stall.
PROGRAM = """
import asyncio, http.client, sys, threading
from concurrent.futures import ThreadPoolExecutor
import traceloop
from traceloop.recording.process import current_process

told = threading.Event()
current = kind = "none"

def hook():
    process = current_process()
    write = process.process_write
    def seen(records, text, now, *more):
        write(records, text, now, *more)
        wanted = '"kind":"stack"', f'"holder":["{kind}"', f'"callback":"__main__.{current}"'
        if any(all(part in each for part in wanted) for each in text):
            told.set()
    process.process_write = seen

def hold(lock, ready):
    with lock:
        ready.set()
        told.wait()

def hold_explicitly(lock, ready):
    lock.acquire()
    try:
        ready.set()
        told.wait()
    finally:
        lock.release()

working = threading.Event()

def work():
    working.set()
    told.wait()

async def is_set(event):
    while not event.is_set():
        await asyncio.sleep(0.001)

async def then(action):
    def wait():
        told.wait()
        action()
    threading.Thread(target=wait).start()
    await asyncio.sleep(0)

async def held_by(function, lock):
    ready = threading.Event()
    threading.Thread(target=function, args=(lock, ready), name="the holder").start()
    await is_set(ready)

async def plain_lock():
    lock = threading.Lock()
    await held_by(hold, lock)
    with lock:
        pass

async def reentrant_lock():
    lock = threading.RLock()
    await held_by(hold, lock)
    with lock:
        pass

async def condition():
    lock = threading.Condition(threading.Lock())
    await held_by(hold, lock)
    with lock:
        pass

async def semaphore():
    lock = threading.Semaphore(1)
    await held_by(hold, lock)
    lock.acquire()

async def acquired_lock():
    lock = threading.Lock()
    await held_by(hold_explicitly, lock)
    lock.acquire()

async def join():
    thread = threading.Thread(target=work, name="the joined")
    thread.start()
    await is_set(working)
    thread.join()

async def call():
    with ThreadPoolExecutor(1, thread_name_prefix="pool") as pool:
        asked = pool.submit(work)
        await is_set(working)
        asked.result()

async def queued_call():
    with ThreadPoolExecutor(1, thread_name_prefix="pool") as pool:
        pool.submit(work)
        await is_set(working)
        pool.submit(int).result()

async def own_coroutine():
    made = []
    await then(lambda: made[0].set_result(None))
    made.append(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), asyncio.get_running_loop()))
    made[0].result()
    await asyncio.sleep(0.01)

async def own_pool():
    loop = asyncio.get_running_loop()
    made = []
    def ask():
        made.append(asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop))
        made[0].result()
    await then(lambda: made[0].set_result(None))
    with ThreadPoolExecutor(1, thread_name_prefix="pool") as pool:
        await asyncio.wrap_future(pool.submit(int))  # its thread has started
        pool.submit(ask)
        pool.submit(int).result()
    await asyncio.sleep(0.01)

async def own_lock():
    lock = threading.Lock()
    await then(lock.release)
    with lock:
        lock.acquire()

async def own_task():
    lock = threading.Lock()
    async def keeper():
        with lock:
            await asyncio.sleep(3600)
    task = asyncio.create_task(keeper(), name="the keeper")
    await asyncio.sleep(0)
    await then(lock.release)
    lock.acquire()
    task.cancel()

async def own_server():
    async def serve(reader, writer):
        pass
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = http.client.HTTPConnection("127.0.0.1", server.sockets[0].getsockname()[1])
    await then(lambda: client.sock.shutdown(2))
    client.connect()
    client.request("GET", "/")
    try:
        client.getresponse()
    except http.client.HTTPException:
        pass
    server.close()

CASES = {
    plain_lock: "lock", reentrant_lock: "lock", condition: "lock", semaphore: "lock", acquired_lock: "lock",
    join: "join", call: "call", queued_call: "queued", own_coroutine: "own_coroutine", own_pool: "own_pool",
    own_lock: "own_lock", own_task: "own_task", own_server: "own_server",
}

async def main():
    global current, kind
    hook()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # results that were set in its place
    for case, kind in CASES.items():
        working.clear()
        told.clear()
        current = case.__name__
        await asyncio.create_task(case())

traceloop.install()
with traceloop.start(metrics=False, spans="off", slow_threshold=0.05, record=sys.argv[1]):
    asyncio.run(main())
"""

# kind, name, the function in which the holder stands, whether it is a guess
EXPECTED = {
    "plain_lock": ("lock", "the holder", "hold", False),
    "reentrant_lock": ("lock", "the holder", "hold", False),
    "condition": ("lock", "the holder", "hold", False),
    "semaphore": ("lock", "the holder", "hold", False),
    "acquired_lock": ("lock", "the holder", "hold_explicitly", True),
    "join": ("join", "the joined", "work", False),
    "call": ("call", "pool_0", "work", False),
    "queued_call": ("queued", "pool", "work", False),
    "own_coroutine": ("own_coroutine", "", "", False),
    "own_pool": ("own_pool", "pool", "own_pool.<locals>.ask", False),
    "own_lock": ("own_lock", "", "own_lock", False),
    "own_task": ("own_task", "the keeper", "own_task.<locals>.keeper", False),
    "own_server": ("own_server", "", "", True),
}


@pytest.mark.timing  # the watchdog has to look while each of the thirteen waits
@pytest.mark.parametrize("core", CORES)
def test_every_holder_is_named_in_the_report(tmp_path, core):
    report = report_of(tmp_path, PROGRAM, core, timeout=300)
    (process,) = report["processes"]
    found = {}
    for stall in process["stalls"]:
        holder, name = stall["holder"], stall["callback"].removeprefix("__main__.")
        if name in EXPECTED and holder is not None:
            place = holder["place"].rpartition(" in ")[2]
            found[name] = (holder["kind"], holder["name"], place, holder["guess"])
    assert found == EXPECTED
    plain = next(each for each in process["stalls"] if each["callback"] == "__main__.plain_lock")
    assert any(each["names"] == ["the holder"] and "app.py" in "".join(each["stack"]) for each in plain["threads"])
    # The findings: who has it, and the loop that waits for itself by its own name.
    evidence = [line for each in report["verdict"]["findings"] for line in each["evidence"]]
    line = PROGRAM.splitlines().index("        told.wait()") + 1
    assert any(each.startswith("it waits for a lock that thread the holder holds, at ") for each in evidence)
    assert any(each.endswith(f"app.py:{line} in hold") for each in evidence)
    itself = [each["title"] for each in report["verdict"]["findings"] if each["title"].endswith("it waits for itself")]
    assert len(itself) == len([each for each in EXPECTED if each.startswith("own_")])


THREADS = [
    Standing(1, 11, "cruncher", [("/srv/app.py", 3, "app", "crunch")]),
    Standing(2, 12, "idle", [("/srv/app.py", 9, "app", "wait")]),
]


@pytest.mark.parametrize(
    ("last", "computed", "expected"),
    [
        # Clock, CPU time of the loop's thread, of the process, waiting for a processor, times put on one.
        ((1.0, 0.1, 1.0, 0.0, 190), {11: 0.9, 12: 0.0}, ("cruncher", False)),
        ((1.0, 0.1, 0.4, 0.0, 190), {11: 0.3, 12: 0.0}, ("cruncher", True)),  # others computed less than it waited
        ((1.0, 0.9, 1.0, 0.0, 190), {11: 0.1, 12: 0.0}, None),  # the loop itself computed
        ((1.0, 0.0, 0.9, 0.0, 3), {11: 0.9, 12: 0.0}, None),  # it slept: a wait for the GIL wakes all the time
        ((1.0, 0.0, 0.0, 0.0, 190), {11: 0.0, 12: 0.0}, None),  # nobody computed
        ((1.0, 0.0, 0.9, 0.0, 190), {11: 0.01, 12: 0.0}, None),  # what computed is none of these threads
    ],
)
def test_the_thread_that_computed_most_has_the_gil(last, computed, expected):
    found = gil_holder([(0.0, 0.0, 0.0, 0.0, 0), last], THREADS, 1.0, computed, 1.0)
    assert (found and (found.name, found.guess)) == expected


@pytest.mark.parametrize("wait", ["Condition.wait", "Thread.join", "Thread._wait_for_tstate_lock"])
def test_a_thread_that_waits_does_not_have_the_gil(wait):
    """It has computed before. An interactive shell's kernel that ended was said to hold the GIL in a join."""
    waits = Standing(1, 11, "cruncher", [("/srv/app.py", 3, "app", "stop"), ("threading.py", 9, "threading", wait)])
    samples = [(0.0, 0.0, 0.0, 0.0, 0), (1.0, 0.1, 1.0, 0.0, 190)]
    assert gil_holder(samples, [waits, THREADS[1]], 1.0, {11: 0.9, 12: 0.0}, 1.0) is None


@pytest.mark.parametrize("data", [None, 3, ["lock"], ["none such", "", ["", 0, "", ""], False]])
def test_a_holder_that_makes_no_sense_is_passed_over(data):
    from traceloop.reading.stalls.watchdog_events import _holder

    assert _holder(data) is None


@pytest.mark.parametrize("core", CORES)
def test_what_a_later_run_waits_for_is_not_said_of_an_earlier_one(core, monkeypatch):
    """On a busy machine much time passes between the look at the frames and the look for a holder."""
    monkeypatch.setenv("OTEL_PYTHON_TRACELOOP_CORE", core)
    loop = EventLoop()

    def before():
        holds.wait()

    def after():
        holds_on.wait()

    def run_in(name):
        run = find_run(sys._current_frames().get(thread.ident), loop)
        return run if run is not None and run.frames[-1][3] == "Condition.wait" and name in str(run.frames) else None

    holds, holds_on = threading.Event(), threading.Event()
    for callback in (before, after, loop.stop):
        loop.call_soon(callback)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    watched = SimpleNamespace(thread=thread.ident, loop=loop)
    try:
        earlier = until(lambda: run_in("<locals>.before"))
        assert _at_this_moment(watched, earlier.start, earlier.frames) is not None
        holds.set()
        until(lambda: run_in("<locals>.after"))
        assert _at_this_moment(watched, earlier.start, earlier.frames) is None
    finally:
        holds.set()
        holds_on.set()
        thread.join()
        loop.close()


def test_who_awaits_a_task_is_not_named_for_the_end_of_its_step():
    """On a busy machine a stack may be taken when the coroutine has returned: its step wakes up who awaits the task."""
    seen = []

    class Looking(EventLoop):
        def call_soon(self, callback, *args, context=None):
            run = find_run(sys._getframe(), self)
            task = asyncio.current_task(self)
            if run is not None and task is not None and task.get_name() == "the child":
                seen.append([name.rpartition(".")[2] for _, _, _, name in run.awaiting])
            return super().call_soon(callback, *args, context=context)

    async def child():
        asyncio.get_running_loop().call_soon(int)

    async def main():
        await asyncio.create_task(child(), name="the child")

    with asyncio.Runner(loop_factory=Looking) as runner:
        runner.run(main())
    assert seen == [["main"], []]
