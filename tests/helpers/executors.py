"""Executors of a program's own."""

from __future__ import annotations

import concurrent.futures
import contextvars
import queue
import threading
from typing import Any


class ContextPool(concurrent.futures.ThreadPoolExecutor):
    """A thread pool whose ``submit`` looks at the function and adds to it, as many programs' do."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.submitted: list[Any] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.submitted.append(fn)
        return super().submit(contextvars.copy_context().run, fn, *args, **kwargs)


class OneThread:
    """Not derived from anything: it has ``submit``, and answers with concurrent futures."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="one-thread")
        self._thread.start()

    def submit(self, fn: Any, *args: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._queue.put((future, fn, args))
        return future

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            future, fn, args = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args))
                except BaseException as error:
                    future.set_exception(error)
                    del error
            del future, fn, args, item

    def shutdown(self, wait: bool = True) -> None:
        self._queue.put(None)
        self._thread.join()


class Inline:
    """Runs at once, in the thread that submits."""

    def submit(self, fn: Any, *args: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self) -> None:
        pass
