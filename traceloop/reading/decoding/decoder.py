"""From batches of records to what happened: handle runs, iterations, tasks, offloads, collections.

What the record leaves to be found out, and how it is found:

* **End of a run**: the next clock reading of the stream. At a gap, or at the end of a crashed record, it is the time
  at which the last batch was written, which the writer took when the last run of the batch had ended.
* **Who scheduled a run, and when it became ready**: by its place in the ready queue. Each run's record says how long
  the queue was after it; what was added between two readings was added by the run in between. That tells neither
  when within that run, nor which of several handles: their ready time is taken to be the **end** of the run that
  added them, the latest that it can have been, so that a schedule delay is never overstated by it (it can be
  understated by at most the length of that run, which is no delay: the loop was busy with the very code that asked
  for it). Handles of descriptors are ready at the return of the poll, timers when they are due, and what another
  thread or a signal put in carries its own time. A timer carries the place that the record had when it was set: the
  run whose record came next is the one that set it.
* After a gap the queue's content is unknown until what was in it has been run; these runs have a delay of -1
  (unknown) and no scheduler. Nothing is guessed.

This is the hot path of the collector: the loop below is written out, with names bound to locals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from ...record import layout
from ...record.layout import FIRST_STEP, OUTCOME, SITE_LIMIT
from .decoded import LATEST, READER, SOON, TASK, THREADSAFE, TIMER, WRITER, Decoded, LoopInfo, NewTask, State
from .rare_records import RareRecords
from .ring_reader import Batch
from .runs import Iteration
from .timer_setters import RunPlaces

_INFINITY: Final = float("inf")
# In the queue's model, handles that one run put in, or one poll: (ready time, number of the run that scheduled them,
# kind, ident of that run, how many there are besides the first). Never one entry for each, so that no number in a
# damaged record can make the model large.
_Entry = tuple[float, int, str, float, float]
_UNKNOWN: Final[_Entry] = (_INFINITY, 0, SOON, 0.0, 0.0)
# More handles than this in a ready queue are believed to be damage rather than handles.
_MAX_QUEUE: Final = 1e9
# Entries of the model beyond which it is given up (at the next batch), and timers that are remembered until R_DUE.
_MAX_ENTRIES: Final = 1 << 20
_MAX_TIMERS: Final = 1 << 18
# Integers up to here are exact in a double.
_EXACT: Final = 2.0**53
_new_tuple = tuple.__new__

# The kinds whose first double is a clock reading of the loop's thread: they end the run before them.
_CLOCKED: Final = frozenset((layout.R_POLL, layout.R_SPIN, layout.R_SKIP, layout.R_END, layout.R_RUN))
_SPIN: Final = layout.R_SPIN
_FOUND: Final = layout.R_FOUND


_ACTIVE: Final = State.ACTIVE


class PythonModel:
    """See ``stream.Model``. It is the reference of the one in C (native/model.c)."""

    def __init__(self) -> None:
        self.state = State.STOPPED
        self.since = 0.0
        self.runs = 0
        self.damaged = 0
        self._iteration = 0
        self._iteration_start = -1.0
        self._iteration_first = 0
        self._poll_start = 0.0
        self._poll_timeout = 0.0
        self._poll_duration = 0.0
        self._poll_delay = -1.0
        self._moved = 0
        self._queue: deque[_Entry] = deque()
        # The entry that handles are being taken from, with how many are left of it.
        self._group: _Entry = _UNKNOWN
        self._pending = 0.0
        self._context = 0
        self._running: tuple[float, float, str, float, int, int, int, float] | None = None
        self._rare = RareRecords()
        # The number in the automatic name read last, -1: none.
        self._automatic_name = -1
        # When each timer was due that the poll has moved, and the run that had set it.
        self._timers: list[tuple[float, int]] = []
        self._places = RunPlaces()
        self._written_at = 0.0
        self._triples: Iterable[tuple[float, float, float]] = iter(())
        self._text: Iterator[str] = iter(())

    def new_decoded(self, loop: LoopInfo | None) -> Decoded:
        """See ``stream.Model``, as of the others."""
        return Decoded(loop)

    def begin(self, batch: Batch) -> None:
        self._places.add(batch, self.runs)
        triples = iter(batch.records)
        self._triples = zip(triples, triples, triples, strict=False)
        self._text = iter(layout.unpack_text(batch.text))
        if len(self._queue) > _MAX_ENTRIES:
            self._forget_queue(self._pending)

    def decode(self, decoded: Decoded) -> tuple[float, float] | None:
        return self._decode(self._triples, decoded, self._text)

    def next_text(self) -> str:
        return next(self._text, "")

    def end(self, written_at: float) -> None:
        self._written_at = written_at

    def catch_up(self, decoded: Decoded) -> None:
        if self.state == _ACTIVE:
            start = self._running[0] if self._running is not None else self._iteration_start
            if start > self.since:
                self._enter(_ACTIVE, start, decoded)

    def finish(self, decoded: Decoded, end: float, running_since: float) -> None:
        self._end_run(decoded, self._written_at)
        if self._iteration_start >= 0.0 and self.state == _ACTIVE:
            self._end_iteration(decoded, self._written_at)
        if self.state == _ACTIVE:
            self._enter(State.STOPPED, max(end, self._written_at), decoded)
        elif self.state == State.IDLE:
            if running_since > self.since:
                self._enter(State.ACTIVE, running_since, decoded)
            self._enter(State.STOPPED, max(end, running_since), decoded)
        self.state = State.STOPPED

    def _end_run(self, decoded: Decoded, end: float) -> None:
        """The rare twin of what ``_decode`` does inline."""
        running = self._running
        if running is None:
            return
        self._running = None
        start, ident, kind, delay, scheduler, span, outcome, added = running
        end = max(start, end) if end == end else start
        decoded.runs.append((self.runs, start, end, ident, kind, delay, scheduler, span, self._iteration, outcome))
        if added:
            self._queue.append((end, self.runs, SOON, ident, added - 1.0))

    def _name_of_new_task(self, name: str) -> str:
        """The name of a task that begins, by the text of its first step's record (see ``layout``)."""
        if not name:
            if self._automatic_name < 0:
                return ""
            self._automatic_name += 1
            name = f"Task-{self._automatic_name}"
        elif name.startswith("Task-") and name.isascii() and name[5:].isdigit() and len(name) < 21:
            self._automatic_name = int(name[5:])
        return name

    def _end_iteration(self, decoded: Decoded, end: float) -> None:
        start = self._iteration_start
        # ``Iteration(...)`` would take twice as long.
        decoded.iterations.append(
            _new_tuple(
                Iteration,
                (
                    self._iteration,
                    start,
                    end if end > start else start,
                    self.runs - self._iteration_first,
                    self._poll_duration,
                    self._poll_delay,
                ),
            )
        )
        self._iteration_start = -1.0

    def lose_place(self, decoded: Decoded) -> None:
        """See ``stream.Model``."""
        self._end_run(decoded, self._written_at)
        self._queue.clear()
        self._group = _UNKNOWN
        self._pending = _INFINITY  # not known: whatever is read next is less
        self._iteration_start = -1.0
        self._rare.lose_place()
        self._timers.clear()
        self._context = 0
        self._automatic_name = -1
        self.state = State.UNKNOWN

    def _decode(
        self, triples: Iterable[tuple[float, float, float]], decoded: Decoded, text: Iterator[str]
    ) -> tuple[float, float] | None:
        """Decodes until the end, or until another loop takes the ring: then that record's two doubles."""
        queue = self._queue
        rare = self._rare
        take = queue.popleft
        put = queue.append
        ready, creator, group_kind, creator_ident, group_left = self._group
        append = decoded.runs.append
        end_iteration = decoded.iterations.append
        number = self.runs
        pending = self._pending
        context = self._context
        iteration = self._iteration
        start = run_ident = delay = added = 0.0
        kind = SOON
        scheduler = outcome = span = 0
        new_name: str | None = None
        running = self._running is not None
        if self._running is not None:
            start, run_ident, kind, delay, scheduler, span, outcome, added = self._running
            self._running = None
        # Something that the next run needs was said by a record before it.
        special = rare.override is not None or bool(rare.new_tasks)
        try:
            for a, ident, b in triples:
                if ident > 0.0:
                    if running:
                        # These lines stand below once more: a call here would cost as much as all of them.
                        end = a if a > start else start
                        append((number, start, end, run_ident, kind, delay, scheduler, span, iteration, outcome))
                        if added:
                            put((end, number, SOON, run_ident, added - 1.0))
                    number += 1
                    start = a
                    run_ident = ident
                    span = context
                    running = True
                    if group_left > 0.0:
                        group_left -= 1.0
                    else:
                        try:
                            ready, creator, group_kind, creator_ident, group_left = take()
                        except IndexError:
                            # Put in by another thread since the queue was last seen, or the queue is not known.
                            ready, creator, group_kind, creator_ident, group_left = _UNKNOWN
                            pending += 1.0
                    scheduler = creator
                    kind = group_kind
                    delay = a - ready
                    if delay < 0.0:
                        delay = 0.0 if ready != _INFINITY else -1.0
                    if ident >= SITE_LIMIT:
                        kind = TASK
                    if b >= OUTCOME:
                        outcome = int(b // OUTCOME)
                        b %= OUTCOME
                        if outcome >= FIRST_STEP:
                            outcome %= FIRST_STEP
                            new_name = self._name_of_new_task(next(text, ""))
                        if outcome:
                            decoded.finished.append((ident, outcome, a, number))
                    else:
                        outcome = 0
                    # The queue held ``pending`` before this handle was taken from it.
                    added = b - pending + 1.0
                    if added and not 0.0 < added < _MAX_QUEUE:
                        # Not as the model has it: its place was lost, or other code took handles out of the queue.
                        added = group_left = 0.0
                        self._forget_queue(b)
                    pending = b
                    if special:
                        if rare.override is not None:
                            stamp, new_kind = rare.override
                            rare.override = None
                            scheduler = 0
                            delay = a - stamp if a > stamp else 0.0
                            if kind is not TASK:
                                kind = new_kind
                        if ident in rare.new_tasks:
                            name, made_by_loop, maker, maker_ident, began = rare.new_tasks.pop(ident)
                            if maker < 0:
                                maker, maker_ident = scheduler, creator_ident if scheduler else 0.0
                            decoded.tasks.append(
                                NewTask(ident, name, number, a, maker, maker_ident, made_by_loop, began)
                            )
                        special = bool(rare.new_tasks)
                    if new_name is not None:
                        maker_ident = creator_ident if scheduler else 0.0
                        decoded.tasks.append(NewTask(ident, new_name, number, a, scheduler, maker_ident, True))
                        new_name = None
                    continue
                if ident == _SPIN:
                    # A busy loop with little to do has one of these for each run: no call is made for it.
                    if running:
                        running = False
                        end = a if a > start else start
                        append((number, start, end, run_ident, kind, delay, scheduler, span, iteration, outcome))
                        if added:
                            put((end, number, SOON, run_ident, added - 1.0))
                    begun = self._iteration_start
                    if begun >= 0.0:
                        end = a if a > begun else begun
                        runs = number - self._iteration_first
                        polled, late = self._poll_duration, self._poll_delay
                        end_iteration(_new_tuple(Iteration, (iteration, begun, end, runs, polled, late)))
                    iteration += 1
                    self._iteration = iteration
                    self._iteration_first = number
                    self._iteration_start = b
                    self._poll_duration = b - a
                    self._poll_delay = -1.0
                    if self.state != _ACTIVE:
                        self._enter(_ACTIVE, a, decoded)
                    continue
                if running and (ident in _CLOCKED or ident <= _FOUND):
                    running = False
                    end = a if a > start else start
                    append((number, start, end, run_ident, kind, delay, scheduler, span, iteration, outcome))
                    if added:
                        put((end, number, SOON, run_ident, added - 1.0))
                if ident <= _FOUND:
                    moved = int(_FOUND - ident)
                    self.runs = number
                    if self._iteration_start >= 0.0:
                        self._end_iteration(decoded, a)
                    self._enter(State.IDLE, a, decoded)
                    iteration += 1
                    self._iteration = iteration
                    self._iteration_first = number
                    self._iteration_start = b
                    self._moved = moved
                    self._poll_duration = max(0.0, b - a)
                    self._poll_delay = -1.0
                    self._enter(_ACTIVE, b, decoded)
                    if pending != 0.0:
                        group_left = 0.0
                    pending = self._queue_due(0.0, 0.0, pending)
                elif ident == layout.R_POLL:
                    if self._iteration_start >= 0.0:
                        self.runs = number
                        self._end_iteration(decoded, a)
                    self._poll_start = a
                    self._poll_timeout = b
                    self._enter(State.IDLE if b else _ACTIVE, a, decoded)
                elif ident == layout.R_ACTIVE:
                    iteration += 1
                    self._iteration = iteration
                    self._iteration_first = number
                    self._iteration_start = a
                    self._moved = int(b)
                    if self.state == State.UNKNOWN:
                        self._poll_start = a
                        self._poll_timeout = 0.0
                    self._poll_duration = late = max(0.0, a - self._poll_start)
                    late -= self._poll_timeout
                    self._poll_delay = late if not b and self._poll_timeout > 0.0 and late >= 0.0 else -1.0
                    self._enter(_ACTIVE, a, decoded)
                elif ident == layout.R_DUE:
                    if not 0.0 <= pending <= a:
                        group_left = 0.0
                    pending = self._queue_due(a, b, pending)
                elif ident == layout.R_TIMER:
                    # Those above the limit are timers too: R_DUE counts them, but when they were due is not known.
                    if len(self._timers) < _MAX_TIMERS:
                        self._timers.append((a, self._places.run_at(int(b) // 3) if b > 0.0 else 0))
                elif ident == layout.R_SKIP:
                    if group_left > 0.0:
                        group_left -= 1.0
                        pending -= 1.0
                    elif queue:
                        ready, creator, group_kind, creator_ident, group_left = take()
                        pending -= 1.0
                    special = bool(rare.new_tasks)
                    rare.override = None
                    if b < pending:
                        group_left = 0.0
                        self._forget_queue(b)
                    elif b > pending:
                        put((*_UNKNOWN[:4], b - pending - 1.0))
                    pending = b
                elif ident == layout.R_CONTEXT:
                    context = self._context = int(a) if 0.0 <= a < _EXACT else 0
                elif ident == layout.R_LOOP:
                    self._pending = pending
                    loop_number = float(int(b))  # raises for what is no number
                    self._enter(State.STOPPED, a, decoded)
                    return a, loop_number
                elif ident == layout.R_RUN:
                    queue.clear()
                    group_left = 0.0
                    pending = b
                    if b > 0.0:
                        put((a, 0, SOON, 0.0, b - 1.0))
                    self._enter(_ACTIVE, a, decoded)
                elif ident == layout.R_END:
                    if self._iteration_start >= 0.0:
                        self.runs = number
                        self._end_iteration(decoded, a)
                    self._enter(State.STOPPED, a, decoded)
                    if b:
                        decoded.closed = True
                        decoded.end = a
                else:
                    self.runs = number
                    # Its own record comes when a run ends, so the run that wrote this one is the next.
                    writer = number + 1 if self.state == _ACTIVE else 0
                    before = (number, run_ident) if running else (0, 0.0)
                    self.damaged += not rare.take(a, ident, b, text, decoded, before, writer, context)
                    special = rare.override is not None or bool(rare.new_tasks)
        finally:
            self.runs = number
            self._pending = pending
            self._group = ready, creator, group_kind, creator_ident, group_left
            if running:
                self._running = (start, run_ident, kind, delay, scheduler, span, outcome, added)
        return None

    def _enter(self, state: int, when: float, decoded: Decoded) -> None:
        """The loop's thread turns to something else."""
        passed = when - self.since
        if 0.0 < passed < LATEST:
            if self.state == _ACTIVE:
                decoded.active_s += passed
            elif self.state == State.IDLE:
                decoded.idle_s += passed
        self.state = state
        self.since = when

    def _forget_queue(self, length: float) -> None:
        """Nothing is known of the handles in the queue but how many there are."""
        self._queue.clear()
        if 0.0 < length < _MAX_QUEUE:
            self._queue.append((*_UNKNOWN[:4], length - 1.0))

    def _queue_due(self, base: float, timers: float, pending: float) -> float:
        """The poll's harvest enters the queue: descriptors' handles behind what is there, then timers."""
        put = self._queue.append
        moved = float(max(self._moved, 0))
        when = self.since
        if not 0.0 <= pending <= base:
            self._forget_queue(base)
        elif base > pending:
            # Put in by other threads during the poll; their stamps will say when.
            put((when, 0, THREADSAFE, 0.0, base - pending - 1.0))
        place = base
        for position in sorted(self._rare.writers):
            if place <= position < base + moved:
                if position > place:
                    put((when, 0, READER, 0.0, position - place - 1.0))
                put((when, 0, WRITER, 0.0, 0.0))
                place = position + 1.0
        if base + moved > place:
            put((when, 0, READER, 0.0, base + moved - place - 1.0))
        self._rare.writers.clear()
        due = self._timers
        if len(due) == timers:
            self._queue.extend((moment, setter, TIMER, 0.0, 0.0) for moment, setter in due)
        elif timers > 0.0:  # their records are lost: when they were due is unknown, not that they were timers
            put((when, 0, TIMER, 0.0, timers - 1.0))
        self._timers.clear()
        self._moved = 0
        return base + moved + timers
