"""Which worker process ran a call of a process pool, and when.

A process pool tells its parent of a call's end only, and not by whom. The worker knows: it takes the call from one
queue and puts the result into another. So in the worker both queues are given notes to take, and what was noted
travels as an attribute of the result item, which the parent looks at before it does what it always does.

The function that a worker runs is replaced under its own name. Pickle knows it by that name, so a worker that traceloop
is not in runs the genuine one, and its calls are known as far as the parent sees them. What is called, with what, and
how results and exceptions are pickled is untouched; no frame of ours is in a traceback.

Standard library only, and little of it: it is imported in workers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

from ...record.proc import own_pid

MODULE = "concurrent.futures.process"
_NOTE = "_traceloop"


def is_pool(kind: type) -> bool:
    """Whether executors of this class hand their calls to other processes.

    Looked for among what is imported: ``concurrent.futures`` imports multiprocessing when it is asked for the class,
    which takes 10 ms and more of a running loop.
    """
    module = sys.modules.get(MODULE)
    pool = getattr(module, "ProcessPoolExecutor", None)
    return isinstance(pool, type) and issubclass(kind, pool)


class Ran(NamedTuple):
    """One call in its worker process: pid, the process's name, start and end (monotonic s)."""

    pid: int
    name: str
    start: float
    end: float


class _Calls:
    """Stands for the queue that a worker takes calls from."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self.work_id: Any = None
        self.started = 0.0

    def get(self, *args: Any, **kwargs: Any) -> Any:
        try:
            item = self._queue.get(*args, **kwargs)
        except BaseException as error:
            _without_first_frame(error)
            raise
        self.work_id = getattr(item, "work_id", None)
        self.started = monotonic()
        return item

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)


class _Results:
    """Stands for the queue that a worker puts results into."""

    def __init__(self, queue: Any, calls: _Calls) -> None:
        self._queue = queue
        self._calls = calls

    def put(self, item: Any) -> None:
        calls = self._calls
        if calls.work_id is not None and getattr(item, "work_id", None) == calls.work_id:
            item.__dict__[_NOTE] = (own_pid(), _process_name(), calls.started, monotonic())
        try:
            self._queue.put(item)
        except BaseException as error:
            _without_first_frame(error)
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)


def _without_first_frame(error: BaseException) -> None:
    # A bare ``raise`` that follows does not add it again.
    if error.__traceback__ is not None:
        error.__traceback__ = error.__traceback__.tb_next


def _process_name() -> str:
    module = sys.modules.get("multiprocessing.process")
    return str(module.current_process().name) if module is not None else ""


def patch_worker(module: Any) -> None:
    """Lets workers that run ``module``'s code note their calls; twice is once. Never raises."""
    genuine = getattr(module, "_process_worker", None)
    if genuine is None or hasattr(genuine, _NOTE):
        return

    def _process_worker(call_queue: Any, result_queue: Any, *args: Any, **kwargs: Any) -> Any:
        calls = _Calls(call_queue)
        try:
            return genuine(calls, _Results(result_queue, calls), *args, **kwargs)
        except BaseException as error:
            _without_first_frame(error)
            raise

    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(_process_worker, name, getattr(genuine, name, None))
    setattr(_process_worker, _NOTE, True)
    module._process_worker = _process_worker


def is_worker_starting() -> bool:
    """Whether this process is a child that multiprocessing is preparing just now."""
    module = sys.modules.get("multiprocessing.process")
    return module is not None and bool(getattr(module.current_process(), "_inheriting", False))


def patch_parent(module: Any, note: Callable[[Any, Ran], None]) -> None:
    """Has ``note(future, ran)`` called for each result that a worker took notes of, before its future is done.

    In the thread that manages the pool. Twice is once. Never raises.
    """
    manager = getattr(module, "_ExecutorManagerThread", None)
    genuine = getattr(manager, "process_result_item", None)
    if genuine is None or hasattr(genuine, _NOTE):
        return

    def process_result_item(self: Any, result_item: Any) -> Any:
        try:
            noted = getattr(result_item, _NOTE, None)
            if noted is not None:
                work_item = self.pending_work_items.get(result_item.work_id)
                if work_item is not None:
                    note(work_item.future, Ran(*noted))
        except Exception:  # the record's fault, never the application's
            pass
        return genuine(self, result_item)

    setattr(process_result_item, _NOTE, True)
    manager.process_result_item = process_result_item  # type: ignore[union-attr]
