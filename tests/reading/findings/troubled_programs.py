"""Programs with a fault that a finding is about, and what makes them healthy: by the finding's kind, the text, what to
put in place of its words for the fault, and for its healthy twin.
"""

from __future__ import annotations

#: ``pow(7, power)`` holds the GIL for 60 ms, whatever the machine.
HOLDING_POWER = """
power = 100_000
while True:
    begun = time.thread_time()
    pow(7, power)
    if time.thread_time() - begun > 0.06:
        break
    power += power // 4
"""

TROUBLES = {
    "loop-saturated": (
        """
def work():
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        pass

async def worker():
    for _ in range(6):
        work()
        await asyncio.sleep(PAUSE)

async def main():
    await asyncio.gather(*(worker() for _ in range(WORKERS)))

run(main())
""",
        {"PAUSE": "0", "WORKERS": "15"},
        {"PAUSE": "0.5", "WORKERS": "1"},
    ),
    "congested": (
        """
def short():
    end = time.thread_time() + 0.002
    while time.thread_time() < end:
        pass

async def main():
    for _ in range(4):
        for _ in range(NUMBER):
            asyncio.get_running_loop().call_soon(short)
        await asyncio.sleep(0.05)

run(main())
""",
        {"NUMBER": "250"},
        {"NUMBER": "3"},
    ),
    "spin": (
        """
async def main():
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(1.5, done.set)
    WAIT

run(main())
""",
        {"WAIT": "\n    while not done.is_set():\n        await asyncio.sleep(0)"},
        {"WAIT": "await done.wait()"},
    ),
    "executor-full": (
        """
from concurrent.futures import ThreadPoolExecutor

async def main():
    pool = ThreadPoolExecutor(WORKERS)
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(pool, time.sleep, 0.2) for _ in range(10)))

run(main())
""",
        {"WORKERS": "2"},
        {"WORKERS": "10"},
    ),
    "pool-waits-for-itself": (
        """
from concurrent.futures import ThreadPoolExecutor

def row():
    return 1

async def load():
    return await asyncio.get_running_loop().run_in_executor(INNER, row)

def view(loop):
    try:
        return asyncio.run_coroutine_threadsafe(load(), loop).result(timeout=1.0)
    except TimeoutError:
        return None

async def main():
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(loop.run_in_executor(OUTER, view, loop) for _ in range(4)))

OUTER = ThreadPoolExecutor(4, "outer")
INNER = OTHER
run(main())
""",
        {"OTHER": "OUTER"},
        {"OTHER": 'ThreadPoolExecutor(4, "inner")'},
    ),
    "task-leak": (
        """
TASKS = set()

async def watch():
    await WAIT

async def main():
    for _ in range(300):
        task = asyncio.create_task(watch())
        TASKS.add(task)
        task.add_done_callback(TASKS.discard)
        await asyncio.sleep(0.013)

run(main())
""",
        {"WAIT": "asyncio.Event().wait()"},
        {"WAIT": "asyncio.sleep(0.1)"},
    ),
    "lost-tasks": (
        """
class Log:
    async def write(self):
        self.done = asyncio.get_running_loop().create_future()
        CALL
        await self.done

async def main():
    for _ in range(20):
        KEPT = asyncio.create_task(Log().write())
        await asyncio.sleep(0)
        del KEPT
        gc.collect()
    await asyncio.sleep(0.1)

run(main())
""",
        {"CALL": "pass"},
        {"CALL": "asyncio.get_running_loop().call_later(0.01, self.done.set_result, None)"},
    ),
    "gc-pauses": (
        """
async def main():
    kept = [[n] for n in range(1_200_000)]
    FREEZE
    for _ in range(6):
        gc.collect()
        await asyncio.sleep(0.01)

gc.disable()
run(main())
""",
        {"FREEZE": "pass"},
        {"FREEZE": "gc.freeze()"},
    ),
    "gil-contention": (
        HOLDING_POWER
        + """
def hog():
    while not stopped.is_set():
        START
        stopped.wait(0.05)

async def main():
    threading.Thread(target=hog).start()
    for _ in range(60):
        await asyncio.sleep(0.02)
    stopped.set()

stopped = threading.Event()
run(main())
""",
        {"START": "pow(7, power)"},
        {"START": "pass"},
    ),
    "slow-peer": (
        """
import socket

async def serve(reader, writer):
    writer.write(bytes(20_000_000))
    await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=1000)
    await asyncio.sleep(PAUSE)
    while await reader.read(1_000_000):
        pass
    writer.close()
    server.close()

run(main())
""",
        {"PAUSE": "1.5"},
        {"PAUSE": "0"},
    ),
    "connection-storm": (
        """
async def serve(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
    writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address)
    for _ in range(250):
        RECONNECT
        writer.write(b"x")
        await reader.read(1)
    writer.close()
    server.close()

run(main())
""",
        {"RECONNECT": "writer.close(); reader, writer = await asyncio.open_connection(*address)"},
        {"RECONNECT": "pass"},
    ),
    "errors-swallowed": (
        """
import gc, logging, warnings

logging.disable()
warnings.simplefilter("ignore")

async def notify(user):
    if user < 0:
        raise LookupError(user)

def fails():
    raise LookupError

async def main():
    for user in USERS:
        CALL
    await asyncio.sleep(0.1)
    gc.collect()

run(main())
""",
        {"USERS": "(1, -1, 2)", "CALL": "notify(user) if user > 0 else asyncio.create_task(notify(user))"},
        {"USERS": "(1, 2, 3)", "CALL": "await notify(user)"},
    ),
    "connections-refused": (
        """
import os, socket

async def serve(reader, writer):
    writer.close()

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = socket.socket()
    client.setblocking(False)
    kept = []
    if FULL:
        limit = max(map(int, os.listdir("/proc/self/fd"))) + 10
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        try:
            while True:
                kept.append(os.dup(0))
        except OSError:
            pass
    await loop.sock_connect(client, server.sockets[0].getsockname())
    await asyncio.sleep(0.5)
    for descriptor in kept:
        os.close(descriptor)
    client.close()
    server.close()

import resource
run(main())
""",
        {"FULL": "True"},
        {"FULL": "False"},
    ),
    "cancelled-timers": (
        """
async def main():
    loop = asyncio.get_running_loop()
    for _ in range(400):
        for _ in range(200):
            timer = SET
            timer.cancel()
        await asyncio.sleep(0)

run(main())
""",
        {"SET": "loop.call_later(60, print)"},
        {"SET": "loop.create_future()"},
    ),
    "deadlock": (
        """
async def wait_for(other):
    await asyncio.sleep(0)
    await TASKS[other]

TASKS = {}

async def main():
    TASKS["a"] = asyncio.create_task(wait_for("b"))
    TASKS["b"] = asyncio.create_task(OTHER)
    await asyncio.wait(TASKS.values(), timeout=6)
    os._exit(0)  # tasks in a circle cannot be cancelled: asyncio goes round in it for ever

import os
run(main())
""",
        {"OTHER": 'wait_for("a")'},
        {"OTHER": "asyncio.sleep(5)"},
    ),
    "debug-mode": (
        """
async def main():
    SET
    await asyncio.sleep(0.1)

run(main())
""",
        {"SET": "asyncio.get_running_loop().set_debug(True)"},
        {"SET": "pass"},
    ),
}
