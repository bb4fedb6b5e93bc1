"""The watchdog's turns while all loops sleep, and what it sleeps on."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

import pytest

from traceloop.core.choose import load_native
from traceloop.record import layout
from traceloop.recording.watchdog.quiet_turns import Alarm
from traceloop.recording.watchdog.thread_clocks import ThreadClocks

NATIVE, _ = load_native()
ALARMS = [Alarm] if NATIVE is None else [Alarm, NATIVE.Alarm]
PERIOD = 0.002
FAR = 3600.0

in_c = pytest.mark.skipif(
    NATIVE is None or sys.platform != "linux", reason="turns follow one another in C on Linux, where it was built"
)


@pytest.mark.parametrize("kind", ALARMS)
def test_an_alarm_is_silent_until_it_is_rung_and_again_after_it_was_heard(kind: Any) -> None:
    alarm = kind()
    assert alarm.wait(0.0) is False
    alarm.ring()
    alarm.ring()  # as often as one likes
    assert alarm.wait(FAR) is True
    assert alarm.wait(0.001) is False
    alarm.ring()
    assert alarm.wait(0.0) is True


@pytest.mark.parametrize("kind", ALARMS)
def test_another_thread_ends_a_wait(kind: Any) -> None:
    alarm = kind()
    thread = threading.Thread(target=alarm.ring)
    thread.start()
    assert alarm.wait(FAR) is True
    thread.join()


def words() -> memoryview:
    return memoryview(bytearray(8 * layout.WORDS)).cast("d")


class Asleep:
    """What the watchdog's thread hands to C, with one loop: that of the calling thread."""

    def __init__(self) -> None:
        assert NATIVE is not None
        self.alarm = NATIVE.Alarm()
        self.loop_words, self.heart = words(), words()
        self.watched: dict[int, Any] = {1: None}
        self.empty: tuple[list[int], ...] = ([], [])
        self.clocks = ThreadClocks()
        self.request = b""

    def sleep(self, until: float, unmoved: float = 0.0) -> Any:
        """As the thread of the watchdog, of which this is no test: whatever wakes it, it is never late."""
        seen = [(self.loop_words, *self.clocks.known())]
        # So many switches are yet to come that none of its wakes counts as one for the GIL.
        due, never = monotonic() + PERIOD, 1 << 40
        return self.alarm.sleep_quietly(
            due, never, PERIOD, until, unmoved, 0.0, self.request, self.heart, self.watched, self.empty, seen
        )


@pytest.fixture
def asleep() -> Iterator[Asleep]:
    yield Asleep()


@in_c
def test_it_sleeps_until_it_is_rung(asleep: Asleep) -> None:
    asleep.alarm.ring()
    assert asleep.sleep(FAR + monotonic()) is None


@in_c
def test_the_time_for_a_whole_turn_comes(asleep: Asleep) -> None:
    until = 0.0
    while monotonic() < until or not until:  # the machine may be late at any turn: then Python looks why
        until = monotonic() + 10 * PERIOD
        turns, base, samples = asleep.sleep(until)
    assert len(base) == 5 and len(samples) == (1 if turns else 0)


@in_c
def test_the_time_for_a_whole_turn_does_not_matter_while_the_loops_thread_sleeps(asleep: Asleep) -> None:
    over = threading.Event()

    def sleeps() -> None:
        asleep.clocks = ThreadClocks()
        asleep.clocks.sample()
        ready.set()
        over.wait()

    ready = threading.Event()
    thread = threading.Thread(target=sleeps)
    thread.start()
    try:
        ready.wait()
        beyond = False
        while not beyond:  # the machine may be late at any turn, and pytest's own threads may do something
            asleep.clocks.sample()
            until = monotonic() + 2 * PERIOD
            _, (due, *_), _ = asleep.sleep(until, until + 20 * PERIOD)
            beyond = due - PERIOD > until
    finally:
        over.set()
        thread.join()


@in_c
def test_a_whole_turn_comes_in_time_where_the_loops_thread_computes(asleep: Asleep) -> None:
    """The calling thread is the loop's: it has computed whenever it is looked at."""
    for _ in range(20):
        until = monotonic() + 2 * PERIOD
        _, (due, *_), _ = asleep.sleep(until, FAR + until)
        assert due - PERIOD <= until


@in_c
def test_a_whole_turn_comes_in_time_where_no_clock_tells_whether_the_loops_thread_computes(asleep: Asleep) -> None:
    asleep.clocks = cast(Any, SimpleNamespace(known=lambda: (-1, threading.get_native_id(), -1.0, -1.0, -1)))
    for _ in range(20):
        until = monotonic() + 2 * PERIOD
        _, (due, *_), _ = asleep.sleep(until, until + 20 * PERIOD)
        assert due - PERIOD <= until


