"""What a frame of another thread holds and waits for, read from its code."""

import contextlib
import os
import subprocess
import sys
import threading

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.waiting import until
from traceloop.recording.watchdog import frame_values

outer_lock = threading.Lock()


class Slotted:
    __slots__ = ("lock",)

    def __init__(self):
        self.lock = threading.RLock()

    @property
    def computed(self):
        raise AssertionError("no code of the program is to run")


@pytest.fixture
def frames():
    """Runs functions in threads, each up to its ``stop.wait()``; yields a function that returns its frame then."""
    stop = threading.Event()
    threads = []

    def start(function, *args):
        thread = threading.Thread(target=function, args=(*args, stop))
        thread.start()
        threads.append(thread)

        def waiting():
            frame = sys._current_frames().get(thread.ident)
            names = []
            while frame is not None and frame.f_code is not function.__code__:
                names.append(frame.f_code.co_name)
                frame = frame.f_back
            return frame if frame is not None and names == ["wait", "wait"] else None

        return until(waiting)

    yield start
    stop.set()
    for thread in threads:
        thread.join()


def test_with_blocks_are_told_the_innermost_first(frames):
    owner = Slotted()

    def work(owner, stop):
        with contextlib.nullcontext(), owner.lock, outer_lock:
            for _ in range(1):
                try:
                    stop.wait()
                finally:
                    pass

    held = [each for each in frame_values.held_in(frames(work, owner)) if each is owner.lock or each is outer_lock]
    assert held == [outer_lock, owner.lock]


def test_a_closures_lock_is_found(frames):
    lock = threading.Lock()

    def work(stop):
        with lock:
            stop.wait()

    assert list(frame_values.held_in(frames(work))) == [lock]


def test_a_block_that_is_over_is_not_told(frames):
    def work(lock, stop):
        with lock:
            pass
        stop.wait()
        with lock:
            pass

    assert list(frame_values.held_in(frames(work, threading.Lock()))) == []


def test_what_a_call_returned_is_not_guessed(frames):
    def work(lock, stop):
        with contextlib.closing(lock):
            stop.wait()

    class Closed:
        def close(self):
            pass

    assert list(frame_values.held_in(frames(work, Closed()))) == []


def test_acquire_is_told_until_release(frames):
    first, second, third = threading.Lock(), threading.Lock(), threading.Lock()

    def work(first, second, stop):
        first.acquire()
        second.acquire()
        second.release()
        try:
            stop.wait()
        finally:
            first.release()

    frame = frames(work, first, second)
    assert frame_values.acquired_in(frame, first)
    assert not frame_values.acquired_in(frame, second)
    assert not frame_values.acquired_in(frame, third)


def test_the_call_under_way_leads_to_its_object(frames):
    def work(stop):
        stop.wait()

    frame = frames(work)
    assert frame_values.waited_for(frame)[0] is frame_values.local_value(frame, "stop")


def test_no_code_of_the_program_runs():
    assert frame_values.attribute_of(Slotted(), "computed") is None
    assert frame_values.attribute_of(None, "computed") is None


def test_a_look_keeps_no_object_alive(frames):
    """Up to 3.12 a frame keeps the dict of its variables that is made for such a look."""

    class Large:
        pass

    def work(lock, stop):
        large = Large()
        with lock:
            del large
            stop.wait()

    lock = threading.Lock()
    frame = frames(work, lock)
    before = sys.getrefcount(lock)
    assert list(frame_values.held_in(frame)) == [lock]
    frame_values.forget()
    assert sys.getrefcount(lock) == before


CLOSED = """
import sys
from traceloop.recording.watchdog import frame_values

def generate():
    value = [1]
    yield sys._getframe()

for _ in range(100):
    generator = generate()
    frame = next(generator)
    del generator
    frame_values.local_value(frame, "value")
    frame_values.waited_for(frame)
    list(frame_values.held_in(frame))
print("alive")
"""


def test_the_frame_of_a_generator_that_was_closed_meanwhile_ends_no_process():
    """What is freed is overwritten at once by this allocator. CPython 3.13.0 to 3.13.5 read it all the same."""
    environ = {**os.environ, "PYTHONMALLOC": "debug"}
    done = subprocess.run([sys.executable, "-c", CLOSED], env=environ, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
