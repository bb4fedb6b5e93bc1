"""What the record says of offloads: names, workers, labels, delays, DNS, anyio; the loop asleep, and blocked."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest

from tests.helpers import offloaded_functions as functions
from tests.helpers.cores import CORES
from tests.helpers.offloads import decode, offloads, recorded_loop, run
from tests.helpers.waiting import PATIENCE, until
from traceloop.reading.site_names import SiteNames
from traceloop.reading.statistics.executors import ExecutorStatistics
from traceloop.reading.statistics.labels import BoundedLabels
from traceloop.record.layout import OUTCOME_EXCEPTION, OUTCOME_RESULT
from traceloop.recording import failures
from traceloop.recording import process as recording
from traceloop.recording.offloads import offload

MODULE = functions.__name__


def test_names_are_those_of_the_function_that_runs() -> None:
    thing = functions.Thing()

    async def main(loop: Any) -> None:
        await loop.run_in_executor(None, functions.square, 1)
        await loop.run_in_executor(None, functools.partial(functions.square, 1))
        await loop.run_in_executor(None, functools.partial(functools.partial(functions.square), 1))
        await asyncio.to_thread(functions.square, 1)
        await asyncio.to_thread(functools.partial(functions.square, 1))
        await loop.run_in_executor(None, contextvars.copy_context().run, functions.square, 1)
        await loop.run_in_executor(None, thing.method, 1)
        await loop.run_in_executor(None, thing, 1)
        await loop.run_in_executor(None, time.sleep, 0)
        await loop.run_in_executor(None, lambda: None)
        await loop.getaddrinfo("localhost", 80)
        await loop.getnameinfo(("127.0.0.1", 80))

    with recorded_loop() as (loop, process):
        loop.set_debug(False)  # there asyncio calls ``getaddrinfo`` within a function of its own
        run(loop, main(loop))
    names = [each.name for _, each in sorted(offloads(process).items())]
    assert names[:6] == [f"{MODULE}.square"] * 6
    assert names[6:9] == [f"{MODULE}.Thing.method", f"{MODULE}.Thing.__call__", "time.sleep"]
    assert names[9].startswith(f"{__name__}.test_names_are") and ".<lambda>:" in names[9]
    assert names[10:] == ["socket.getaddrinfo", "_socket.getnameinfo"]


def test_executors_are_labelled_and_workers_named() -> None:
    async def main(loop: Any) -> None:
        await loop.run_in_executor(None, functions.where)
        with concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="images") as images:
            await loop.run_in_executor(images, functions.where)
            with concurrent.futures.ThreadPoolExecutor(3, thread_name_prefix="images") as more:
                await loop.run_in_executor(more, functions.where)
        with concurrent.futures.ThreadPoolExecutor(1) as nameless:
            _, thread = await loop.run_in_executor(nameless, functions.where)
            assert thread.startswith("ThreadPoolExecutor-")

    with recorded_loop() as (loop, process):
        run(loop, main(loop))
    found = [each for _, each in sorted(offloads(process).items())]
    assert [each.label for each in found] == ["default", "images", "images-2", "ThreadPoolExecutor"]
    assert found[0].thread == "asyncio_0" and found[1].thread == "images_0"
    limits = {executor.label: executor.max_workers for each in decode(process) for executor in each.executors}
    assert limits["images"] == 2 and limits["images-2"] == 3 and limits["default"] > 0


def test_active_is_what_has_started_and_the_rest_waits() -> None:
    async def main(loop: Any, process: Any) -> None:
        go = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="full") as pool:
            futures = [loop.run_in_executor(pool, go.wait, PATIENCE) for _ in range(5)]
            begun, full = time.monotonic(), None
            while full is None or (full.active < 2 and time.monotonic() - begun < PATIENCE):
                # The loop sleeps in its poll meanwhile, and flushes nothing.
                await asyncio.sleep(0.2)
                statistics = _statistics(process)
                full = statistics.executors["full"]
            assert (full.active, full.waiting, full.workers, full.max_workers) == (2, 3, 2, 2)
            assert [name for _, name, _ in statistics.running(time.monotonic())] == ["threading.Event.wait"] * 2
            go.set()
            await asyncio.gather(*futures)

    with recorded_loop() as (loop, process):
        run(loop, main(loop, process))
    full = _statistics(process).executors["full"]
    assert (full.active, full.waiting) == (0, 0)
    # On a busy machine the first two wait longer for their threads' start than is no sign of a full executor.
    assert full.saturation.seconds > 0.15 and 3 <= full.saturation.waits <= 5
    (filler,) = full.saturation.fillers.values()
    assert filler.seconds == pytest.approx(sum(filler.waiters.values())) and filler.seconds > 3 * 0.15
    waits = full.functions["threading.Event.wait"]
    assert waits.runs == 5 and waits.longest_wait > 0.15


def test_starts_and_ends_are_told_while_the_loop_is_blocked() -> None:
    async def main(loop: Any, process: Any) -> None:
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="blocked") as pool:
            ends = [threading.Event(), threading.Event()]
            futures = [loop.run_in_executor(pool, each.wait, PATIENCE) for each in ends]
            await asyncio.sleep(0.05)

            def told(runs: int) -> bool:
                blocked = _statistics(process).executors["blocked"]
                return blocked.active == 1 and blocked.functions["threading.Event.wait"].runs == runs

            until(lambda: told(0), "word of the first call's start")
            ends[0].set()
            until(lambda: told(1), "word of the first call's end and the second one's start")
            assert not futures[0].done()  # the loop has not run since
            ends[1].set()
            await asyncio.gather(*futures)

    with recorded_loop() as (loop, process):
        run(loop, main(loop, process))


def test_a_process_pool_has_no_more_active_than_processes() -> None:
    async def main(loop: Any) -> None:
        with concurrent.futures.ProcessPoolExecutor(2) as pool:
            await asyncio.gather(*[loop.run_in_executor(pool, functions.nap, 0.05) for _ in range(8)])

    with recorded_loop() as (loop, process):
        run(loop, main(loop))
    found = sorted(offloads(process).values(), key=lambda each: each.start)
    moments = sorted([(each.start, 1) for each in found] + [(each.finish, -1) for each in found])
    active = most = 0
    for _, change in moments:
        active += change
        most = max(most, active)
    # On a busy machine the second process may start when the first has done all.
    assert 1 <= most <= 2
    assert all(each.outcome == OUTCOME_RESULT and each.label == "ProcessPoolExecutor" for each in found)
    # The last ones waited for two others each.
    assert found[-1].start - found[-1].submit > 0.1


def test_submitted_from_another_thread() -> None:
    with recorded_loop() as (loop, process):

        async def main() -> None:
            futures: list[Any] = []
            thread = threading.Thread(target=lambda: futures.append(loop.run_in_executor(None, functions.square, 3)))
            thread.start()
            await asyncio.to_thread(thread.join)
            assert await futures[0] == 9

        run(loop, main())
    names = [each.name for each in offloads(process).values() if each.deliver is not None]
    assert f"{MODULE}.square" in names


def test_two_loops_share_a_pool() -> None:
    from traceloop.loop.event_loop import EventLoop
    from traceloop.recording.recorder import Recorder

    with (
        concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="shared") as pool,
        recorded_loop() as (loop, process),
    ):

        def other() -> None:
            second = EventLoop(recorder=Recorder(process))
            for number in range(50):
                assert second.run_until_complete(_one(second, pool, number)) == number * number
            second.close()

        thread = threading.Thread(target=other)
        thread.start()
        for number in range(50):
            assert run(loop, _one(loop, pool, number)) == number * number
        thread.join()
    found = offloads(process)
    assert len(found) == 100 and {each.label for each in found.values()} == {"shared"}


async def _one(loop: Any, pool: Any, number: int) -> Any:
    return await loop.run_in_executor(pool, functions.square, number)


def test_a_fork_inside_a_worker_writes_nothing_into_the_parents_rings() -> None:
    program = """
        import asyncio, os, sys
        from traceloop.loop.event_loop import EventLoop
        from traceloop.reading.decoding.ring_reader import RingReader
        from traceloop.reading.decoding.stream import LoopStream
        from traceloop.recording.process import Process
        from traceloop.recording.recorder import Recorder

        from traceloop.settings import Settings
        process = Process(Settings(ring_size=1 << 20))
        def work():
            pid = os.fork()
            if pid == 0:
                return "child"
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        def in_child(value):
            os._exit(7 if value == "child" else 0)
        async def main(loop):
            def run():
                value = work()
                if value == "child":
                    os._exit(7)
                return value
            print(await loop.run_in_executor(None, run))
        loop = EventLoop(recorder=Recorder(process))
        loop.run_until_complete(main(loop))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        steps = [
            step.step
            for decoded in LoopStream().feed(RingReader(process.process_ring.buffer).read())
            for step in decoded.offloads
        ]
        print(*steps)
    """
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert out.stdout.split() == ["7", "start", "finish"], out.stderr


def test_anyio_threads_are_seen_with_their_wait_for_a_token() -> None:
    anyio = pytest.importorskip("anyio")

    async def main() -> None:
        limiter = anyio.CapacityLimiter(2)
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(_in_thread, limiter)
        with pytest.raises(ValueError) as caught:
            await anyio.to_thread.run_sync(functions.fail, 1)
        trace = caught.value.__traceback__
        while trace is not None:
            assert "traceloop/recording" not in trace.tb_frame.f_code.co_filename
            trace = trace.tb_next

    async def _in_thread(limiter: Any) -> None:
        assert await anyio.to_thread.run_sync(functools.partial(functions.nap, 0.1), limiter=limiter) == 0.1

    with recorded_loop() as (loop, process):
        run(loop, main())
    found = [each for _, each in sorted(offloads(process).items())]
    assert [each.name for each in found] == [f"{MODULE}.nap"] * 4 + [f"{MODULE}.fail"]
    assert found[0].label == "anyio-limiter" and found[4].label == "anyio"
    assert found[4].outcome == OUTCOME_EXCEPTION
    assert all(each.thread.startswith("AnyIO") for each in found)
    # Two tokens: the third call begins when the first of those before it is over, and was submitted long before.
    third = sorted(found[:4], key=lambda each: each.start)[2]
    over = min(each.finish for each in found[:4])
    assert third.submit < over <= third.start
    assert over - min(each.start for each in found[:4]) >= 0.099


def test_anyio_is_found_whenever_it_is_imported() -> None:
    pytest.importorskip("anyio")
    program = """
        import asyncio, sys
        from traceloop.loop.event_loop import EventLoop
        from traceloop.recording.process import Process
        from traceloop.recording.recorder import Recorder

        from traceloop.settings import Settings
        process = Process(Settings(ring_size=1 << 20, requests=False))
        finders = len(sys.meta_path)
        loop = EventLoop(recorder=Recorder(process))
        assert "anyio" not in sys.modules
        async def main():
            import anyio.to_thread
            await anyio.to_thread.run_sync(len, "four")
        loop.run_until_complete(main())
        loop.close()
        assert len(sys.meta_path) == finders
        spec = sys.modules["anyio._backends._asyncio"].__spec__
        assert type(spec.loader).__name__ == "SourceFileLoader" and "exec_module" not in vars(spec.loader)
        from traceloop.reading.decoding.ring_reader import RingReader
        from traceloop.reading.decoding.stream import LoopStream
        found = LoopStream().feed(RingReader(process.rings[0].buffer).read())
        print([process.site_log.sites[int(step.ident)].label for each in found for step in each.offloads
               if step.step == "submit"])
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120, check=False
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "['builtins.len']"


