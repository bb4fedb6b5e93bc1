"""More programs for test_differential.py: what a program replaces, and what it asks of things that we have replaced."""

from __future__ import annotations

from .programs import LOOP, Program, script

ODD_PROGRAMS: dict[str, Program] = {
    "mocked functions": script(
        LOOP
        + """
import os, time
from unittest import mock
opened = mock.mock_open(read_data="x")
async def read():
    await asyncio.sleep(0.05)
    with mock.patch("builtins.open", opened):
        await asyncio.sleep(0.05)
        print(open("config").read(), opened.mock_calls)
    names = "os.getpid", "os.rename", "os.unlink", "os.kill", "json.dumps", "os.path.exists", "time.sleep"
    started = [mock.patch(name, side_effect=ZeroDivisionError).start() for name in names]
    await asyncio.sleep(0.3)
    print([len(each.mock_calls) for each in started])
    mock.patch.stopall()
    with mock.patch("os.path.exists", return_value=True):
        begun = time.monotonic()
        if not os.fork():
            os._exit(0)
        print(time.monotonic() - begun < 0.5)
        os.wait()
with mock.patch("builtins.open", opened):
    asyncio.run(main())
asyncio.run(read())
with mock.patch("os.getpid", return_value=4242):
    asyncio.run(main())
"""
    ),
    "looks at os._exit": script(
        LOOP
        + """
import inspect, os, pickle
from unittest import mock
asyncio.run(main())
print(inspect.signature(os._exit), inspect.signature(os.execv), callable(os._exit.__call__), os._exit.__name__)
with mock.patch("os._exit", autospec=True) as instead:
    os._exit(3)
    instead.assert_called_once_with(3)
print(b"traceloop" in pickle.dumps(os._exit), callable(pickle.loads(pickle.dumps(os._exit))))
asyncio.run(main())
os._exit(6)
"""
    ),
    **{
        f"a handler of C code, {when}": script(
            """
import asyncio, faulthandler, os, signal, sys, time
file = open("dump", "w")
async def main():
    if sys.argv[1] == "set in the loop":
        faulthandler.register(signal.SIGTERM, file=file)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.01)
if sys.argv[1] == "set before":
    faulthandler.register(signal.SIGTERM, file=file)
asyncio.run(main())
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.01)
print("alive", os.path.getsize("dump") > 0)
""",
            when,
        )
        for when in ("set before", "set in the loop")
    },
    "a handler asks for the loop while a process starts": script(
        """
import asyncio, os, signal
async def note(): print("noted")
def handler(*_): asyncio.get_running_loop().create_task(note())
async def main():
    signal.signal(signal.SIGUSR1, handler)
    interrupt = lambda: os.kill(os.getppid(), signal.SIGUSR1)
    process = await asyncio.create_subprocess_exec("true", preexec_fn=interrupt)
    print(await process.wait())
    await asyncio.sleep(0.01)
asyncio.run(main())
"""
    ),
    "attributes of a loop's subclass": script(
        """
import asyncio
NAMES = ("timers", "io", "running", "wake", "guarded", "record", "run", "own_clock", "counters", "watchdog", "ring")
class Loop(asyncio.SelectorEventLoop):
    def __init__(self):
        super().__init__()
        for name in NAMES:
            setattr(self, "_" + name, {"own": 1})
async def main():
    loop = asyncio.get_running_loop()
    loop.call_later(5, print).cancel()
    async def answer(reader, writer):
        writer.write(b"x")
        writer.close()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    print(await reader.read(), await asyncio.to_thread(len, "abc"))
    writer.close()
    server.close()
    print(all(getattr(loop, "_" + name) == {"own": 1} for name in NAMES))
with asyncio.Runner(loop_factory=Loop) as runner:
    runner.run(main())
"""
    ),
    "a file without a position is sent": script(
        """
import asyncio, os, socket
class Pipe:
    def __init__(self):
        self.reading, writing = os.pipe()
        os.write(writing, b"hello")
        os.close(writing)
    def fileno(self): return self.reading
    def readinto(self, buffer):
        data = os.read(self.reading, len(buffer))
        buffer[: len(data)] = data
        return len(data)
async def main():
    one, other = socket.socketpair()
    one.setblocking(False)
    loop = asyncio.get_running_loop()
    print(await loop.sock_sendfile(one, Pipe(), 0, 5), other.recv(9))
    with open("app.py", "rb") as file:
        file.seek(3)
        print(await loop.sock_sendfile(one, file, 1_000_000), file.tell(), os.lseek(file.fileno(), 0, 1))
asyncio.run(main())
"""
    ),
    "odd contexts of errors": script(
        """
import asyncio
from unittest import mock
async def main():
    loop = asyncio.get_running_loop()
    seen = []
    loop.set_exception_handler(lambda _, context: seen.append(context["message"]))
    pending = mock.NonCallableMock(spec=["done", "_loop_ident"], **{"done.return_value": False})
    for number, task in enumerate((pending, "text", 5, None, object())):
        loop.call_exception_handler({"message": number, "task": task})
    print(seen)
asyncio.run(main())
"""
    ),
    "a module without a name": script(
        """
text = \"\"\"
import asyncio, os, signal, time
async def main():
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGTERM)
asyncio.run(main())
\"\"\"
exec(text, {"__name__": None})
"""
    ),
    "a loop while the interpreter goes down": script(
        """
import asyncio
class Last:
    def __del__(self, run=asyncio.run, sleep=asyncio.sleep):
        run(sleep(0))
        print("slept")
import sys
sys.last = Last()
"""
    ),
    "a thread imports modules of the program": script(
        """
import sys, threading
def load():
    for number in range(300):
        __import__(f"plugin_{number}")
thread = threading.Thread(target=load)
thread.start()
while "plugin_5" not in sys.modules: pass
import asyncio
thread.join()
print([number for number in range(300) if f"plugin_{number}" not in sys.modules])
""",
        files={f"plugin_{number}.py": "" for number in range(300)},
    ),
    "bytes and text are not compared": Program(
        ("python", "-bb", "app.py"),
        {
            "app.py": """
import asyncio
async def main():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for each in (port, str(port), str(port).encode()):
        _, writer = await asyncio.open_connection("127.0.0.1", each)
        writer.close()
    print("connected")
asyncio.run(main())
"""
        },
    ),
}
