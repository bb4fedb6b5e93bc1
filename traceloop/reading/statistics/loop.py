"""What is known of one loop label: a thread's loop, and those that take its place when it is closed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from ...record import layout
from ..decoding.decoded import Decoded, State
from ..decoding.task_rows import outcomes_of
from .callbacks import CallbackStatistics
from .context import Context, SitesOf
from .counting import count_iterations
from .histograms import COUNTS, Histogram
from .labels import BoundedLabels
from .own_work import OwnWorkStatistics
from .parts import Part, Sample
from .tasks import TaskStatistics
from .waits import Waits

if TYPE_CHECKING:
    from ..decoding.ring_reader import RingReader
    from ..decoding.stream import LoopStream

# A loop publishes that it polls only after 10 ms in the poll. So for a shorter time it is not known to be running.
_LINGER_SECONDS: Final = 0.025
# The outcome in the record of a task's last step, and the word that counts tasks with this outcome.
_OUTCOME_WORDS: Final = {
    layout.OUTCOME_RESULT: layout.W_TASKS_RESULT,
    layout.OUTCOME_EXCEPTION: layout.W_TASKS_EXCEPTION,
    layout.OUTCOME_CANCELLED: layout.W_TASKS_CANCELLED,
}
_OUTCOMES: Final = (
    ("result", layout.W_TASKS_RESULT),
    ("exception", layout.W_TASKS_EXCEPTION),
    ("cancelled", layout.W_TASKS_CANCELLED),
    ("abandoned", layout.W_TASKS_ABANDONED),
)
_TRANSPORTS: Final = (
    ("stream", layout.W_STREAMS),
    ("tls", layout.W_TLS),
    ("datagram", layout.W_DATAGRAMS),
    ("pipe", layout.W_PIPES),
)


class LoopStatistics:
    """Statistics of one loop label of one process slot. ``parts`` may be added to before the first ``feed``.

    It is bound to a ring while a loop lives: ``reader`` and ``decoder`` then tell what is in progress.
    """

    def __init__(
        self,
        label: str,
        *,
        slot: int,
        context: Context,
        sites_of: SitesOf,
        labels: BoundedLabels,
        culprits: BoundedLabels,
        waits: Waits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``slot``, ``waits``: of the process. ``labels``, ``culprits``: the labels that its callbacks may have."""
        self.label = label
        self.slot = slot
        self._context = context
        # The moment up to which something in progress has lasted: nothing lasts in a process that is stopped.
        self._clock = clock
        self._sites_of = sites_of
        self.callbacks = CallbackStatistics(sites_of(), labels, culprits, context.threshold_for)
        self.iteration_durations = Histogram()
        self.iteration_callbacks = Histogram(COUNTS)
        self.poll_delays = Histogram()
        self.iterations = 0
        self.active_s = 0.0
        self.idle_s = 0.0
        #: Loops that have had this label.
        self.loops = 0
        self.reader: RingReader | None = None
        self.decoder: LoopStream | None = None
        self._loop_number = 0
        # Tasks of the present loop by the record: created, and ended by outcome.
        self._tasks_seen = 0
        self._ends_seen: dict[int, int] = {}
        self._words: list[float] = [0.0] * layout.WORDS
        self._ended_words = [0.0] * layout.WORDS
        self._shown = (0.0, 0.0)
        self._paused_s = 0.0
        #: The last known value of W_RUNNING of a loop whose process ended in the middle of it; 0 otherwise.
        self.running_at_end = 0.0
        #: Whether asyncio's debug mode was on at some time.
        self.debugged = False
        self.tasks = TaskStatistics(sites_of, waits, lambda: self.is_open)
        self.own_work = OwnWorkStatistics(self.callbacks, sites_of)
        self.parts: list[Part] = [self.callbacks, self.tasks, self.own_work]

    # -- who has the label

    def open(self, reader: RingReader, decoder: LoopStream, number: int) -> None:
        """A loop takes the label; it is bound to its ring."""
        self.callbacks.new_process(self._sites_of())
        self.reader = reader
        self.decoder = decoder
        self._loop_number = number
        self._tasks_seen = 0
        self._ends_seen = dict.fromkeys(_OUTCOME_WORDS.values(), 0)
        self.loops += 1
        self.running_at_end = 0.0

    def close(self, at: float = 0.0, *, crashed: bool = False) -> None:
        """The loop was closed, or its process has ended. Its counters stay under the label.

        ``at``: when (monotonic s). 0 where that is not known: the last moment of its record is taken then.
        """
        if self.reader is None:
            return
        self.callbacks.who_waited.finish()
        if crashed:
            running = self.reader.word(layout.W_RUNNING)
            self.running_at_end = running if running > 0.0 else 0.0
        for index in layout.COUNTER_WORDS:
            self._ended_words[index] += self._words[index]
        # A pause that lasts when the loop is closed ends with the loop; no record tells of its end.
        ended = at or self._last_moment()
        self._ended_words[layout.W_PAUSED_SECONDS] += self._lasting_pauses(ended)
        self.tasks.end_loop(ended)
        self._words = [0.0] * layout.WORDS
        self.reader = self.decoder = None

    @property
    def is_open(self) -> bool:
        """Whether a loop has the label now."""
        return self.reader is not None

    # -- taking in

    def feed(self, decoded: Decoded) -> None:
        """Takes in one chunk of the record."""
        self._take_words()
        self.active_s += decoded.active_s
        self.idle_s += decoded.idle_s
        iterations = decoded.iterations
        if len(iterations):
            self.iterations += len(iterations)
            count_iterations(iterations, self.iteration_durations, self.iteration_callbacks, self.poll_delays)
        # The words count all tasks, even where records were lost. They may be older than the records just read.
        self._tasks_seen += len(decoded.tasks)
        seen = self._ends_seen
        for outcome, count in outcomes_of(decoded.finished).items():
            word = _OUTCOME_WORDS.get(outcome)
            if word is not None:
                seen[word] += count
        for index, count in ((layout.W_TASKS_CREATED, self._tasks_seen), *seen.items()):
            if self._words[index] < count:
                self._words[index] = float(count)
        for index, value in decoded.last_words.items():
            if index in layout.COUNTER_WORDS and value > self._words[index]:
                self._words[index] = value
        for part in self.parts:
            part.feed(decoded)

    def _take_words(self) -> None:
        reader = self.reader
        if reader is None:
            return
        words = reader.words()
        owner = words[layout.W_LOOP] if words else 0.0
        if not self._loop_number and owner > 0.0 and not reader.behind:
            # The record's beginning was lost. It has been read to its end, so the ring's present loop is ours.
            self._loop_number = int(owner) if owner < 2.0**53 else 0
        if not words or owner not in (0.0, self._loop_number):
            return  # the ring belongs to another loop by now
        for index in layout.COUNTER_WORDS:
            # The writer sets the words to 0 before another loop takes the ring.
            if not words[index] >= self._words[index]:
                words[index] = self._words[index]
        self._words = words
        self.debugged = self.debugged or words[layout.W_DEBUG] == 1.0
        threshold = words[layout.W_THRESHOLD]
        self.callbacks.set_threshold(threshold, self._context.lowest_threshold(threshold))

    # -- as it stands

    def counter(self, index: int) -> float:
        """A counter word of ``layout.COUNTER_WORDS``, over all loops that have had the label."""
        return self._ended_words[index] + self._words[index]

    def gauge(self, index: int) -> float:
        """A gauge word; 0 where no loop has the label."""
        value = self._words[index] if self.reader is not None else 0.0
        return value if value >= 0.0 else 0.0

    def refresh(self) -> None:
        """Reads the words again, so that the gauges are current."""
        self._take_words()

    def running_seconds(self, now: float | None = None) -> float:
        """Seconds since the loop last polled for I/O; 0 while it polls."""
        if self.reader is None:
            return 0.0
        running = self.reader.word(layout.W_RUNNING)
        if not running > 0.0:
            return 0.0
        return max(0.0, (self._clock() if now is None else now) - running)

    @property
    def rests(self) -> bool:
        """Whether the loop waits in its poll, with nothing ready."""
        return self.reader is not None and not self.reader.word(layout.W_RUNNING) > 0.0

    def times(self, now: float | None = None) -> tuple[float, float]:
        """Seconds active and idle. What is in progress counts up to ``now`` (monotonic s).

        The values may fall: after a crash, what was in progress may have been counted beyond the process's end.
        """
        active, idle = self.active_s, self.idle_s
        if self.reader is not None and self.decoder is not None:
            now = self._clock() if now is None else now
            running = self.reader.word(layout.W_RUNNING)
            state, since = self.decoder.state, self.decoder.since
            if state == State.IDLE and now > since:
                back = running if running > since else now
                idle += min(back, now) - since
            if state in (State.IDLE, State.ACTIVE) and running > 0.0 and now - running > _LINGER_SECONDS:
                active += max(0.0, now - max(running, since))
        return active, idle

    def _shown_times(self) -> tuple[float, float]:
        """``times``, as counters: neither ever falls."""
        active, idle = self.times()
        self._shown = (max(active, self._shown[0]), max(idle, self._shown[1]))
        return self._shown

    def utilization(self, now: float | None = None) -> float:
        """active / (active + idle), 0 to 1."""
        active, idle = self.times(now)
        return active / (active + idle) if active + idle > 0.0 else 0.0

    def paused_seconds(self, now: float | None = None) -> float:
        """Seconds for which protocols had to pause writing. A pause that lasts counts up to ``now`` (monotonic s)."""
        lasting = self._lasting_pauses(time.monotonic() if now is None else now)
        # The words are not read at one moment, so the sum may fall for a while; the counter must not.
        self._paused_s = max(self._paused_s, self.counter(layout.W_PAUSED_SECONDS) + lasting)
        return self._paused_s

    def _lasting_pauses(self, now: float) -> float:
        """Seconds up to ``now`` of pauses that last, summed over the transports."""
        paused = self.gauge(layout.W_PAUSED)
        return max(0.0, paused * now - self.gauge(layout.W_PAUSED_SINCE)) if paused else 0.0

    def _last_moment(self) -> float:
        """When the loop's state last changed, by its record (monotonic s); 0 where that is not known."""
        return self.decoder.since if self.decoder is not None else 0.0

    @property
    def tasks_created(self) -> int:
        """Tasks made."""
        return int(self.counter(layout.W_TASKS_CREATED))

    def tasks_finished(self) -> dict[str, int]:
        """Tasks by outcome."""
        return {outcome: int(self.counter(index)) for outcome, index in _OUTCOMES}

    @property
    def tasks_alive(self) -> int:
        """Tasks that are not done, of the loop that has the label; 0 after the loop was killed."""
        if self.reader is None:
            return 0
        words = self._words
        return max(0, int(words[layout.W_TASKS_CREATED] - sum(words[index] for _, index in _OUTCOMES)))

    def metrics(self) -> Iterator[Sample]:
        """The series as they stand, without the labels ``process`` and ``loop``."""
        self.refresh()
        active, idle = self._shown_times()
        yield Sample("asyncio_eventloop_time_seconds_total", (("state", "active"),), active)
        yield Sample("asyncio_eventloop_time_seconds_total", (("state", "idle"),), idle)
        yield Sample("asyncio_eventloop_iterations_total", (), self.iterations)
        yield Sample("asyncio_eventloop_iteration_duration_seconds", (), self.iteration_durations)
        yield Sample("asyncio_eventloop_iteration_callbacks", (), self.iteration_callbacks)
        yield Sample("asyncio_eventloop_poll_delay_seconds", (), self.poll_delays)
        yield Sample("asyncio_eventloop_running_seconds", (), self.running_seconds())
        yield Sample("asyncio_tasks", (), self.tasks_alive)
        yield Sample("asyncio_tasks_created_total", (), self.tasks_created)
        for outcome, count in self.tasks_finished().items():
            yield Sample("asyncio_tasks_finished_total", (("outcome", outcome),), count)
        cancelled = self.gauge(layout.W_TIMERS_CANCELLED)
        live = max(0.0, self.gauge(layout.W_TIMERS) - cancelled)
        yield Sample("asyncio_timers", (("state", "live"),), live)
        yield Sample("asyncio_timers", (("state", "cancelled"),), cancelled)
        yield Sample("asyncio_timer_heap_compactions_total", (), self.counter(layout.W_COMPACTIONS))
        yield Sample("asyncio_transport_bytes_total", (("direction", "in"),), self.counter(layout.W_BYTES_IN))
        yield Sample("asyncio_transport_bytes_total", (("direction", "out"),), self.counter(layout.W_BYTES_OUT))
        yield Sample("asyncio_transports", (), self.gauge(layout.W_TRANSPORTS))
        for kind, index in _TRANSPORTS:
            yield Sample("asyncio_transports_by_kind", (("transport", kind),), self.gauge(index))
        yield Sample("asyncio_transport_paused_seconds_total", (), self.paused_seconds())
        for result, index in (("accepted", layout.W_ACCEPTED), ("refused", layout.W_REFUSED)):
            yield Sample("asyncio_server_connections_total", (("result", result),), self.counter(index))
        yield Sample("asyncio_tls_handshakes_total", (), self.counter(layout.W_TLS_HANDSHAKES))
        yield Sample("asyncio_tls_handshake_seconds_total", (), self.counter(layout.W_TLS_SECONDS))
        for part in self.parts:
            yield from part.metrics()
