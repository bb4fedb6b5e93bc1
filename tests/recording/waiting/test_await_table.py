"""What asyncio's own waits are called, and the line at which the task stands: a table of known truth."""


import pytest

from tests.helpers.cores import CORES
from tests.helpers.kept_report import report_of

# Each task stands until the watchdog has looked at all of them.
PROGRAM = """
import asyncio, concurrent.futures, functools, json, socket, sys, threading, time
import traceloop
from traceloop.record import layout
from traceloop.recording.process import current_process

over = threading.Event()
pool = concurrent.futures.ThreadPoolExecutor(8, thread_name_prefix="reports")

def load(*_): over.wait()

async def default_executor(_): await asyncio.get_running_loop().run_in_executor(None, load)
async def executor(_): await asyncio.get_running_loop().run_in_executor(pool, functools.partial(load, 1))
async def executor_timeout(_): await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(pool, load), None)
async def shielded_thread(_): await asyncio.shield(asyncio.get_running_loop().run_in_executor(pool, load))
async def application_thread(_): await asyncio.to_thread(load)
async def wrapped(_): await asyncio.wrap_future(pool.submit(load))
async def shielded_task(_): await asyncio.shield(asyncio.sleep(3600))
async def join(it): await it.join()
async def condition_for(it):
    async with it:
        await it.wait_for(lambda: False)
async def completed(it):
    for each in asyncio.as_completed([it]):
        await each
async def received(_):
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        await asyncio.get_running_loop().sock_recv(one, 1)
async def line(it): await it.readline()
async def next_number(it): await anext(numbers(it), None)

async def lock(it): await it.acquire()
async def semaphore(it): await it.acquire()
async def queue_get(it): await it.get()
async def queue_put(it): await it.put(1)
async def event(it): await it.wait()
async def barrier(it): await it.wait()
async def future(it): await it
async def wait_for(it): await asyncio.wait_for(it, None)
async def shield(it): await asyncio.shield(it)
async def gather(it): await asyncio.gather(it, asyncio.sleep(0))
async def sleep(it): await asyncio.sleep(3600)
async def thread(it): await asyncio.to_thread(over.wait)

async def condition(it):
    async with it:
        await it.wait()

async def group(it):
    async with asyncio.TaskGroup() as those:
        those.create_task(asyncio.sleep(3600))

class Custom:
    def __init__(self, future):
        self.future = future
    def __await__(self):
        return (yield from self.future)

async def custom(it): await Custom(it)

async def numbers(it):
    await it.wait()
    yield 1

async def generator(it):
    async for _ in numbers(it):
        pass

def hook(wanted, done):
    # Calls done() once a look has begun after all of wanted were met: what was met then is in the record.
    process = current_process()
    write = process.process_write
    complete_at = None
    def seen(records, text, now, *more):
        nonlocal complete_at
        write(records, text, now, *more)
        values = list(records)
        looks = [when for when, kind in zip(values[0::3], values[1::3]) if kind == layout.R_LOOK]
        if complete_at is not None and looks and looks[-1] > complete_at:
            done()
        for each in text:
            if each.startswith("[["):
                wanted.difference_update(frame[3] for frame in json.loads(each)[0])
        if not wanted and complete_at is None:
            complete_at = time.monotonic()
    process.process_write = seen

async def main():
    loop = asyncio.get_running_loop()
    looked_at = asyncio.Event()
    full, empty, event_ = asyncio.Queue(1), asyncio.Queue(1), asyncio.Event()
    full.put_nowait(0)
    taken = asyncio.Lock()
    await taken.acquire()
    those = {
        lock: taken, semaphore: asyncio.Semaphore(0), queue_get: empty, queue_put: full, event: event_,
        barrier: asyncio.Barrier(2), future: loop.create_future(), wait_for: loop.create_future(),
        shield: loop.create_future(), gather: loop.create_future(), sleep: None, thread: None,
        condition: asyncio.Condition(), group: None, custom: loop.create_future(), generator: event_,
        default_executor: None, executor: None, executor_timeout: None, shielded_thread: None, wrapped: None,
        application_thread: None, shielded_task: None, join: full, condition_for: asyncio.Condition(),
        completed: loop.create_future(), received: None, line: asyncio.StreamReader(), next_number: event_,
    }
    hook({each.__name__ for each in those}, lambda: loop.call_soon_threadsafe(looked_at.set))
    tasks = [asyncio.create_task(function(it)) for function, it in those.items()]
    while not looked_at.is_set():
        await asyncio.wait([asyncio.ensure_future(looked_at.wait())], timeout=0.2)
    over.set()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)

traceloop.install()
with traceloop.start(metrics=False, spans="off", record=sys.argv[1]):
    asyncio.run(main())
"""

# The function whose line it is, where that is not the task's own; what the line awaits.
EXPECTED = {
    "lock": ("lock", "asyncio.Lock.acquire"),
    "semaphore": ("semaphore", "asyncio.Semaphore.acquire"),
    "queue_get": ("queue_get", "asyncio.Queue.get"),
    "queue_put": ("queue_put", "asyncio.Queue.put"),
    "event": ("event", "asyncio.Event.wait"),
    "barrier": ("barrier", "asyncio.Barrier.wait"),
    "future": ("future", "a future"),
    "shield": ("shield", "asyncio.shield"),
    "gather": ("gather", "asyncio.gather"),
    "sleep": ("sleep", "asyncio.sleep"),
    "thread": ("thread", "threading.Event.wait in executor default"),
    "condition": ("condition", "asyncio.Condition.wait"),
    "group": ("group", "asyncio.TaskGroup.__aexit__"),
    "custom": ("Custom.__await__", "a future"),
    "generator": ("numbers", "asyncio.Event.wait"),
    "default_executor": ("default_executor", "__main__.load in executor default"),
    "executor": ("executor", "__main__.load in executor reports"),
    "executor_timeout": ("executor_timeout", "__main__.load in executor reports"),
    "shielded_thread": ("shielded_thread", "__main__.load in executor reports"),
    "application_thread": ("application_thread", "__main__.load in executor default"),
    "wrapped": ("wrapped", "asyncio.wrap_future"),
    "shielded_task": ("shielded_task", "asyncio.shield"),
    "join": ("join", "asyncio.Queue.join"),
    "condition_for": ("condition_for", "asyncio.Condition.wait_for"),
    "completed": ("completed", "asyncio.as_completed"),
    "received": ("received", "asyncio.loop.sock_recv"),
    "line": ("line", "asyncio.StreamReader.readline"),
    "next_number": ("numbers", "asyncio.Event.wait"),
}


@pytest.mark.timing  # the looks share the processor with the tasks
@pytest.mark.parametrize("core", CORES)
def test_every_wait_has_its_line_and_its_name(tmp_path, core):
    (process,) = report_of(tmp_path, PROGRAM, core)["processes"]
    found = {
        each["coroutine"].removeprefix("__main__."): (each["function"].removeprefix("__main__."), each["inside"])
        for each in process["waits"]
    }
    assert {name: found.get(name) for name in EXPECTED} == EXPECTED
    for each in process["waits"]:
        if each["coroutine"].removeprefix("__main__.") in EXPECTED:
            assert each["waits"] == 1 and each["file"].endswith("app.py")
