"""Forks, threads and the interpreter's end: the same program in a process of its own on both loops.

Output, messages and exit status have to be the same, apart from names of files and numbers of lines.
"""

import os
import re
import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import asyncio, os, signal, socket, sys, threading, time
if sys.argv[1] == "standard":
    Loop = asyncio.SelectorEventLoop
else:
    from traceloop.loop.event_loop import EventLoop as Loop

def run(coroutine):
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(coroutine)
"""

PROGRAMS = {
    "a fork beside a running loop": """
        async def child():
            await asyncio.sleep(0.001)
            return await asyncio.to_thread(lambda: b"child")

        async def main():
            loop = asyncio.get_running_loop()
            ours, other = socket.socketpair()
            ours.setblocking(False)
            loop.call_later(0, print, "a timer of the parent's")
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    asyncio.get_running_loop()
                except RuntimeError as exc:
                    other.sendall(str(exc).encode() + b"; ")
                    other.sendall(run(child()))
                    status = 7
                finally:
                    os._exit(status)
            other.close()
            data = b""
            while part := await loop.sock_recv(ours, 100):
                data += part
            print(data, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            ours.close()
            print(await asyncio.to_thread(lambda: "the parent goes on"))

        run(main())
    """,
    "a fork while the loop has readers, a server and an executor": """
        async def main():
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            await asyncio.to_thread(int)
            for _ in range(3):
                if not (pid := os.fork()):
                    # Its loop has a selector of its own, whose descriptors are none of the parent's.
                    os._exit(run(child()))
                print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                print(await reader.read(), flush=True)
                writer.close()
                await writer.wait_closed()
            server.close()
            await server.wait_closed()

        async def serve(reader, writer):
            writer.write(b"hello")
            writer.close()

        async def child():
            one, other = socket.socketpair()
            one.setblocking(False)
            other.sendall(b"x")
            return len(await asyncio.get_running_loop().sock_recv(one, 10))

        run(main())
    """,
    "processes started by spawn": """
        import concurrent.futures, multiprocessing

        async def work(n):
            await asyncio.sleep(0)
            return n * n

        def job(n):
            return run(work(n))

        async def main():
            loop = asyncio.get_running_loop()
            with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
                print(await asyncio.gather(*(loop.run_in_executor(pool, job, n) for n in range(4))))

        if __name__ == "__main__":
            run(main())
    """,
    "a loop left open with a task that waits": """
        async def main():
            try:
                await asyncio.sleep(3600)
            finally:
                print("the task's end", flush=True)

        loop = Loop()
        task = loop.create_task(main(), name="waiting")
        loop.run_until_complete(asyncio.sleep(0))
        print("exit")
    """,
    "transports and a server left open": """
        async def main():
            global server, transport, one, other
            loop = asyncio.get_running_loop()
            server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
            one, other = socket.socketpair()
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=one)

        loop = Loop()
        loop.run_until_complete(main())
    """,
    "a loop that runs in a daemon thread at the end": """
        loop = Loop()
        started = threading.Event()
        loop.call_soon(started.set)
        threading.Thread(target=loop.run_forever, daemon=True).start()
        started.wait()
        future = asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "answer"), loop)
        print(future.result())
    """,
    "a loop used while the interpreter ends": """
        import atexit

        loop = Loop()

        class Late:
            def __del__(self):
                try:
                    loop.call_soon(print)
                except RuntimeError as exc:
                    print(exc)

        def last():
            print(loop.run_until_complete(asyncio.sleep(0, "ran at exit")))
            loop.close()

        atexit.register(last)
        late = Late()
        loop.late = late
        loop.run_until_complete(asyncio.sleep(0))
    """,
    "sys.exit in a callback": """
        async def main():
            async def generator():
                try:
                    yield
                finally:
                    print("closed", flush=True)
            agen = generator()
            await agen.__anext__()
            asyncio.get_running_loop().call_soon(sys.exit, 5)
            await asyncio.sleep(3600)

        run(main())
    """,
    "an interrupt": """
        async def main():
            try:
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                print("cancelled", flush=True)
                raise

        signal.signal(signal.SIGINT, signal.default_int_handler)
        run(main())
    """,
    "os._exit in a callback": """
        loop = Loop()
        loop.call_soon(os._exit, 9)
        loop.run_forever()
    """,
    "many loops in many threads, each with a server and a subprocess": """
        async def main(number):
            server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.read() == b""
            writer.close()
            process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", f"raise SystemExit({number})")
            server.close()
            await server.wait_closed()
            return await process.wait()

        results = [None] * 4

        def work(number):
            results[number] = run(main(number))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(results)
    """,
}


def outcome(folder, text, loop):
    path = folder / "program.py"
    path.write_text(PRELUDE + textwrap.dedent(text))
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p), PYTHONWARNINGS="default")
    done = subprocess.run(
        [sys.executable, path, loop], capture_output=True, text=True, timeout=120, env=environment, cwd=folder
    )
    return done.returncode, normal(done.stdout), normal(done.stderr)


#: What the interpreter's end finds in cycles: what of it comes first depends on when there was a collection, and a
#: transport tells less of itself after its loop.
LEFT_OPEN = {"a loop left open with a task that waits", "transports and a server left open"}


def in_any_order(found):
    status, said, errors = found
    return status, said, sorted(re.sub(r"( <_\w+Transport \.\.\.) .*>", r"\1>", line) for line in errors)


def normal(text):
    lines = []
    for line in text.splitlines():
        # Where a warning or a frame of a traceback stands; what the line there says; and what ours tells of slow runs.
        if re.match(r"traceloop: |  ", line):
            continue
        # 3.12 and 3.13: the standard loop warns a program of what it asks for itself.
        if "'get_child_watcher' is deprecated" in line:
            continue
        line = re.sub(r"^\S+:\d+: (?=\w*Warning)", "", line)
        line = re.sub(r"0x[0-9a-f]+|fd=\d+|pid=\d+|:\d+>", "...", line)
        line = re.sub(r"\('127.0.0.1', \d+\)", "(address)", line)
        lines.append(re.sub(r"\b(_UnixSelectorEventLoop|EventLoop)\b", "Loop", line))
    return lines


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_same_on_both(name, tmp_path):
    standard = outcome(tmp_path, PROGRAMS[name], "standard")
    ours = outcome(tmp_path, PROGRAMS[name], "ours")
    if name in LEFT_OPEN:
        standard, ours = map(in_any_order, (standard, ours))
    assert ours == standard
    assert any(standard), "a program that says nothing tests nothing"
