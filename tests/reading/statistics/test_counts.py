"""Counts are exact: what a program is known to have done is what the statistics say."""

from __future__ import annotations

import asyncio
import itertools
import os
import selectors
import signal
import socket
import threading
import time

import pytest

from traceloop.loop.event_loop import EventLoop
from traceloop.reading import read_loop
from traceloop.reading.new_statistics import new_statistics
from traceloop.record import layout


def run(main, *, close=True):
    """Runs ``main(loop)`` on a loop of ours; the loop, closed."""
    loop = EventLoop()
    try:
        loop.run_until_complete(main(loop))
    finally:
        if close:
            loop.close()
    return loop


def loop_of(statistics, label=None):
    loops = [each for each in statistics.loops() if label is None or each.label == label]
    assert len(loops) == 1
    return loops[0]


@pytest.fixture
def fresh_process(monkeypatch):
    """A recording of its own for the test, as if the process had just begun."""
    from traceloop.recording import process

    monkeypatch.setattr(process, "_current", None)


pytestmark = pytest.mark.usefixtures("fresh_process")


async def steps(count):
    for _ in range(count - 1):
        await asyncio.sleep(0)


def test_a_program_of_1001_steps_shows_1001():
    loop = run(lambda loop: steps(1001))
    statistics = read_loop(loop)
    callbacks = loop_of(statistics).callbacks
    assert callbacks.callbacks[f"{__name__}.steps"].runs == 1001
    assert callbacks.durations["task"].count == 1001
    assert callbacks.delays["task"].count == 1001
    assert sum(process.dropped for process in statistics.processes.values()) == 0


def test_every_kind_of_handle_is_told_apart(tmp_path):
    async def main(loop):
        first, second = __import__("socket").socketpair()
        first.setblocking(False)
        second.setblocking(False)
        read = loop.create_future()
        written = loop.create_future()
        other = loop.create_future()
        loop.add_reader(second, read.set_result, None)
        loop.add_writer(first, written.set_result, None)
        await written
        loop.remove_writer(first)
        first.send(b"x")
        await read
        loop.remove_reader(second)
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(other.set_result, None))
        thread.start()
        await other
        thread.join()
        await asyncio.sleep(0.001)
        first.close()
        second.close()

    callbacks = loop_of(read_loop(run(main))).callbacks
    counts = {kind: histogram.count for kind, histogram in callbacks.durations.items()}
    assert counts["timer"] == 1
    assert counts["threadsafe"] == 1
    assert counts["writer"] >= 1
    assert counts["reader"] >= 1  # the socket's; the self-pipe's too, where the loop polled
    assert (
        counts["task"] == callbacks.callbacks[f"{__name__}.test_every_kind_of_handle_is_told_apart.<locals>.main"].runs
    )


@pytest.mark.parametrize("kind", [selectors.DefaultSelector, selectors.PollSelector, selectors.SelectSelector])
def test_readers_and_writers_are_told_apart_with_any_selector(kind):
    async def main():
        loop = asyncio.get_running_loop()
        first, second = socket.socketpair()
        first.setblocking(False)
        second.setblocking(False)
        done = loop.create_future()

        def write():
            first.send(b"x")
            loop.remove_writer(first)

        def read():
            loop.remove_reader(second)
            done.set_result(second.recv(1))

        loop.add_writer(first, write)
        loop.add_writer(second, loop.remove_writer, second)
        loop.add_reader(second, read)
        await done
        first.close()
        second.close()

    loop = EventLoop(kind())
    loop.run_until_complete(main())
    loop.close()
    callbacks = loop_of(read_loop(loop)).callbacks
    assert callbacks.durations["writer"].count == 2
    assert callbacks.durations["reader"].count == 1


@pytest.mark.timing
def test_signals_are_a_kind_of_their_own_and_wait_from_their_arrival():
    # Two of one signal before the loop looks: the same handle stands in the queue twice.
    async def main(loop):
        seen = []
        loop.add_signal_handler(signal.SIGUSR1, seen.append, signal.SIGUSR1)
        loop.add_signal_handler(signal.SIGUSR2, seen.append, signal.SIGUSR2)
        try:
            for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
                os.kill(os.getpid(), number)
            while len(seen) < 3:
                await asyncio.sleep(0)
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)
            loop.remove_signal_handler(signal.SIGUSR2)
        assert seen == [signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1]

    callbacks = loop_of(read_loop(run(main))).callbacks
    assert callbacks.durations["signal"].count == 3
    assert callbacks.delays["signal"].count == 3
    assert callbacks.delays["signal"].maximum < 1.0
    assert callbacks.callbacks["builtins.list.append"].runs == 3


def test_a_loop_whose_beginning_was_overwritten_has_its_name_all_the_same(monkeypatch):
    monkeypatch.setenv("OTEL_PYTHON_TRACELOOP_RING_SIZE", str(layout.MIN_CAPACITY))

    def worker():
        run(lambda loop: steps(10))
        loops.append(EventLoop())
        loops[0].run_until_complete(steps(20_000))

    loops = []
    thread = threading.Thread(target=worker, name="wörker")
    thread.start()
    thread.join()
    # Not closed: as the rings of a process that was killed.
    statistics = read_loop(loops[0])
    assert sum(process.dropped for process in statistics.processes.values()) > 15_000
    loop = loop_of(statistics, "wörker")
    assert 0 < loop.callbacks.callbacks[f"{__name__}.steps"].runs < 5_000
    assert loop.tasks_created == 1
    loops[0].close()