def test_anyio_is_found_again_where_a_program_imports_it_anew() -> None:
    pytest.importorskip("anyio")
    program = """
        import importlib, sys
        import anyio._backends._asyncio as backend
        import traceloop
        traceloop.new_event_loop().close()
        anew = sys.modules.pop(backend.__name__)
        number = len(sys.modules)
        anew = importlib.import_module(backend.__name__)
        assert anew is not backend and len(sys.modules) == number + 1
        traceloop.new_event_loop().close()
        print([hasattr(each.AsyncIOBackend.run_sync_in_worker_thread, "_traceloop") for each in (backend, anew)])
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)
    assert out.stdout.strip() == "[True, True]", out.stderr


def _statistics(process: Any) -> ExecutorStatistics:
    statistics = ExecutorStatistics(SiteNames(process.site_log.sites), BoundedLabels())
    for chunk in decode(process):
        statistics.feed(chunk)
    return statistics


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_synchronous_endpoints_and_dependencies_have_their_own_names() -> None:
    fastapi = pytest.importorskip("fastapi")
    httpx = pytest.importorskip("httpx")
    app = fastapi.FastAPI()

    def session() -> int:
        return 3

    def endpoint(number: int = fastapi.Depends(session)) -> Any:
        return fastapi.Response(str(number), media_type="application/json")

    app.get("/")(endpoint)

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            assert (await client.get("/")).json() == 3

    with recorded_loop() as (loop, process):
        run(loop, main())
    names = [each.name.rpartition(".")[2] for each in offloads(process).values()]
    assert names == ["session", "endpoint"]


class LaterExecutor(concurrent.futures.Executor):
    """Runs a call when it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[concurrent.futures.Future[Any], Any]] = []

    def submit(self, function: Any, /, *args: Any, **options: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.calls.append((future, functools.partial(function, *args, **options)))
        return future

    def run_all(self) -> None:
        for future, call in self.calls:
            if future.set_running_or_notify_cancel():
                future.set_result(call())


@pytest.mark.parametrize("core", CORES)
def test_starts_that_cannot_be_noted_are_reported_once_and_the_calls_go_ahead(
    core: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    executor = LaterExecutor()

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, functions.square, number) for number in range(3)]
        monkeypatch.setattr(offload.Offload, "note_running", None)
        executor.run_all()
        return await asyncio.gather(*calls)

    monkeypatch.setattr(failures, "_reported", set())
    monkeypatch.setattr(recording, "_current", None)
    with asyncio.Runner(loop_factory=CORES[core]) as runner:
        assert runner.run(main()) == [0, 1, 4]
    (record,) = caplog.records
    assert record.getMessage().startswith("traceloop: the start of a call in an executor could not be noted; ")
