"""A spawned child runs the program as ``__mp_main__``: its code has the same names as in the parent."""

import json

import pytest

from tests.helpers.cores import NATIVE
from tests.helpers.observed import observe

SPAWNED = """
import asyncio, multiprocessing, os, pathlib, sys, time
from traceloop import EventLoop

class Answer:
    def __await__(self):
        yield from asyncio.sleep(0.01).__await__()

async def waits():
    await Answer()

def holds():
    # Until the watchdog has written the stack of this function.
    until = time.monotonic() + 120
    (folder,) = pathlib.Path(os.environ["OTEL_PYTHON_TRACELOOP_RUN_DIR"]).glob(f"p-{os.getpid()}-*")
    while b"holds" not in (folder / "process.ring").read_bytes() and time.monotonic() < until:
        time.sleep(0.02)

async def main():
    task = asyncio.create_task(waits())
    await asyncio.to_thread(sum, ())
    asyncio.get_running_loop().call_soon(holds)
    await task
    await asyncio.sleep(0.1)

def child():
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(main())

if __name__ == "__main__":
    started = multiprocessing.get_context(sys.argv[1]).Process(target=child)
    started.start()
    started.join()
    sys.exit(started.exitcode)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("core", ["python", *(["c"] if NATIVE is not None else [])])
def test_the_programs_own_code_has_one_name_in_all_its_processes(tmp_path, core, method):
    path = tmp_path / "spawned.py"
    path.write_text(SPAWNED)
    observed = observe(
        tmp_path, path, method, OTEL_PYTHON_TRACELOOP_CORE=core, OTEL_PYTHON_TRACELOOP_PROFILE="100", PYTHONWARNINGS=""
    )
    (folder,) = (each for each in (tmp_path / "run").glob("p-*") if (each / "loop-0.ring").exists())
    sites = [json.loads(line) for line in (folder / "sites").read_text().splitlines()]
    named = {(module, qualname) for _, module, qualname, _, _ in sites}
    assert {("__main__", "main"), ("__main__", "waits"), ("__main__", "holds")} <= named
    # Neither the sites nor the frames of stalls, of waits or of the profile have the other name.
    for file in folder.iterdir():
        assert b"__mp_main__" not in file.read_bytes(), file.name
    culprits = {
        dict(labels).get("culprit")
        for name, labels, _ in observed.statistics.samples()
        if name == "asyncio_slow_callbacks_total"
    }
    assert "__main__.holds" in culprits
