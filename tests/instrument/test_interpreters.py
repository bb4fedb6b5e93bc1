"""Several interpreters in one process: loops in each of them, and a run that leaves them alone."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.cores import CORES
from tests.helpers.paths import ROOT

PRELUDE = """
import sys, threading
if sys.version_info >= (3, 13):
    import _interpreters as interpreters
    run = interpreters.exec
else:
    import _xxsubinterpreters as interpreters
    run = interpreters.run_string

def work(code, *args, **kwargs):
    for _ in range(2):
        interpreter = interpreters.create(*args, **kwargs)
        if failed := run(interpreter, code):
            print(failed.formatted, flush=True)
        interpreters.destroy(interpreter)
"""

LOOPS = """
shared = ((), {"isolated": False}) if sys.version_info < (3, 13) else (("legacy",), {})
code = '''
import asyncio, sys, threading, time
from traceloop.loop.event_loop import EventLoop

async def main():
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(done.set_result, 1))
    thread.start()
    await done
    thread.join()
    await loop.run_in_executor(None, time.sleep, 0)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    for _ in range(5):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await reader.read()
        writer.close()
        await writer.wait_closed()
    server.close()
    await asyncio.gather(*(asyncio.sleep(number % 3 / 1000) for number in range(300)))

with asyncio.Runner(loop_factory=EventLoop) as runner:
    runner.run(main())
sys.stdout.write("done\\\\n")
sys.stdout.flush()
'''
exec(code)
# Up to 3.11, asyncio itself takes the running loop of one interpreter's thread for another's.
threads = [threading.Thread(target=work, args=(code, *shared[0]), kwargs=shared[1]) for _ in range(3)]
for thread in threads:
    thread.start()
    if sys.version_info < (3, 12):
        thread.join()
for thread in threads:
    thread.join()
exec(code)
"""


@pytest.mark.parametrize("core", CORES)
def test_loops_in_interpreters_that_share_the_gil(core):
    environ = {**os.environ, "OTEL_PYTHON_TRACELOOP_CORE": core}
    command = [sys.executable, "-c", PRELUDE + LOOPS]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.split()) == (0, ["done"] * 8), done.stderr


ISOLATED = """
import asyncio
code = '''
import asyncio, sys
sys.stdout.write(type(asyncio.new_event_loop()).__name__ + "\\\\n")
asyncio.run(asyncio.sleep(0))
sys.stdout.flush()
'''
asyncio.run(asyncio.sleep(0))
work(code)
asyncio.run(asyncio.sleep(0))
print("end")
"""


def test_a_run_leaves_interpreters_alone_that_are_isolated(traced, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PRELUDE + ISOLATED)
    found = [
        subprocess.run([*command, str(program)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        for command in ([sys.executable], [*traced.command, "--no-metrics"])
    ]
    plain, ours = ((each.returncode, each.stdout) for each in found)
    assert ours == plain == (0, "_UnixSelectorEventLoop\n" * 2 + "end\n"), found[1].stderr


BUSY = """
import asyncio, time
code = '''
import time

def inner(count):
    return [number for number in range(count)]

until = time.monotonic() + 1
while time.monotonic() < until:
    inner(3)
'''
threads = [threading.Thread(target=work, args=(code,)) for _ in range(2)]

def blocked():
    until = time.monotonic() + 0.15
    while time.monotonic() < until:
        pass

async def main():
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        blocked()
        await asyncio.sleep(0.01)
    blocked()

asyncio.run(main())
print("end")
"""


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("options", [(), ("--profile",)], ids=["watchdog", "profile"])
def test_stacks_are_not_taken_of_interpreters_that_run_meanwhile(traced, tmp_path, core, options):
    """One with a GIL of its own frees the frames that are looked at."""
    program = tmp_path / "program.py"
    program.write_text(PRELUDE + BUSY)

    def outcome(*words):
        environ = {**os.environ, "OTEL_PYTHON_TRACELOOP_CORE": core}
        done = subprocess.run(words, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert outcome(*traced.command, "--no-metrics", "--record", "kept", *options, str(program)) == "end\n"
    (process,) = json.loads(outcome(traced.python, "-m", "traceloop", "report", "--json", "kept"))["processes"]
    stacks = ["".join(map(str, stall["stack"])) for stall in process["stalls"] if stall["stack"]]
    # The last one blocks when the other interpreters are gone.
    assert any("blocked" in stack for stack in stacks)
    if core == "c":
        assert len(stacks) > 1
