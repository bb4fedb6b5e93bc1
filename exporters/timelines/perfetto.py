"""A record as a Perfetto trace (https://ui.perfetto.dev opens it): docs/exports.md says what it shows.

Each loop has a sequence of its own, with its handle runs, the steps of its tasks and its counters in the order of time.
What comes by another ring (workers, collections, memory), and what is known later (stacks), goes into one more
sequence, whose times stand for themselves. Trace processor sorts.
"""

from __future__ import annotations

from collections.abc import Sequence as Sequenced
from typing import BinaryIO, Final

from traceloop.reading.decoding.decoded import Decoded, NewTask
from traceloop.reading.decoding.runs import Run
from traceloop.reading.follower import Chunk, ProcessFollower
from traceloop.record.layout import SITE_LIMIT

from ..otlp.encoder import field, text_field, varint
from . import perfetto_packets as packets
from .earlier_runs import EarlierRuns
from .model import Source
from .offload_calls import OUTCOMES, OffloadCall, OffloadCalls
from .slow_runs import culprit_line, slow_runs, stack_text
from .timer_counts import TimerCounts

#: The sequence of everything that does not come in the order of time.
_APART: Final = 1
# Rows for tasks, of one loop: as many tasks as are there at once have one each.
_MAX_LANES: Final = 4096
# Heads of packets that are kept, one for each callback and each task.
_MAX_HEADS: Final = 100_000
_VARINTS: Final = packets.VARINTS
# Numbers of flows: those of runs have the loop's number above these bits, those of offloads the process's.
_RUN_BITS: Final = 40
_OFFLOADS: Final = 1 << 63
_WORKER: Final = "worker"
# The time of a packet that is as late as the one before it.
_NOW: Final = packets.number_field(8, 0)
_TASK_NUMBERS: Final = int(SITE_LIMIT)


def make(out: BinaryIO, source: Source) -> PerfettoTrace:
    """The writer of this format."""
    return PerfettoTrace(out)


