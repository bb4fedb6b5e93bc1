"""Where spans go: the interface of every exporter, the counts of sent and dropped spans, and the sending thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from .model import Span

QUEUE_FULL: Final = "queue_full"
REJECTED: Final = "rejected"
UNAVAILABLE: Final = "unavailable"
SHUTDOWN: Final = "shutdown"
DAMAGED: Final = "damaged"
#: Why spans are dropped, in the words of ``traceloop_spans_dropped_total``.
REASONS: Final = (QUEUE_FULL, REJECTED, UNAVAILABLE, SHUTDOWN, DAMAGED)

#: Called with the spans of a batch; what it returns is called, from any thread, when they have arrived.
SentHook = Callable[[Sequence[Span]], Callable[[], None]]
Payload = TypeVar("Payload")

#: A batch that has been under way for longer than this while the queue is full is reported, s.
_STUCK_SECONDS: Final = 60.0


class Exported:
    """What became of the spans. Any thread may count and read."""

    def __init__(self) -> None:
        self.sent = 0
        self.dropped: dict[str, int] = dict.fromkeys(REASONS, 0)
        self._lock = threading.Lock()

    def count_sent(self, count: int) -> None:
        """Counts spans that have arrived."""
        with self._lock:
            self.sent += count

    def count_dropped(self, reason: str, count: int) -> None:
        """Counts spans that will not arrive."""
        with self._lock:
            self.dropped[reason] = self.dropped.get(reason, 0) + count


class SpanSink(Protocol):
    """One exporter. ``put`` never waits; the other methods wait at most for their timeout, s.

    ``on_sent``: called with the spans of one batch; what it returns is called when they have arrived.
    """

    exported: Exported

    def put(
        self,
        process: object,
        resource: Mapping[str, Any],
        spans: Sequence[Span],
        on_sent: SentHook | None = None,
    ) -> None: ...

    def forget(self, process: object) -> None: ...

    def flush(self, timeout: float) -> bool: ...

    def shutdown(self, timeout: float) -> None: ...


class BatchLimits(NamedTuple):
    """The size of a batch, how much may wait in the queue, and for how long (s). None: no limit."""

    batch_spans: int
    delay: float
    queue_spans: int | None = None
    batch_bytes: int | None = None
    queue_bytes: int | None = None


class Queued(NamedTuple, Generic[Payload]):
    """Spans that wait to be sent. ``on_sent``: called by the sending thread when they have arrived."""

    payload: Payload
    spans: int
    size: int
    on_sent: Callable[[], None] | None


class SenderThread(Generic[Payload]):
    """A bounded queue, and the thread that sends what is in it, batch by batch.

    One thread puts; it never waits. Past the limits spans are dropped and counted as ``queue_full``. What cannot be
    sent is counted under the reason that ``send`` gives; what is left at the shutdown, under ``shutdown``.
    """

    def __init__(
        self,
        name: str,
        limits: BatchLimits,
        exported: Exported,
        send: Callable[[list[Queued[Payload]]], tuple[int, str]],
        notice: Callable[[str], None],
    ) -> None:
        """``send``: sends one batch, in the thread; returns how many of its spans arrived, and why the others did not.
        It may wait by ``pause``. ``notice`` says one line to the user.
        """
        self.limits = limits
        self.exported = exported
        #: Set by ``send``: nothing arrives at present, so there is no point in waiting.
        self.failing = False
        #: Monotonic s by which the shutdown is over; None before it.
        self.deadline: float | None = None
        self._name = name
        self._send = send
        self._notice = notice
        self._queue: deque[Queued[Payload]] = deque()
        self._queued_bytes = self._queued_spans = 0
        self._in_flight = 0
        self._in_flight_since = 0.0
        self._reported = False
        self._flushing = False
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"traceloop-{name}", daemon=True)
        self._thread.start()

    # -- the reader's side

    def room(self, count: int) -> int:
        """How many of so many further spans the queue takes; the others are counted as dropped."""
        limits = self.limits
        room = count
        if limits.queue_bytes is not None and self._queued_bytes >= limits.queue_bytes:
            room = 0
        if limits.queue_spans is not None:
            # One read of a busy ring may bring more than the whole queue takes.
            room = min(room, max(0, limits.queue_spans - self._queued_spans))
        if room < count:
            self.refuse(count - room)
        return room

    @property
    def is_over(self) -> bool:
        """Whether it sends nothing any more."""
        return not self._thread.is_alive()

    @property
    def room_bytes(self) -> int:
        """After so many further bytes the queue takes no more; for one that is limited by them."""
        assert self.limits.queue_bytes is not None
        return self.limits.queue_bytes - self._queued_bytes

    def refuse(self, count: int) -> None:
        """Counts spans that the queue has no room for."""
        self.exported.count_dropped(QUEUE_FULL, count)
        self._look_if_stuck()

    def put(self, item: Queued[Payload]) -> None:
        """Queues it; ``room`` has been asked."""
        if self.is_over:
            self.exported.count_dropped(SHUTDOWN, item.spans)
            if self.deadline is None:
                self._tell(f"the thread that sends spans to {self._name} is gone; spans are dropped")
            return
        with self._condition:
            self._queue.append(item)
            self._queued_bytes += item.size
            self._queued_spans += item.spans
            # The first starts the thread's clock; the others are sent with it unless they fill the batch.
            if len(self._queue) == 1 or self._is_full():
                self._condition.notify_all()

    def flush(self, timeout: float) -> bool:
        """Sends what is queued now; waits at most ``timeout`` s, and not at all while nothing arrives."""
        deadline = time.monotonic() + timeout
        with self._condition:
            self._flushing = True
            self._condition.notify_all()
            while self._queue or self._in_flight:
                left = deadline - time.monotonic()
                if left <= 0 or (self.failing and self.deadline is None) or self.is_over:
                    return False
                self._condition.wait(min(left, 1.0))
        return True

    def shutdown(self, timeout: float) -> None:
        """Sends what it can within ``timeout`` s; the rest is dropped and counted."""
        with self._condition:
            self.deadline = time.monotonic() + timeout
            self._flushing = True
            self._condition.notify_all()
        self._thread.join(timeout + 0.1)
        with self._condition:
            lost = self._queued_spans + self._in_flight
            self._queue.clear()
            self._queued_spans = self._queued_bytes = self._in_flight = 0
        if lost:
            self.exported.count_dropped(SHUTDOWN, lost)

    def _is_full(self) -> bool:
        limits = self.limits
        return self._queued_spans >= limits.batch_spans or (
            limits.batch_bytes is not None and self._queued_bytes >= limits.batch_bytes
        )

    def _look_if_stuck(self) -> None:
        seconds = time.monotonic() - self._in_flight_since
        if self._in_flight and seconds > _STUCK_SECONDS and not self.failing:
            self._tell(f"{self._name} has not taken a batch of spans for {seconds:.0f} s; spans are dropped")

    def _tell(self, line: str) -> None:
        if not self._reported:
            self._reported = True
            self._notice(line)

    # -- the thread's side

    def pause(self, seconds: float) -> None:
        """For ``send``: waits between two attempts. Ends at once when the shutdown comes, and in it after 0.5 s."""
        until = time.monotonic() + seconds
        with self._condition:
            had_deadline = self.deadline is not None
            self._condition.notify_all()  # a flush learns that nothing arrives
            while True:
                now = time.monotonic()
                if self.deadline is not None:
                    if not had_deadline:
                        return  # try at once, there is not much time
                    until = min(until, now + 0.5)
                if now >= until:
                    return
                self._condition.wait(until - now)

    def _work(self) -> None:
        while True:
            batch = self._next_batch()
            if not batch:
                return
            try:
                arrived, reason = self._send(batch)
            except BaseException as error:  # also SystemExit of an exporter: the thread outlives it
                arrived, reason = 0, REJECTED
                self._tell(f"spans do not arrive at {self._name}: {error!r}")
            with self._condition:
                if not self._in_flight:  # the shutdown has counted them as lost
                    return
                count, self._in_flight = self._in_flight, 0
                if arrived:
                    self.exported.count_sent(arrived)
                if arrived < count:
                    self.exported.count_dropped(reason, count - arrived)
                self._condition.notify_all()
            if arrived:
                for item in batch:
                    if item.on_sent is not None:
                        item.on_sent()

    def _next_batch(self) -> list[Queued[Payload]]:
        """What is sent together; empty at the end."""
        limits = self.limits
        with self._condition:
            waited_until = 0.0
            while True:
                now = time.monotonic()
                if self.deadline is not None and (not self._queue or now >= self.deadline):
                    return []
                if self._queue:
                    waited_until = waited_until or now + limits.delay
                    if self._is_full() or self._flushing or now >= waited_until:
                        break
                else:
                    self._flushing = False
                    waited_until = 0.0
                self._condition.wait(waited_until - now if self._queue else None)
            batch: list[Queued[Payload]] = []
            size = count = 0
            while self._queue:
                item = self._queue[0]
                too_large = limits.batch_bytes is not None and size + item.size > limits.batch_bytes
                if batch and (too_large or count + item.spans > limits.batch_spans):
                    break
                size += item.size
                count += item.spans
                batch.append(self._queue.popleft())
            self._queued_bytes -= size
            self._queued_spans -= count
            self._in_flight = count
            self._in_flight_since = now
        return batch