@in_c
def test_a_whole_turn_comes_in_time_where_a_clock_of_coarse_ticks_shows_no_run(asleep: Asleep) -> None:
    """The loop has written of its run. A clock that stands still is the one of a thread that sleeps."""
    over, ready = threading.Event(), threading.Event()

    def sleeps() -> None:
        asleep.clocks = ThreadClocks()
        ready.set()
        over.wait()

    class Writes(list[int]):
        def __len__(self) -> int:  # it is looked at in each turn
            asleep.loop_words[layout.W_RECORDS] += 1.0
            return 0

    thread = threading.Thread(target=sleeps)
    thread.start()
    try:
        ready.wait()
        asleep.empty = (Writes(),)
        for _ in range(20):
            asleep.clocks.sample()
            until = monotonic() + 2 * PERIOD
            _, (due, *_), _ = asleep.sleep(until, until + 20 * PERIOD)
            assert due - PERIOD <= until
    finally:
        over.set()
        thread.join()


def quiet_turn(asleep: Asleep) -> Any:
    """Sleeps until at least one turn was made in C, on a machine that may be late at any of them."""
    while True:
        slept = asleep.sleep(monotonic() + 50 * PERIOD)
        if slept[0]:
            return slept


@in_c
def test_its_turns_are_published_and_measured(asleep: Asleep) -> None:
    began = monotonic()
    turns, (due, process_cpu, switched, measured, late), [(at, cpu, others, _, slices)] = quiet_turn(asleep)
    assert turns >= 1
    assert asleep.heart[layout.W_HEARTBEAT] == asleep.heart[layout.W_LOOKED] == pytest.approx(due - PERIOD, abs=1e-6)
    assert asleep.heart[layout.W_DUE] == due
    assert began <= due - PERIOD <= measured <= monotonic()
    assert 0.0 <= late <= measured - began
    assert began <= at <= measured
    assert 0.0 < cpu <= time.process_time() and 0.0 < process_cpu <= time.process_time()
    assert others <= process_cpu
    assert switched >= 1
    assert slices >= -1 and (slices >= 1 or not os.path.exists("/proc/self/schedstat"))


@in_c
@pytest.mark.parametrize(
    "what", ["a loop runs", "something waits", "another loop came", "the ring is gone", "a command asks"]
)
def test_python_sees_to_what_is_not_as_it_was(asleep: Asleep, tmp_path: Path, what: str) -> None:
    if what == "a loop runs":
        asleep.loop_words[layout.W_RUNNING] = monotonic()
    elif what == "something waits":
        asleep.empty[1].append(1)
    elif what == "another loop came":
        asleep.watched[2] = None
    elif what == "a command asks":
        (tmp_path / "look").touch()
        asleep.request = os.fsencode(tmp_path / "look")
    else:
        asleep.loop_words.release()
    turns, _, samples = asleep.sleep(FAR + monotonic())
    assert turns == 0 and samples == []


@in_c
def test_a_command_that_asks_while_it_sleeps_is_noticed_though_the_folder_was_old(
    asleep: Asleep, tmp_path: Path
) -> None:
    os.utime(tmp_path, (1.0, 1.0))
    asleep.request = os.fsencode(tmp_path / "look")

    def ask() -> None:
        while not asleep.heart[layout.W_LOOKED]:  # a turn has found nothing, and remembers the folder
            time.sleep(PERIOD / 10)
        (tmp_path / "look").touch()

    thread = threading.Thread(target=ask)
    thread.start()
    while not (tmp_path / "look").exists():  # the machine may be late, or this thread's computing too much
        asleep.sleep(FAR + monotonic())
    thread.join()
    assert asleep.sleep(FAR + monotonic())[0] == 0


@in_c
def test_python_sees_to_a_process_that_computes(asleep: Asleep) -> None:
    """Whoever computes may hold the GIL: a turn in Python finds out. The clock of the process tells."""
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        asleep.sleep(FAR + monotonic())  # it would sleep for an hour
    finally:
        over.set()
        thread.join()


@in_c
def test_bad_arguments_are_errors(asleep: Asleep) -> None:
    with pytest.raises(TypeError):
        asleep.alarm.sleep_quietly(1.0)
    with pytest.raises(ValueError):
        asleep.alarm.sleep_quietly(0.0, 0, 1.0, 1.0, 0.0, 0.0, b"", None, {}, (), [()] * 17)