def test_tasks_are_counted_by_how_they_ended():
    async def fails():
        raise ValueError

    async def main(loop):
        tasks = [loop.create_task(steps(3)) for _ in range(7)]
        tasks += [loop.create_task(fails()) for _ in range(5)]
        cancelled = [loop.create_task(asyncio.sleep(60)) for _ in range(3)]
        await asyncio.sleep(0)
        for task in cancelled:
            task.cancel()
        await asyncio.gather(*tasks, *cancelled, return_exceptions=True)

    loop = loop_of(read_loop(run(main)))
    assert loop.tasks_created == 1 + 7 + 5 + 3
    assert loop.tasks_finished() == {"result": 8, "exception": 5, "cancelled": 3, "abandoned": 0}


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_task_that_ends_the_loop_with_its_exception_is_counted_with_it(debug, error):
    async def ends():
        raise error

    loop = EventLoop()
    loop.set_debug(debug)
    with pytest.raises(error):
        loop.run_until_complete(ends())
    loop.close()
    found = loop_of(read_loop(loop))
    assert found.tasks_created == 1
    assert found.tasks_finished() == {"result": 0, "exception": 1, "cancelled": 0, "abandoned": 0}
    assert [totals.runs for label, totals in found.callbacks.callbacks.items() if label.endswith("ends")] == [1]


def test_tasks_are_counted_though_the_record_of_them_was_lost(monkeypatch):
    monkeypatch.setenv("OTEL_PYTHON_TRACELOOP_RING_SIZE", "65536")  # some hundred tasks

    async def fails():
        raise ValueError

    async def main(loop):
        for _ in range(3):
            loop.create_task(asyncio.sleep(60))
        cancelled = loop.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(*[steps(1) for _ in range(3000)], *[fails() for _ in range(1000)], return_exceptions=True)

    loop = run(main, close=False)
    statistics = read_loop(loop)
    found = loop_of(statistics)
    assert statistics.processes[0].dropped > 3000
    assert found.tasks_created == 1 + 4 + 4000
    assert found.tasks_finished() == {"result": 3001, "exception": 1000, "cancelled": 1, "abandoned": 0}
    assert found.tasks_alive == 3
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_short_lived_loops_between_two_looks_lose_no_count():
    for _ in range(20):
        loop = run(lambda loop: steps(5))
    statistics = read_loop(loop)
    only = loop_of(statistics)
    assert only.loops == 20
    assert only.tasks_created == 20
    assert only.tasks_finished()["result"] == 20
    assert only.callbacks.callbacks[f"{__name__}.steps"].runs == 100


def test_a_task_that_never_ran_is_created_and_abandoned():
    loop = EventLoop()
    loop.call_soon(loop.stop)
    loop.run_forever()
    task = loop.create_task(steps(1))
    loop.close()
    task._log_destroy_pending = False
    task.get_coro().close()
    found = loop_of(read_loop(loop))
    assert found.tasks_created == 1
    assert found.tasks_finished() == {"result": 0, "exception": 0, "cancelled": 0, "abandoned": 1}


@pytest.mark.timing
def test_time_adds_up_to_the_loops_life():
    async def main(loop):
        await asyncio.sleep(0.05)
        time.sleep(0.05)

    before = time.monotonic()
    loop = run(main)
    life = time.monotonic() - before
    active, idle = loop_of(read_loop(loop)).times()
    assert active >= 0.05
    assert idle >= 0.045
    assert life * 0.5 < active + idle <= life


@pytest.mark.timing
def test_what_is_in_progress_counts_up_to_now():
    seen = {}

    def look(loop, name):
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            statistics = read_loop(loop)
            if not list(statistics.loops()):
                continue
            found = loop_of(statistics)
            first = found.times()
            time.sleep(0.02)
            second = found.times()
            grown = (second[0] - first[0], second[1] - first[1])
            if grown[0 if name == "blocked" else 1] >= 0.02:
                seen[name] = (grown, found.running_seconds())
                return

    async def main(loop):
        thread = threading.Thread(target=look, args=(loop, "idle"))
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.3)
        thread = threading.Thread(target=look, args=(loop, "blocked"))
        thread.start()
        thread.join()

    run(main)
    (active, idle), running = seen["idle"]
    assert idle >= 0.02 and active == 0 and running == 0
    (active, idle), running = seen["blocked"]
    assert active >= 0.02 and idle == 0 and running > 0


def counted_times(loop):
    """Seconds active and idle as the metric has them."""
    name = "asyncio_eventloop_time_seconds_total"
    found = {sample.labels: sample.value for sample in loop.metrics() if sample.name == name}
    return found[("state", "active"),], found[("state", "idle"),]


