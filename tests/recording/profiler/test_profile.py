"""`--profile`: the line that took the loop's time is named, whatever kept the sampler from looking meanwhile."""

import concurrent.futures
import threading
import time

import pytest

from tests.helpers.cores import CORES
from tests.helpers.observed import HEAD, observe
from tests.helpers.offloads import recorded_loop
from traceloop.reading.statistics.profile import WORKERS
from traceloop.record.layout import R_SAMPLE
from traceloop.recording.outbox import Outbox
from traceloop.recording.profiler.sampling_profiler import SamplingProfiler

VARIABLE = "OTEL_PYTHON_TRACELOOP_PROFILE"


def run(tmp_path, text, **more):
    program = tmp_path / "program.py"
    program.write_text(HEAD + text)
    observed = observe(tmp_path, program, **{VARIABLE: "200", **more})
    return observed.process.profile, program.read_text().splitlines()


def guilty(line, lines):
    return lines[line.line - 1].endswith("# guilty")


def names(profile, node):
    return [profile.frames[each].site.qualname for each in profile.stack_of(node)]


def test_a_loop_that_is_busy_in_short_runs(tmp_path):
    profile, lines = run(
        tmp_path,
        """
def thumbnail(until):
    while time.perf_counter() < until: pass  # guilty
async def picture(): thumbnail(time.perf_counter() + 0.03)
async def ping(): return 1
async def serve(handler): return await handler()
async def main():
    for _ in range(30):
        for handler in (picture, ping):
            await asyncio.create_task(serve(handler))
run(main())
""",
    )
    (most,) = profile.lines(1)
    assert (most.function, most.callback) == ("__main__.thumbnail", "__main__.serve")
    assert guilty(most, lines)
    assert profile.rate == 200
    node = max(range(len(profile.samples)), key=lambda each: profile.samples[each])
    assert names(profile, node) == ["__main__.serve", "main", "serve", "picture", "thumbnail"]
    assert [profile.frames[each].awaits for each in profile.stack_of(node)] == [False, True, False, False, False]


@pytest.mark.timing  # the watchdog has to begin before the GIL is held: each of its first steps waits 5 ms for it
def test_a_call_that_holds_the_gil_gets_its_due(tmp_path):
    profile, lines = run(
        tmp_path,
        """
import ctypes
keep = ctypes.PyDLL(None).usleep
def spin(until):
    while time.perf_counter() < until: pass
async def main():
    spin(time.perf_counter() + 0.5)
    for _ in range(5):
        keep(300_000)  # guilty
    await asyncio.sleep(0)
run(main())
""",
    )
    (most,) = profile.lines(1)
    assert guilty(most, lines)
    assert most.seconds > 0.7  # it slept for twice as long: a sample may be missed while the watchdog does other work


@pytest.mark.skipif("c" not in CORES, reason="the Python core gives the GIL away in each poll")
def test_a_loop_that_yields_over_and_over(tmp_path):
    """Each poll woke the sampler, which came too late, or met the loop in the poll: of 3 s it saw 0.4 s to 1.3 s."""
    profile, _ = run(
        tmp_path,
        """
async def spin(until):
    while time.monotonic() < until: await asyncio.sleep(0)
async def main():
    await asyncio.gather(*[spin(time.monotonic() + 3.0) for _ in range(10)])
run(main())
""",
    )
    assert sum(profile.seconds) > 1.5


def test_workers_on_request(tmp_path):
    text = """
def work():
    until = time.thread_time() + 0.5
    while time.thread_time() < until: pass  # guilty
async def main():
    await asyncio.to_thread(work)
run(main())
"""
    profile, lines = run(tmp_path, text, OTEL_PYTHON_TRACELOOP_PROFILE_WORKERS="true")
    found = [node for node in range(1, len(profile.samples)) if names(profile, node)[:1] == [WORKERS]]
    most = max(found, key=lambda each: profile.seconds[each])
    assert guilty(profile.frames[most].site, lines)
    assert "work" in names(profile, most)
    assert WORKERS not in [line.callback for line in profile.lines(20)]


def test_the_first_sample_of_a_worker_counts_no_time_before_the_profile_began():
    begun, done = threading.Event(), threading.Event()

    def work():
        begun.set()
        done.wait()

    with recorded_loop() as (_, process), concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(work)
        begun.wait()
        outbox = Outbox(process)
        start = time.monotonic()
        profiler = SamplingProfiler(process, outbox, 200.0, workers=True)
        profiler.sample([])
        longest = time.monotonic() - start
        done.set()
    records = outbox.pending if type(outbox.pending) is list else outbox.pending.take()[0]
    (weight,) = [records[at + 2] for at in range(0, len(records), 3) if records[at + 1] == R_SAMPLE]
    assert 0.0 <= weight <= longest


@pytest.mark.parametrize("text", ["0", "off"])
def test_none_where_none_was_asked_for(tmp_path, text):
    profile, _ = run(tmp_path, "async def main(): time.sleep(0.1)\nrun(main())\n", **{VARIABLE: text})
    assert (profile.total_samples, profile.rate) == (0, 0)
