"""Our imports: none on a running loop that the program would not make (10 ms or more); and what a failing one does."""

import ast
import subprocess

import pytest

PROGRAM = """
import asyncio, gc, sys

async def main():
    before = set(sys.modules)
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(int)
    await loop.run_in_executor(None, int)
    await loop.getaddrinfo("localhost", 80)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await reader.read()
    writer.close()
    server.close()
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()
    loop.call_later(0.01, int)
    asyncio.create_task(asyncio.sleep(0)).cancel()
    gc.collect()
    await asyncio.sleep(1.2)  # the samplers have had their turn
    print(sorted(set(sys.modules) - before))

asyncio.run(main())
"""


def test_nothing_is_imported_on_the_loop(traced):
    def imported(*command):
        done = subprocess.run([*command, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return set(ast.literal_eval(done.stdout))

    assert imported(*traced.command, "--no-metrics") <= imported(traced.python)


MISSING_MODULE = """
import sys
sys.modules["traceloop.{module}"] = None  # its import fails
import asyncio

async def main():
    return type(asyncio.get_running_loop()).__module__

print(asyncio.run(main()), asyncio.run(main()))
"""


@pytest.mark.parametrize("module", ["loop.event_loop", "recording.at_exit"])
def test_without_a_module_of_ours_the_program_keeps_its_standard_loop(traced, module):
    program = MISSING_MODULE.format(module=module)
    done = subprocess.run([*traced.command, "--no-metrics", "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "asyncio.unix_events asyncio.unix_events\n"), done.stderr
    assert done.stderr.count("not tracing this process") == 1
    assert "Traceback" not in done.stderr


FAILING_WATCHER = """
import asyncio
from traceloop.instrument import rebinding

rebinding.running_loop_watchers.insert(0, lambda loop: 1 / 0)
for _ in range(3):
    asyncio.run(asyncio.sleep(0))
print("ran")
"""


def test_a_failure_of_ours_where_a_loop_begins_to_run_is_one_line(traced):
    done = subprocess.run(
        [*traced.command, "--no-metrics", "-c", FAILING_WATCHER], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    assert done.stderr.count("loops are not watched any more: ZeroDivisionError") == 1
