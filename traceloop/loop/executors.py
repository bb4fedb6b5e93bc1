"""Blocking functions in threads and processes: ``run_in_executor`` and the default executor's life."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import warnings
from asyncio import base_events
from collections.abc import Callable
from typing import Any

from .loop_part import LoopPart

_standard: Any = base_events


class ExecutorsMixin(LoopPart):
    """``run_in_executor`` is for the loop's thread; what it submits runs wherever the executor runs it."""

    _default_executor: concurrent.futures.Executor | None
    _executor_shutdown_called: bool

    def _init_executors(self) -> None:
        self._default_executor = None
        self._executor_shutdown_called = False

    def _close_executors(self) -> None:
        """For ``close``: nothing more is taken; what runs is not waited for."""
        self._executor_shutdown_called = True
        executor = self._default_executor
        if executor is not None:
            self._default_executor = None
            executor.shutdown(wait=False)

    def run_in_executor(
        self, executor: concurrent.futures.Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Runs ``func(*args)`` in ``executor``, the loop's default one where it is None; returns a future of
        it.

        Raises RuntimeError once the loop is closed, or its default executor was shut down and is asked for.
        """
        self._check_closed()
        if self._debug:
            self._check_callback(func, "run_in_executor")
        if executor is None:
            # An executor that the caller brought is none of ours to refuse.
            self._check_default_executor()
            executor = self._default_executor
            if executor is None:
                executor = concurrent.futures.ThreadPoolExecutor(thread_name_prefix="asyncio")
                self._default_executor = executor
        recorder = self._recorder
        if recorder is not None and recorder.offloads is not None:
            # The seam: the same submit and the same future, with start, end and delivery written down.
            return recorder.offloads.submit(self, recorder, executor, func, args)  # type: ignore[no-any-return]
        future: asyncio.Future[Any] = _standard.futures.wrap_future(executor.submit(func, *args), loop=self)
        return future

    def set_default_executor(self, executor: concurrent.futures.ThreadPoolExecutor) -> None:
        """Sets what ``run_in_executor(None, ...)`` uses; TypeError for anything but a thread pool."""
        if not isinstance(executor, concurrent.futures.ThreadPoolExecutor):
            raise TypeError("executor must be ThreadPoolExecutor instance")
        self._default_executor = executor

    def _check_default_executor(self) -> None:
        if self._executor_shutdown_called:
            raise RuntimeError("Executor shutdown has been called")

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Refuses new work and waits until what the default executor has begun is done.

        ``timeout``: seconds to wait, None for ever; when it passes, a RuntimeWarning says so and the threads
        are left alone (3.12). A cancelled wait leaves them alone too, without blocking the loop (3.13).
        """
        self._executor_shutdown_called = True
        executor = self._default_executor
        if executor is None:
            return
        future = self.create_future()
        thread = threading.Thread(target=self._do_shutdown, args=(future,))
        thread.start()
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            warnings.warn(
                f"The executor did not finishing joining its threads within {timeout} seconds.",
                RuntimeWarning,
                stacklevel=2,
            )
            executor.shutdown(wait=False)
        else:
            thread.join()

    def _do_shutdown(self, future: asyncio.Future[None]) -> None:
        """In a thread of its own, because joining the workers blocks."""
        try:
            assert self._default_executor is not None
            self._default_executor.shutdown(wait=True)
            if not self.is_closed():
                self.call_soon_threadsafe(_standard.futures._set_result_unless_cancelled, future, None)
        except Exception as error:
            if not self.is_closed() and not future.cancelled():
                self.call_soon_threadsafe(future.set_exception, error)