class PerfettoTrace:
    """Writes the trace."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._processes: dict[ProcessFollower, _Process] = {}
        self._numbers = _Numbers()
        self._without_row = 0

    @property
    def notices(self) -> Sequenced[str]:
        """How many tasks have no row."""
        if not self._without_row:
            return ()
        return (f"{self._without_row:,} tasks have no row of their own: more than {_MAX_LANES:,} were there at once",)

    def take(self, chunks: Sequenced[Chunk]) -> None:
        """Writes what was read."""
        for chunk in chunks:
            follower = chunk.ring.process
            process = self._processes.get(follower)
            if process is None:
                process = self._processes[follower] = _Process(follower, chunk, self._numbers)
            self._out.write(process.take(chunk))

    def end_process(self, process: ProcessFollower) -> None:
        """Ends what is open."""
        known = self._processes.pop(process, None)
        if known is not None:
            self._out.write(known.end())
            self._without_row += known.without_row

    def finish(self) -> None:
        """Ends what is open."""
        for follower in list(self._processes):
            self.end_process(follower)


class _Numbers:
    """Numbers of tracks, sequences and processes, each used once a trace."""

    def __init__(self) -> None:
        self.track = self.sequence = _APART
        self.process = 0

    def new_track(self) -> int:
        self.track += 1
        return self.track

    def new_sequence(self) -> int:
        self.sequence += 1
        return self.sequence


class _Process:
    """One process: its track, its loops, its workers."""

    def __init__(self, follower: ProcessFollower, chunk: Chunk, numbers: _Numbers) -> None:
        self._follower = follower
        self._numbers = numbers
        numbers.process += 1
        self._offload_flows = _OFFLOADS | numbers.process << _RUN_BITS
        self.pid = follower.statistics.pid & 0x7FFFFFFF
        self.track = numbers.new_track()
        self._pieces: list[bytes] = []
        self._loops: dict[int, _Loop] = {}
        self._tracks: dict[tuple[str, object], int] = {}
        self.without_row = 0
        self.calls = OffloadCalls()
        self._timers = TimerCounts()
        command = str(follower.statistics.description.get("command", "")) or "python"
        self._pieces.append(packets.process_track(self.track, self.pid, command[:300]))
        created = follower.statistics.description.get("monotonic_ns")
        moment = created if isinstance(created, int) and 0 <= created < 1 << 62 else 0
        self._pieces.append(packets.clocks(moment, chunk.ring.reader.clock_offset_ns))

    def take(self, chunk: Chunk) -> bytes:
        """The packets of a chunk."""
        decoded, ring = chunk.decoded, chunk.ring.number
        self.calls.feed(decoded, ring)
        if chunk.ring.is_loop and (decoded.runs or decoded.closed):
            loop = self._loops.get(ring)
            if loop is None and decoded.runs:
                loop = self._loops[ring] = _Loop(self, chunk, decoded.runs[0][1], self._numbers)
            if loop is not None:
                self._pieces.append(loop.take(chunk))
                if decoded.closed:
                    del self._loops[ring]
                    self._pieces.append(loop.end())
                    self.without_row += loop.without_row
        self._apart(chunk)
        for call in self.calls.take():
            self._worker(call)
        return self._taken()

    def end(self) -> bytes:
        """The packets that end what is open."""
        for call in self.calls.take(final=True):
            if call.start:
                self._worker(call)
        for loop in self._loops.values():
            self._pieces.append(loop.end())
            self.without_row += loop.without_row
        self._loops.clear()
        return self._taken()

    def _taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    def label(self, ident: float) -> str:
        """The name of a callback."""
        return self._follower.statistics.sites.label_of(ident)

    def offload_flow(self, number: int) -> int:
        """The flow of an offload, from its submit to its delivery."""
        return self._offload_flows | number & (1 << _RUN_BITS) - 1

    def child(self, kind: str, key: object, name: str) -> int:
        """A track below the process, made when it is first asked for."""
        uuid = self._tracks.get((kind, key))
        if uuid is None:
            uuid = self._tracks[kind, key] = self._numbers.new_track()
            if kind == _WORKER:
                tid = key if isinstance(key, int) else 0
                self._pieces.append(packets.thread_track(uuid, self.track, self.pid, tid, name))
            elif kind == "counter":
                self._pieces.append(packets.counter_track(uuid, self.track, name))
            else:
                self._pieces.append(packets.track(uuid, self.track, name))
        return uuid

    def slice(self, uuid: int, name: str, start: float, end: float, more: bytes = b"") -> None:
        """A slice in the sequence apart; times that make no sense are left out."""
        if 0.0 <= start <= end < 2.0**33:
            begin, over = int(start * 1e9), int(end * 1e9)
            self._pieces.append(packets.event(_APART, begin, packets.BEGIN, uuid, name=name, more=more))
            self._pieces.append(packets.event(_APART, over, packets.END, uuid))

    def _count(self, name: str, when: float, value: int) -> None:
        track = self.child("counter", name, name)
        if 0.0 <= when < 2.0**33:
            more = packets.counter_value(value)
            self._pieces.append(packets.event(_APART, int(when * 1e9), packets.COUNTER, track, more=more))

    def _apart(self, chunk: Chunk) -> None:
        decoded = chunk.decoded
        for item in decoded.collections:
            track = self.child("track", "gc", "garbage collector")
            more = packets.number_annotation("collected", item.collected)
            if item.number > 1:
                more += packets.number_annotation("collections", item.number)
            name = f"generation {item.generation}"
            self.slice(track, name, item.start, item.start + item.duration, more)
        for when, blocks in decoded.memory:
            self._count("allocated blocks", when, blocks)
        for label, when, timers in self._timers.take(chunk):
            self._count(f"timers of {label}", when, timers)
        for run, info in slow_runs(chunk):
            loop = chunk.loop.label if chunk.loop is not None else ""
            track = self.child("slow", loop, f"slow callbacks of {loop}")
            more = packets.text_annotation("callback", info.callback) + packets.text_annotation("culprit", info.culprit)
            if info.parts.cause:
                guess = " (a guess)" if info.parts.guess else ""
                more += packets.text_annotation("cause", f"{info.parts.cause}{guess}")
            if info.bill is not None:
                more += packets.number_annotation("others that waited", info.bill.handles)
            for number, stack in enumerate(info.stacks, 1):
                if stack.frames:
                    more += packets.text_annotation(f"stack {number}", stack_text(stack, info.start))
            self.slice(track, culprit_line(info), run[1], run[2], more)

    def _worker(self, call: OffloadCall) -> None:
        if not call.start:
            return  # given up before it started
        name, tid = self.calls.workers.get(call.worker, ("worker", 0))
        executor = self.calls.executors.get(call.executor, "")
        track = self.child(_WORKER, tid or f"{executor} {call.worker}", name)
        more = packets.text_annotation("executor", executor) + packets.flow(self.offload_flow(call.number))
        if call.submit:
            more += packets.number_annotation("queued for us", round((call.start - call.submit) * 1e6))
        if call.finish and call.delivered:
            more += packets.number_annotation("delivered after us", round((call.delivered - call.finish) * 1e6))
        if call.outcome:
            more += packets.text_annotation("outcome", OUTCOMES.get(call.outcome, "unknown"))
        self.slice(track, self.label(call.ident), call.start, call.finish or call.start, more)


class _Lane:
    """A row for tasks of one coroutine. begin: the fields that begin an event in it; step: the packet that begins a
    step, at the time of the packet before; end: a packet that ends what is open in it, without its time.
    """

    __slots__ = ("begin", "end", "free_in", "step", "uuid")

    def __init__(self, uuid: int, begin: bytes, step: bytes, end: bytes, free_in: list[_Lane]) -> None:
        self.uuid = uuid
        self.begin = begin
        self.step = step
        self.end = end
        self.free_in = free_in


class _Loop:
    """One loop of a ring: its sequence."""

    def __init__(self, process: _Process, chunk: Chunk, start: float, numbers: _Numbers) -> None:
        self._process = process
        self._numbers = numbers
        self._sequence = packets.Sequence(numbers.new_sequence(), _ns(start))
        self._flows = self._sequence.number << _RUN_BITS
        self._earlier = EarlierRuns()
        label = chunk.loop.label if chunk.loop is not None else f"loop-{chunk.ring.number}"
        self.track = numbers.new_track()
        tid = chunk.thread_id & 0x7FFFFFFF
        self._tasks_track, self._ready_track = numbers.new_track(), numbers.new_track()
        self._lanes_track = numbers.new_track()
        self._defined = [
            packets.thread_track(self.track, process.track, process.pid, tid, label)
            if tid
            else packets.track(self.track, process.track, label),
            packets.counter_track(self._ready_track, process.track, f"ready queue of {label}"),
            packets.counter_track(self._tasks_track, process.track, f"tasks of {label}"),
            packets.track(self._lanes_track, process.track, f"tasks of {label} by coroutine"),
        ]
        #: What begins a run's slice, by ident: the fields of its TrackEvent.
        self._heads: dict[float, bytes] = {}
        self._lanes: dict[float, _Lane | None] = {}
        self._free: dict[str, list[_Lane]] = {}
        self._lane_count = 0
        self._iteration = -1
        self._shown = (-1, -1)
        self._end = self._rest(packets.END, self.track)
        self.without_row = 0
        self._new: dict[int, NewTask] = {}

    def _rest(self, kind: int, uuid: int, more: bytes = b"") -> bytes:
        """A packet without its length and its time."""
        inner = packets.number_field(9, kind) + packets.number_field(11, uuid) + more
        return self._sequence.tail + field(11, inner)

    def _event(self, kind: int, uuid: int, more: bytes = b"") -> bytes:
        """A packet at the time of the one before it."""
        return packets.packet(_NOW + self._rest(kind, uuid, more))

    def take(self, chunk: Chunk) -> bytes:
        """The packets of a chunk of its ring."""
        decoded, runs = chunk.decoded, list(chunk.decoded.runs)
        pieces: list[bytes] = self._defined
        self._defined = []
        if pieces or len(self._heads) > _MAX_HEADS:
            # The heads hold numbers of names: both begin anew.
            pieces.append(self._sequence.begin())
            self._heads.clear()
        if decoded.dropped:
            name = text_field(23, f"{decoded.dropped:,} records are missing here")
            pieces.append(self._event(packets.INSTANT, self.track, name))
        self._new = {task.first_run: task for task in decoded.tasks}
        outs = self._arrows(runs, decoded, pieces)
        self._runs(runs, outs, {each.number: each.callbacks for each in decoded.iterations}, pieces)
        for ident, _ in decoded.abandoned:
            self._end_task(ident, "abandoned", pieces)
        self._earlier.add(runs)
        return b"".join(pieces)

    def _arrows(self, runs: list[Run], decoded: Decoded, pieces: list[bytes]) -> list[bytes]:
        """The flows that leave each run, as fields; those from runs of earlier chunks are written apart."""
        outs = [b""] * len(runs)
        if not runs:
            return outs
        first, flows = runs[0][0], self._flows
        pack, tag = packets._fixed64, packets.FLOW
        for run in runs:
            scheduler = run[6]
            if scheduler >= first:
                outs[scheduler - first] += tag + pack(flows | run[0])
            elif scheduler:
                self._arrow_from_earlier(run, pieces)
        for step in decoded.offloads:
            # A run's submits and deliveries are in the record before its end.
            index = step.run - first
            if step.run and 0 <= index < len(runs):
                outs[index] += packets.flow(self._process.offload_flow(step.number))
        return outs

    def _arrow_from_earlier(self, run: Run, pieces: list[bytes]) -> None:
        """The packet of the run that scheduled it is written: an instant in its slice has the arrow."""
        start = self._earlier.start_of(run[6])
        if start >= 0.0:
            more = packets.flow(self._flows | run[0])
            at = _ns(start) + 1
            pieces.append(packets.event(_APART, at, packets.INSTANT, self.track, name="sets a timer", more=more))

    def _runs(self, runs: list[Run], outs: list[bytes], callbacks: dict[int, int], pieces: list[bytes]) -> None:
        """The slices of the runs: the loop's own, and the step of a task. As many as the loop has run handles."""
        extend = pieces.extend
        heads, lanes, flows = self._heads, self._lanes, self._flows
        pack, tag = packets._fixed64, packets.FLOW_END
        tail = self._sequence.tail
        end_of_run, end_now = self._end, packets.packet(_NOW + self._end)
        short, delays = _VARINTS, packets.DELAYS
        now = self._sequence.now_ns
        size = len(tail) + 3  # the tags of the packet's time and event, and the event's length
        for (number, start, end, ident, _, delay, scheduler, _, iteration, outcome), out in zip(
            runs, outs, strict=True
        ):
            if iteration != self._iteration:
                self._begin_iteration(iteration, callbacks.get(iteration, -1), pieces)
            head = heads.get(ident)
            if head is None:
                head = self._head(ident, pieces)
            if scheduler:
                head += tag + pack(flows | number)
            if delay >= 0.0:
                waited = int(delay * 1e6)
                value = short[waited] if waited < 16384 else varint(waited)
                head += delays[len(value)] + value
            head += out
            at = int(start * 1e9) if start > 0.0 else 0
            passed = at - now
            if passed < 0:
                passed = 0
                at = now
            time = short[passed] if passed < 16384 else varint(passed)
            length = len(head)
            if length < 100:
                extend((b"\x0a", short[size + len(time) + length], b"\x40", time, tail, b"\x5a", short[length], head))
            else:
                pieces.append(packets.packet(b"\x40" + time + tail + field(11, head)))
            until = int(end * 1e9) if end > start else at
            passed = until - at
            if passed < 0:
                passed = 0
                until = at
            now = until
            time = short[passed] if passed < 16384 else varint(passed)
            if ident >= SITE_LIMIT:
                lane = lanes.get(ident, ...)
                if lane is ...:
                    lane = self._begin_task(ident, number, pieces)
                if lane is not None:
                    # The step ends first, at the run's end; the run with it.
                    close = lane.end
                    extend((lane.step, b"\x0a", short[len(close) + len(time) + 1], b"\x40", time, close, end_now))
                    if outcome:
                        self._end_task(ident, OUTCOMES.get(outcome, "unknown"), pieces)
                    continue
                if outcome:
                    lanes.pop(ident, None)
            extend((b"\x0a", short[len(end_of_run) + len(time) + 1], b"\x40", time, end_of_run))
        self._sequence.now_ns = now

    def _begin_iteration(self, iteration: int, callbacks: int, pieces: list[bytes]) -> None:
        self._iteration = iteration
        shown = (callbacks, len(self._lanes))
        if shown != self._shown:
            if callbacks >= 0 and callbacks != self._shown[0]:
                value = packets.counter_value(callbacks)
                pieces.append(self._event(packets.COUNTER, self._ready_track, value))
            if shown[1] != self._shown[1]:
                pieces.append(self._event(packets.COUNTER, self._tasks_track, packets.counter_value(shown[1])))
            self._shown = shown

    def _head(self, ident: float, pieces: list[bytes]) -> bytes:
        name, packet = self._sequence.intern(self._process.label(ident))
        if packet:
            pieces.append(packet)
        inner = (packets.number_field(9, packets.BEGIN), packets.number_field(11, self.track))
        head = self._heads[ident] = b"".join((*inner, packets.number_field(10, name)))
        return head

    # -- tasks

    def _begin_task(self, ident: float, number: int, pieces: list[bytes]) -> _Lane | None:
        """The row of a task whose first step this is, as far as is known; None where there are no more rows."""
        coroutine = self._process.label(ident)
        free = self._free.setdefault(coroutine, [])
        if free:
            lane = free.pop()
        elif self._lane_count < _MAX_LANES:
            lane = self._new_lane(coroutine, free, pieces)
        else:
            self.without_row += 1
            self._lanes[ident] = None
            return None
        self._lanes[ident] = lane
        task = self._new.get(number)
        number_of_task = int(ident) // _TASK_NUMBERS
        name = task.name if task is not None and task.name else f"task {number_of_task}"
        more = lane.begin + text_field(23, name) + packets.number_annotation("task", number_of_task)
        if task is None:
            more += packets.text_annotation("began", "before this record")
        elif task.creator_ident:
            more += packets.text_annotation("made by", self._process.label(task.creator_ident))
        pieces.append(packets.packet(_NOW + self._sequence.tail + field(11, more)))
        return lane

    def _new_lane(self, coroutine: str, free: list[_Lane], pieces: list[bytes]) -> _Lane:
        self._lane_count += 1
        uuid = self._numbers.new_track()
        pieces.append(packets.track(uuid, self._lanes_track, coroutine))
        begin = packets.number_field(9, packets.BEGIN) + packets.number_field(11, uuid)
        step = self._event(packets.BEGIN, uuid, text_field(23, "step"))
        return _Lane(uuid, begin, step, self._rest(packets.END, uuid), free)

    def _end_task(self, ident: float, outcome: str, pieces: list[bytes]) -> None:
        lane = self._lanes.pop(ident, None)
        if lane is not None:
            more = packets.text_annotation("outcome", outcome) if outcome else b""
            pieces.append(packets.packet(_NOW + (self._rest(packets.END, lane.uuid, more) if more else lane.end)))
            lane.free_in.append(lane)

    def end(self) -> bytes:
        """The packets that end the tasks that are still there."""
        pieces: list[bytes] = []
        for ident in list(self._lanes):
            self._end_task(ident, "", pieces)
        return b"".join(pieces)


def _ns(when: float) -> int:
    return int(when * 1e9) if 0.0 < when < 2.0**33 else 0
