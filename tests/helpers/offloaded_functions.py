"""Functions for workers, in a module that a process can import."""

from __future__ import annotations

import os
import threading
import time


def square(number: int) -> int:
    return number * number


def fail(number: int) -> int:
    raise ValueError(number)


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def where() -> tuple[int, str]:
    return os.getpid(), threading.current_thread().name


class Thing:
    def method(self, number: int) -> int:
        return number + 1

    def __call__(self, number: int) -> int:
        return number + 2


class Unpicklable:
    def __reduce__(self) -> object:
        raise RuntimeError("not to be pickled")


def return_unpicklable() -> object:
    return Unpicklable()
