"""anyio's worker threads, in which FastAPI and Starlette run synchronous endpoints: they go round ``run_in_executor``.

All of anyio's offloads to threads pass one coroutine function of its asyncio backend. It is replaced by one that hands
anyio a function which notes start and end and calls the caller's; everything else (limiter, threads, contexts,
cancellation) remains anyio's. What is waited for there is a token of the limiter, so its tokens are the workers.

anyio is never imported from here (import_hooks.py). An anyio that looks different from what is known is left alone: its
offloads are not seen.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import sys
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

from ...record import layout
from ..import_hooks import when_imported
from .entry import ExecutorEntry
from .executors import Offloads
from .offload import Offload

_logger = logging.getLogger("traceloop")

#: Labels of a loop's default limiter and of those that the program makes. Many of these share one (docs/telemetry.md):
#: it must not be the default's.
DEFAULT_LABEL = "anyio"
LIMITER_LABEL = "anyio-limiter"
BACKEND = "anyio._backends._asyncio"
_KNOWN_PARAMETERS = ["func", "args", "abandon_on_cancel", "limiter"]
_OUTCOME_CANCELLED = layout.OUTCOME * layout.OUTCOME_CANCELLED


class _Pools:
    """One entry for each limiter of a process's loops: what stands for an executor here."""

    def __init__(self) -> None:
        self._entries: weakref.WeakKeyDictionary[Any, tuple[Offloads, ExecutorEntry]] = weakref.WeakKeyDictionary()

    def entry(self, offloads: Offloads, limiter: Any, label: str) -> ExecutorEntry:
        """The entry of ``limiter``; a new one gets ``label``, made unique among those that are there."""
        known = self._entries.get(limiter)
        tokens = limiter.total_tokens
        limit = int(tokens) if tokens != float("inf") else 0
        if known is not None and known[0] is offloads:
            entry = known[1]
            if limit != entry.limit:  # programs set the default limiter's tokens when they start
                entry.limit = limit
                entry.defined_at = -1e9
            return entry
        entry = offloads.add_entry(label, limit, type(limiter))
        self._entries[limiter] = (offloads, entry)
        weakref.finalize(limiter, offloads.entry_gone, entry).atexit = False
        return entry

    def of(self, offloads: Offloads) -> list[tuple[Any, ExecutorEntry]]:
        """The limiters that are there, and their entries; any thread."""
        return [(limiter, known[1]) for limiter, known in list(self._entries.items()) if known[0] is offloads]


_pools = _Pools()
limiters_of = _pools.of


def arrange() -> None:
    """Sees to it that anyio's offloads are recorded, now or as soon as its asyncio backend is imported."""
    when_imported(BACKEND, patch)


def patch(module: Any) -> None:
    """Puts the noting function into anyio's asyncio backend; twice is once. Never raises."""
    try:
        backend = module.AsyncIOBackend
        original = vars(backend)["run_sync_in_worker_thread"].__func__
        if getattr(original, "_traceloop", False):
            return
        if list(inspect.signature(original).parameters)[1:] != _KNOWN_PARAMETERS:
            return
        backend.run_sync_in_worker_thread = classmethod(_noting(original))
    except (AttributeError, KeyError, TypeError, ValueError):
        pass


def _noting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def run_sync_in_worker_thread(
        cls: Any, func: Any, args: Any, abandon_on_cancel: bool = False, limiter: Any = None
    ) -> Any:
        offload = None
        try:
            offload = _begin(cls, func, args, limiter)
        except Exception as error:  # the record's fault, never the application's
            _logger.debug("traceloop: an offload of anyio's is not recorded", exc_info=error)
        try:
            if offload is None:
                return await original(cls, func, args, abandon_on_cancel, limiter)
            return await original(cls, offload.run, (func, *args), abandon_on_cancel, limiter)
        except BaseException as error:
            # This frame is none of the program's.
            trace = error.__traceback__
            if trace is not None:
                error.__traceback__ = trace.tb_next
            del trace
            raise
        finally:
            if offload is not None:
                _end(offload)

    run_sync_in_worker_thread._traceloop = True  # type: ignore[attr-defined]
    return run_sync_in_worker_thread


def _begin(cls: Any, func: Any, args: Any, limiter: Any) -> Offload | None:
    loop = asyncio.get_running_loop()
    recorder = getattr(loop, "_recorder", None)
    offloads: Offloads | None = getattr(recorder, "offloads", None)
    if recorder is None or offloads is None:
        return None
    limiter = limiter or cls.current_default_thread_limiter()
    is_default = limiter is _default_limiter(cls)
    entry = _pools.entry(offloads, limiter, DEFAULT_LABEL if is_default else LIMITER_LABEL)
    number = offloads.next_number()
    site = offloads.site_number(func, tuple(args))
    offloads.note_submit(loop, recorder, entry, monotonic(), number, site)
    workers = min(limiter.borrowed_tokens + 1, limiter.total_tokens)
    if workers > entry.workers:
        entry.workers = workers
        offloads.note((entry.number, layout.R_WORKERS, workers))
    return Offload(offloads.workers, recorder, loop, entry, number, site)


def _default_limiter(cls: Any) -> Any:
    """The loop's default limiter, None where nobody has asked for it yet: it is not made for being asked here."""
    variable = getattr(sys.modules.get(cls.__module__), "_default_thread_limiter", None)
    return cls.current_default_thread_limiter() if variable is None else variable.get(None)


def _end(offload: Offload) -> None:
    if not offload.started:
        # Cancelled while it waited for a token, or before the worker took it.
        offload.started = offload.finished = True
        offload.note_finish(_OUTCOME_CANCELLED)
    offload.note_deliver()