def test_times_never_fall():
    shown = []

    async def main(loop):
        statistics = new_statistics()
        from traceloop.reading.follower import PrivateFollower

        follower = PrivateFollower(statistics, loop._recorder.process)

        def look():
            while not done:
                with statistics.lock:
                    follower.read()
                    shown.extend(counted_times(each) for each in statistics.loops())

        done = []
        thread = threading.Thread(target=look)
        thread.start()
        for pause in (0.002, 0.012, 0.03) * 5:
            await asyncio.sleep(pause)
            time.sleep(pause / 2)
        done.append(True)
        thread.join()

    run(main)
    assert len(shown) > 20
    for one, next_one in itertools.pairwise(shown):
        assert next_one[0] >= one[0] and next_one[1] >= one[1]


@pytest.mark.timing
def test_slow_runs_are_billed_for_those_who_stood_behind_them():
    def slow():
        time.sleep(0.12)

    async def main(loop):
        loop.call_soon(slow)
        for _ in range(4):
            loop.call_soon(int)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop = loop_of(read_loop(run(main)))
    assert loop.callbacks.slow_runs == 1
    (((callback, _), totals),) = loop.callbacks.slow.items()
    assert callback.endswith("slow")
    assert 0.12 <= totals.longest_s < 1
    # Four callbacks and the task's own next step waited for it, from its beginning to its end.
    assert totals.blocked_s == pytest.approx(5 * totals.seconds, rel=0.01)


def test_offloads_are_counted_and_gauges_fall_back_to_zero():
    def work():
        return 1

    async def main(loop):
        await asyncio.gather(*(loop.run_in_executor(None, work) for _ in range(50)))

    statistics = read_loop(run(main))
    executor = statistics.processes[0].executors.executors["default"]
    assert executor.queue_durations.count == executor.run_durations.count == executor.return_delays.count == 50
    assert (executor.waiting, executor.active) == (0, 0)
    (totals,) = executor.functions.values()
    assert totals.runs == 50


def test_two_loops_at_once_have_labels_of_their_own():
    both_run = threading.Barrier(2)

    def work():
        async def main(loop):
            await loop.run_in_executor(None, both_run.wait)

        run(main)

    threads = [threading.Thread(target=work, name="worker") for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statistics = read_loop(run(lambda loop: steps(1)))
    assert {loop.label for loop in statistics.loops()} == {"worker", "worker-2", "MainThread"}


def test_the_threshold_in_force_is_the_loops_own():
    async def main(loop):
        loop.slow_callback_duration = 0.01
        await asyncio.sleep(0)
        time.sleep(0.02)

    loop = loop_of(read_loop(run(main)))
    assert loop.callbacks.threshold == 0.01
    assert loop.callbacks.slow_runs >= 1  # more on a busy machine


@pytest.mark.parametrize(
    ("given", "in_force", "slow"),
    [
        (None, 0.01, 1),  # what was chosen for the run
        (0.1, 0.01, 1),
        (60.0, 60.0, 0),
        (0, 1e-6, 3),  # every run
        (float("inf"), float("inf"), 0),
        ("soon", 0.01, 1),
    ],
)
def test_the_threshold_chosen_for_the_run_holds_for_loops_that_say_nothing_else(monkeypatch, given, in_force, slow):
    monkeypatch.setenv("OTEL_PYTHON_TRACELOOP_SLOW_THRESHOLD", "app.*=7,0.01")

    async def main(loop):
        assert loop.slow_callback_duration == 0.1
        if given is not None:
            loop.slow_callback_duration = given
        await asyncio.sleep(0)
        time.sleep(0.02)

    loop = loop_of(read_loop(run(main)))
    assert loop.callbacks.threshold == in_force
    assert slow <= loop.callbacks.slow_runs <= (3 if slow else 0)  # more of the three are slow on a busy machine


def test_a_threshold_that_cannot_be_read_is_the_one_chosen_for_the_run(caplog):
    """It ended the recording of the loop, and the watchdog."""

    class Broken(EventLoop):
        broken = False

        def __getattribute__(self, name):
            if name == "slow_callback_duration" and type(self).broken:
                raise RuntimeError(name)
            return super().__getattribute__(name)

    async def main():
        Broken.broken = True
        time.sleep(0.25)  # the watchdog looks at it meanwhile
        await asyncio.sleep(0.25)  # and has quiet turns
        await asyncio.sleep(0)

    loop = Broken()
    loop.run_until_complete(main())
    loop.close()
    callbacks = loop_of(read_loop(loop)).callbacks
    assert [record.getMessage() for record in caplog.records if record.name == "traceloop"] == []
    assert callbacks.callbacks[f"{main.__module__}.{main.__qualname__}"].runs == 3
    assert callbacks.threshold == 0.1


def test_words_are_told_apart_by_their_loop():
    loop = run(lambda loop: steps(1), close=False)
    words = loop._recorder.words
    assert words[layout.W_LOOP] == loop._recorder.number
    loop.close()
    assert words[layout.W_LOOP] == 0
    assert words[layout.W_TASKS_CREATED] == 0
