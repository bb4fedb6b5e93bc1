"""Nothing is imported on a running loop that the program would not have imported: that blocks it for 10 ms or more."""

import ast
import subprocess

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
