"""What is looked at about once a second: the timer heap, the memory heap; and the outbox, emptied on the way.

``Sampler.flush`` is called by each loop when it flushes, ``Sampler.poll`` by the watchdog, which samples where
there is one: it comes while the loop sleeps in its poll, and measuring memory takes longer than a handle should
(allocated blocks are counted by walking the arenas, 0.2 ms for three million of them, and reading ``/proc/self/statm``
takes 20 us or more). The time between two measurements grows with their cost, so that they take no more than one part
in five thousand.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

from ...record import layout
from .. import failures, own_threads
from ..outbox import Outbox, outbox_of
from ..process import Process
from . import allocation_trace, gc_pauses
from .gc_pauses import GCPauses
from .growth_rules import FEW_TIMERS, Growth, SteadyClock, TimerGrowth
from .memory import MemorySampler
from .timer_origins import CreationSites, callbacks_waiting

_INTERVAL_SECONDS = 1.0
# Where the watchdog has not come for so long there is none: while nothing at all runs it comes every 5 s.
_ABSENT_SECONDS = 8.0
# A loop that has not polled for so long can cancel nothing: its timers are not looked at.
_BLOCKED_SECONDS = 0.5


class LoopSamples:
    """What is kept of one loop from sample to sample."""

    def __init__(self, loop: Any) -> None:
        self.loop = weakref.ref(loop)
        self.due = 0.0
        self.timers_due = 0.0
        self.timers = 0  # as was written down last
        self._growth: TimerGrowth | None = None
        self.clock = SteadyClock(2 * _INTERVAL_SECONDS)
        self.sites: CreationSites = loop._recorder.timer_sites
        self.thread = threading.current_thread().name

    @property
    def growth(self) -> TimerGrowth:
        """Made when it is first asked for: most loops end before."""
        if self._growth is None:
            self._growth = TimerGrowth()
        return self._growth


class Sampler:
    """The samples of one process; made once for it. Methods say from which threads they may be called."""

    def __init__(self, process: Process) -> None:
        self.outbox: Outbox = outbox_of(process)
        self.memory = MemorySampler(
            self.outbox,
            self._report,
            trace=process.settings.memory_trace,
            name_callback=process.site_log.label_at,
            is_idle=self._is_idle,
        )
        self._gc_pauses = GCPauses(self.outbox)
        self._turned = -1e9
        self._loops: list[LoopSamples] = []
        # Those that run now. While there are none, nobody empties the outbox, and collections hold no loop.
        self._running: set[LoopSamples] = set()
        self._running_lock = own_threads.RLock()
        self._lock = own_threads.allocate_lock()
        self._next_event = process.next_event
        #: Called about as often as something is sampled, by whichever thread does that; they must not raise.
        self.at_samples: list[Callable[[float], None]] = []

    def loop_started(self, loop: Any, samples: LoopSamples | None = None) -> LoopSamples:
        """A loop begins to run, in this thread. Returns what it hands in at each ``flush``, until ``loop_stopped``.

        ``samples``: what it was given when it began before, None at first.
        """
        if samples is None:
            samples = LoopSamples(loop)
            # A new list: another thread may be going through the old one.
            self._loops = [*(other for other in self._loops if other.loop() is not None), samples]
        else:
            samples.thread = threading.current_thread().name
        if not self.outbox.forked:
            with self._running_lock:
                self._running.add(samples)
                self._gc_pauses.start()
        return samples

    def _is_idle(self) -> bool:
        """Whether no loop runs anything just now."""
        for samples in self._loops:
            loop = samples.loop()
            if loop is not None and loop._recorder.words[layout.W_RUNNING] != 0.0:
                return False
        return True

    def loop_closed(self, samples: LoopSamples) -> None:
        """The loop was closed; in its thread."""
        self._loops = [other for other in self._loops if other is not samples]
        if not self._loops and not self.outbox.forked:
            with self._lock:
                self.memory.finish(monotonic())

    def end(self) -> None:
        """Nothing is sampled or noted any more; from any thread."""
        self._gc_pauses.stop()
        self._loops = []
        self.memory.due = float("inf")

    def flush(self, samples: LoopSamples) -> None:
        """A loop flushes; in its thread. Costs nothing to speak of but once a second."""
        now = monotonic()  # the loop's clock may be a test's
        outbox = self.outbox
        if outbox.pending:
            outbox.drain(now, wait=False)
        else:
            outbox.drained = now
        if now < samples.due:
            return
        samples.due = now + _INTERVAL_SECONDS
        if outbox.forked:
            self._gc_pauses.stop()
        elif now - self._turned > _ABSENT_SECONDS:
            self._sample_all(now)

    def loop_stopped(self, samples: LoopSamples | None) -> None:
        """A loop stops; in its thread. What waits is written now: no later flush is certain, so another writer is
        waited for (the watchdog holds the lock while it makes the process ring).
        """
        if samples is not None and not self.outbox.forked:
            with self._running_lock:
                self._running.discard(samples)
                if not self._running:
                    self._gc_pauses.stop()
        if self.outbox.pending:
            self.outbox.drain(monotonic())

    @property
    def is_steady(self) -> bool:
        """Whether samples of a process that computes nothing have nothing to tell. Timers that stay, though nothing
        runs, may be a leak.
        """
        return not self.memory.traces and all(samples.timers < FEW_TIMERS for samples in self._loops)

    def poll(self, now: float) -> None:
        """The watchdog looks; in its thread. As often as it likes."""
        self._turned = now
        if self.outbox.pending:
            self.outbox.drain(now)
        self._sample_all(now)

    def _sample_all(self, now: float) -> None:
        if self.outbox.forked or not self._lock.acquire(blocking=False):
            return
        try:
            for samples in self._loops:
                if now >= samples.timers_due:
                    self._sample_timers(samples, now)
            if now >= self.memory.due:
                self.memory.sample(now)
            for each in self.at_samples:
                each(now)
        except Exception as error:
            failures.report("sampling failed and has stopped", error)
            if not failures.is_shortage(error):
                self._loops = []
                self.memory.due = float("inf")
        finally:
            self._lock.release()

    def _sample_timers(self, samples: LoopSamples, now: float) -> None:
        loop = samples.loop()
        if loop is None:
            return
        samples.timers_due = now + _INTERVAL_SECONDS
        timers = loop._timer_heap
        cancelled = timers.cancelled
        live = max(0, len(timers) - cancelled)
        if live != samples.timers:
            samples.timers = live
            self.outbox.pending.extend((now, layout.R_TIMERS, live + layout.OUTCOME * loop._recorder.ring.number))
        since = loop._recorder.words[layout.W_RUNNING]
        if since and now - since > _BLOCKED_SECONDS:
            samples.clock.advance(now, still=True)
            return
        growth = samples.growth.sample(samples.clock.advance(now), live)
        if growth is not None:
            self._report(
                samples.clock.translate(growth),
                "timer",
                top=callbacks_waiting(timers),
                created=samples.sites.top(),
                live=live,
                cancelled=cancelled,
                thread=samples.thread,
            )

    def _report(self, growth: Growth, heap: str, **more: Any) -> None:
        """Writes one detection as an event; never from a collector's callback."""
        data = {
            "kind": "growth",
            "heap": heap,
            "start": growth.start,
            "end": growth.end,
            "before": round(growth.before),
            "after": round(growth.after),
            **more,
        }
        self.outbox.define([growth.end, layout.R_EVENT, self._next_event()], json.dumps(data), monotonic())


def sampler_of(process: Process) -> Sampler:
    """The sampler of ``process``, made at the first call."""
    attributes: dict[str, Any] = vars(process)
    sampler: Sampler | None = attributes.get("sampler")
    if sampler is None:
        sampler = attributes.setdefault("sampler", Sampler(process))
    return sampler


def _after_fork_in_child() -> None:
    allocation_trace.after_fork_in_child()
    gc_pauses.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
