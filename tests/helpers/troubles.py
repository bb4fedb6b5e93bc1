"""Programs that block their loop in a known way: `python troubles.py NAME` prints what is true of it as JSON lines.

Each trouble is a function whose guilty line ends in the comment `# guilty`. Around it, `main` puts victims on the loop
whose waits are known: callbacks that stand ready, a timer that falls due in it, one that another thread puts in, and
those that the trouble itself puts in.
"""

import asyncio
import gc
import json
import os
import re
import socket
import sys
import threading
import time

from traceloop import EventLoop

SECONDS = 0.4


def tell(**truth):
    # In one write: other threads tell too.
    os.write(1, (json.dumps(truth) + "\n").encode())


def sleep():
    time.sleep(SECONDS)  # guilty


def blocking_socket():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        threading.Timer(SECONDS, theirs.send, (b"x",)).start()
        ours.recv(1)  # guilty


def regex():
    re.match(r"(a+)+$", PATIENT)  # guilty


def big_json():
    json.loads(DOCUMENT)  # guilty


def busy():
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:  # guilty
        sum(range(100))  # guilty


def collection():
    gc.collect()  # guilty


def lock():
    held = threading.Lock()
    held.acquire()
    threading.Timer(SECONDS, held.release).start()
    held.acquire()  # guilty


def busy_lock():
    """A lock whose holder computes: the time is spent on the lock, not on the GIL."""
    held = threading.Lock()
    held.acquire()

    def compute():
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            sum(range(100))
        held.release()

    threading.Thread(target=compute).start()
    held.acquire()  # guilty


HOGS = threading.Event()


def hog():
    while HOGS.wait():
        while HOGS.is_set():
            sum(range(100))


def gil():
    """Little to compute, but four threads that compute without end."""
    HOGS.set()  # guilty
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:  # guilty
        sum(range(100))  # guilty
    HOGS.clear()  # guilty


def dns():
    try:
        socket.getaddrinfo("host.example", 80)  # guilty
    except OSError:
        pass


def never():
    threading.Event().wait()  # guilty


def never_python():
    while True:  # guilty
        pass  # guilty


def never_regex():
    re.match(r"(a+)+$", "a" * 60 + "b")  # guilty


def prepare(name):
    global PATIENT, DOCUMENT
    if name == "regex":
        length = 18
        while True:
            PATIENT = "a" * length + "b"
            start = time.thread_time()  # whatever else wants the processor
            re.match(r"(a+)+$", PATIENT)
            if time.thread_time() - start > SECONDS / 3:
                PATIENT = "a" * (length + 2) + "b"
                break
            length += 1
    elif name == "big_json":
        DOCUMENT = "[" + ",".join('{"a": [1.5, "b", null]}' for _ in range(50_000_000 // 24)) + "]"
        gc.disable()  # else collections can take most of the time
    elif name == "collection":
        gc.disable()
        make_garbage(200_000)
        start = time.thread_time()
        gc.collect()
        # Enough for the whole time on a fast machine, too.
        make_garbage(max(1_000_000, int(200_000 * SECONDS / (time.thread_time() - start))))
    elif name == "dns":
        answer_late()
    elif name == "gil":
        for _ in range(4):
            threading.Thread(target=hog, daemon=True).start()


def make_garbage(number):
    garbage = [[] for _ in range(number)]
    for item in garbage:
        item.append(item)


def answer_late():
    """The resolver of the C library asks a server of ours, which answers after a while."""
    import ctypes

    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    port = server.getsockname()[1]

    def serve():
        while True:
            question, client = server.recvfrom(512)
            time.sleep(SECONDS)
            server.sendto(question[:2] + b"\x81\x83" + question[4:6] + bytes(6) + question[12:], client)

    threading.Thread(target=serve, daemon=True).start()
    libc = ctypes.CDLL(None)
    libc.__res_init()
    libc.__res_state.restype = ctypes.c_void_p
    state = libc.__res_state()
    # struct __res_state: retrans, retry (int), options (long), nscount (int), then the addresses of the servers.
    ctypes.c_int.from_address(state + 16).value = 1
    address = port.to_bytes(2, "big") + socket.inet_aton("127.0.0.1")
    ctypes.memmove(state + 20, socket.AF_INET.to_bytes(2, sys.byteorder) + address + bytes(8), 16)


def stood_ready():
    pass


def fell_due():
    tell(ran="fell_due", at=time.monotonic())


def from_thread():
    pass


def put_in():
    pass


async def handler(name):
    loop = asyncio.get_running_loop()
    tell(trouble=name, start=time.monotonic())
    for _ in range(3):
        loop.call_soon(put_in)
    globals()[name]()
    tell(trouble=name, end=time.monotonic())


async def main(name):
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.2)
    task = loop.create_task(handler(name))
    for _ in range(5):
        loop.call_soon(stood_ready)
    when = time.monotonic() + SECONDS / 2
    loop.call_at(when, fell_due)
    tell(due=when)

    def other():
        time.sleep(SECONDS / 2)
        tell(thread=time.monotonic())
        loop.call_soon_threadsafe(from_thread)
        tell(put=time.monotonic())

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    await task
    thread.join()
    await asyncio.sleep(0.3)


if __name__ == "__main__":
    NAME = sys.argv[1]
    prepare(NAME)
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(main(NAME))
