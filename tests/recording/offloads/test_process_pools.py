"""Calls of a process pool are known with their worker process, start and end, in every way of starting workers; and
what the program sees of them is what it sees without traceloop.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.traced import Traced

PROGRAM = '''
import asyncio, concurrent.futures, json, multiprocessing, os, pickle, signal, sys, time, traceback

def work(seconds):
    began = time.monotonic()
    time.sleep(seconds)
    return os.getpid(), multiprocessing.current_process().name, began, time.monotonic()

def fail(number):
    raise ValueError(number)

def unpicklable():
    return lambda: 0

def depth():
    return len(traceback.extract_stack()) > 0 and [frame.name for frame in traceback.extract_stack()][-1]

class Slow(concurrent.futures.ProcessPoolExecutor):
    """The call is over when submit returns: as where the loop's thread has to wait for a processor."""
    def submit(self, *args, **kwargs):
        future = super().submit(*args, **kwargs)
        concurrent.futures.wait([future])
        return future

def recorded(loop):
    from traceloop.reading.decoding.ring_reader import RingReader
    from traceloop.reading.decoding.stream import LoopStream
    process = loop._recorder.process
    process.outbox.drain(time.monotonic())
    threads, starts, ends = {}, {}, {}
    for decoded in LoopStream().feed(RingReader(process.process_ring.buffer).read()):
        threads.update({thread.number: [thread.thread_id, thread.name] for thread in decoded.threads})
        for step in decoded.offloads:
            if step.step == "start" and step.worker:
                starts[step.number] = [step.when, *threads[step.worker]]
            elif step.step == "finish":
                ends[step.number] = step.when
    return [[pid, name, start, ends[number]] for number, (start, pid, name) in starts.items()]

async def main():
    loop = asyncio.get_running_loop()
    out = {}
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(sys.argv[1])) as pool:
        out["ran"] = await asyncio.gather(*[loop.run_in_executor(pool, work, 0.05) for _ in range(6)])
        errors = []
        for function, *args in ((fail, 3), (unpicklable,)):
            try:
                await loop.run_in_executor(pool, function, *args)
            except Exception as error:
                errors.append([type(error).__name__, str(error), "".join(traceback.format_exception(error.__cause__))])
        out["errors"] = errors
        out["depth"] = await loop.run_in_executor(pool, depth)
    with Slow(1, mp_context=multiprocessing.get_context(sys.argv[1])) as pool:
        out["ran"].append(await loop.run_in_executor(pool, work, 0.01))
    if hasattr(loop, "_recorder"):
        out["recorded"] = recorded(loop)
    print(json.dumps(out))

if __name__ == "__main__":
    asyncio.run(main())
'''


def outcome(command: list[str]) -> Any:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    # In a traceback. A line on a stall may name our reader, which runs in the program itself.
    assert not re.search(r'File ".*traceloop/', ended.stderr), ended.stderr
    # Since 3.15 the error of what cannot be pickled shows the object with its address.
    return json.loads(re.sub(r" at 0x[0-9a-f]+", "", ended.stdout))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_worker_start_and_end_are_known(traced: Traced, tmp_path: Path, method: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    # From 3.12 on a fork beside threads, which pools have, is warned of.
    plain = outcome([traced.python, "-W", "ignore", str(program), method])
    found = outcome([*traced.command, "--no-metrics", traced.python, "-W", "ignore", str(program), method])
    assert found["errors"] == plain["errors"]
    assert found["depth"] == plain["depth"]
    recorded = {(start, end): (pid, name) for pid, name, start, end in found["recorded"]}
    assert len(recorded) == 10
    for pid, name, began, ended in found["ran"]:
        # Around the function's own look at the clock, and by the worker that says it was it.
        (key,) = [key for key, worker in recorded.items() if worker[0] == pid and key[0] <= began and ended <= key[1]]
        assert recorded[key] == (pid, name)
