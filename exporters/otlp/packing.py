"""From decoded runs straight to the bytes of their spans, for OTLP: no object and no tuple stands between them.

``PackingBuilder`` makes the spans that its base ``SpanBuilder`` would make, with the same ids; a test compares them.
What is frequent (a run that is not slow, an iteration) it packs itself, what is rare it leaves to its base and to
encoder.py.
What makes it fast:

* One ``struct.pack`` a span, of doubles and of bytes that were made before: ids are doubles (see spans/ids.py), and so
  are times. A double between 2**p and 2**(p+1) has the bits ``exponent << 52 | (x - 2**p) * 2**(52 - p)``, so a
  time of ``ns`` nanoseconds since the epoch has the bits of a double that is a linear function of the monotonic clock:
  one multiplication and one addition, where ``int(start * 1e9) + offset`` and its packing take five times as long.
* The runs of an iteration share their first field, runs of one callback all that does not change.

Where runs come in the rows of the reader's extension, ``native/`` packs them, into the same bytes. This module then has
what is rare: a callback's first span, slow runs, what an application's span puts before a span.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ldexp
from struct import Struct
from typing import Any, Final, NamedTuple

from traceloop.reading.decoding.choose import extension
from traceloop.reading.decoding.decoded import KINDS, Decoded
from traceloop.reading.decoding.runs import Iteration, Iterations, Run, RunRows, Runs
from traceloop.record.sites import site_of

from ..spans.builder import RUN_MEMORY, SpanBuilder
from ..spans.ids import STRIDE, SpanIds, pack_id
from ..spans.model import ITERATION, Extra, Kind, SiteOf, Span
from ..spans.sampling import Sampling
from .encoder import (
    DELAY,
    FLAGS,
    FLAGS_OF_REMOTE,
    LINK,
    PARENT,
    SPAN_ID,
    TRACE,
    Data,
    attributes_field,
    common_fields,
    field,
    text_field,
)
from .packed_kinds import PackedKind

_START: Final = bytes((7 << 3 | 1,))
_END: Final = bytes((8 << 3 | 1,))
#: Of a batch's spans, how many are offered as exemplars, beside the longest and the latest.
_PICKED: Final = 8

_MAX_PATTERNS: Final = 4096
_FLAGS_AND_TAG: Final = FLAGS + SPAN_ID
#: A portion is at most so large, unless it is one span.
MAX_PORTION_BYTES: Final = 2 << 20
MAX_PORTION_SPANS: Final = 8192
_NO_BOUND: Final = 1 << 62


#: Spans as fields of ``ScopeSpans``, one behind the other, and how many they are.
Portion = tuple[Data, int]


class PackedSpans(NamedTuple):
    """Spans in portions of limited size. ``offered``: those of them that may become exemplars. ``refused``: how many
    more there were, that no queue had room for.
    """

    portions: list[Portion]
    offered: list[Span]
    refused: int = 0


_ITERATION_COMMON: Final = common_fields(ITERATION)
_POLL: Final = attributes_field(9, {"asyncio.poll.duration": 0.0})[:-8]
_POLL_DELAY: Final = attributes_field(9, {"asyncio.poll.delay": 0.0})[:-8]
_CALLBACKS_KEY: Final = text_field(1, "asyncio.iteration.callbacks")
_HEAD: Final = len(TRACE) + 16 + len(FLAGS) + len(SPAN_ID)
_pack_iteration: Final = Struct(f"<{_HEAD}s8scdcd{len(_POLL)}sd").pack
_CALLBACKS: Final[dict[int, bytes]] = {}


def _callbacks_field(callbacks: int) -> bytes:
    made = _CALLBACKS.get(callbacks)
    if made is None:
        made = _ITERATION_COMMON + attributes_field(9, {"asyncio.iteration.callbacks": callbacks})
        if len(_CALLBACKS) < 10_000:
            _CALLBACKS[callbacks] = made
    return made


def native_packer() -> Any:
    """The extension that packs what the reader's extension has read; None for plain Python."""
    return extension("traceloop.exporters.otlp._packer")


class PackingBuilder(SpanBuilder):
    """Makes the spans of one loop's ring as bytes: those that ``build`` does not return are in ``take_packed``."""

    def __init__(
        self,
        site: SiteOf,
        sampling: Sampling,
        clock_offset_ns: int,
        *,
        ids: SpanIds | None = None,
        max_portion_spans: int = MAX_PORTION_SPANS,
        native: Any = None,
        room: Callable[[], int] = lambda: _NO_BOUND,
    ) -> None:
        """``native``: the extension, where it shall pack what comes in its reader's rows. ``room``: bytes that the
        emptiest queue still takes; the extension does not keep what it packs beyond them.
        """
        super().__init__(site, sampling, clock_offset_ns, ids=ids)
        self._max_portion_spans = max_portion_spans
        self._room = room
        self._refused = 0
        self._portions: list[Portion] = []
        self._pieces: list[bytes] = []
        self._offered: list[Span] = []
        # The line from the monotonic clock to doubles whose bits are the time; 0, 0: none.
        self._scale = self._origin = 0.0
        self._patterns: dict[tuple[int, str, int, str], PackedKind] = {}
        # Its trace, its id, its start and end.
        self._longest_iteration: tuple[bytes, bytes, float, float] | None = None
        self._packer: Any = None
        self._out: list[Span] = []
        if native is not None:
            self._packer = self._make_packer(native)

    def _make_packer(self, native: Any) -> Any:
        traces = self._traces = native.Traces()
        ids, bound = self.ids, self.sampling.bound
        return native.Packer(
            traces,
            KINDS,
            (DELAY, LINK, _POLL, _POLL_DELAY, _ITERATION_COMMON, _CALLBACKS_KEY),
            (ids.run_base, ids.run_unit),
            (ids.iteration_base, ids.iteration_unit),
            (ids.prefix, ids.trace_first, ids.trace_span, STRIDE),
            (bound >> 64 == 1, bound & 0xFFFF_FFFF_FFFF_FFFF),
            self._max_portion_spans,
        )

    def take_packed(self) -> PackedSpans | None:
        """What was packed since the last call, None where it is nothing."""
        portions, self._portions = self._portions, []
        self._pieces_to_portions(portions)
        refused, self._refused = self._refused, 0
        if not portions and not refused:
            return None
        if self._longest_iteration is not None:
            trace, span_id, start, end = self._longest_iteration
            times = self._ns(start), self._ns(end)
            self._offered.append((ITERATION, trace, span_id, b"", *times, -1.0, b"", b"", Extra()))
        packed = PackedSpans(portions, self._offered, refused)
        self._offered, self._longest_iteration = [], None
        return packed

    def _pieces_to_portions(self, portions: list[Portion]) -> None:
        """Joins what Python has packed, in order."""
        pieces, self._pieces = self._pieces, []
        step = self._max_portion_spans
        waiting = [pieces[start : start + step] for start in range(0, len(pieces), step)][::-1]
        while waiting:
            part = waiting.pop()
            data = b"".join(part)
            if len(data) > MAX_PORTION_BYTES and len(part) > 1:
                middle = len(part) // 2
                waiting += (part[middle:], part[:middle])
            else:
                portions.append((data, len(part)))

    def _kind(self, ident: float, kind: str, task_name: str | None = None) -> Kind:
        # Tasks of one coroutine have all but their names in common.
        key = (site_of(ident), kind, self.thread_id, self._thread_name)
        pattern = self._patterns.get(key)
        if pattern is None:
            pattern = PackedKind(super()._kind(ident, kind))
            if self.site(key[0]).module:  # else it is not written down yet
                if len(self._patterns) >= _MAX_PATTERNS:
                    self._patterns.clear()
                self._patterns[key] = pattern
        made = pattern if task_name is None else pattern.named(task_name)
        kinds = self._kinds.setdefault(kind, {})
        if len(kinds) >= 2 * RUN_MEMORY:  # tasks whose ends were lost
            kinds.clear()
        kinds[ident] = made
        return made

    def _align(self, first: float, last: float) -> bool:
        """Finds the line for runs from ``first`` to ``last`` (monotonic s); False where they need two of them, which is
        so for a moment every 52 days, and where their times make no sense.
        """
        self._scale = 0.0
        if not 0.0 <= first <= last < 1e9:
            return False
        # An iteration may begin a little before its first run.
        exponent = (int((first - 60.0) * 1e9) + self.clock_offset_ns) >> 52
        if exponent != (int(last * 1e9) + self.clock_offset_ns + 1) >> 52 or not 0 < exponent < 0x7FF:
            return False
        unit = ldexp(1.0, exponent - 1075)
        self._scale = 1e9 * unit
        self._origin = ldexp(1.0, exponent - 1023) + (self.clock_offset_ns - (exponent << 52)) * unit
        return True

    # -- in C

    def _build_decoded(self, decoded: Decoded, out: list[Span]) -> None:
        runs = decoded.runs
        if self._packer is None or isinstance(runs, RunRows) or not self._take_rows(runs, decoded.iterations, out):
            super()._build_decoded(decoded, out)

    def _take_rows(self, runs: Runs, iterations: Iterations, out: list[Span]) -> bool:
        """Packs rows of the reader's extension; False where these are to be packed run by run."""
        held, length = self._held, len(runs)
        if held is None and not length:
            return False  # at most the end of an iteration
        begin = held or runs[0]
        last = runs[length - 1] if length else begin
        first = runs[0][0] if length else begin[0] + 1
        if (held is not None and held[0] != first - 1) or not self._align(begin[1], last[2]):
            return False
        # What was packed in Python comes first.
        self._pieces_to_portions(self._portions)
        self._held = None
        self._out = out
        state = self._iteration, self._trace, self._parent, self._kept, self._first_start, self._last_end, self._runs
        portions, refused, state, holds, longest, latest, longest_iteration = self._packer.pack(
            self, runs, iterations, first, held, state, self._kinds, self._active, self._scale, self._origin,
            self._lowest, self._room(),
        )  # fmt: skip
        (
            self._iteration, self._trace, self._parent, self._kept, self._first_start, self._last_end, self._runs
        ) = state  # fmt: skip
        self._portions += portions
        self._refused += refused
        if holds:
            self._held = last
        self._last_run = last[0] - holds
        if longest_iteration is not None:
            self._note_iteration(*longest_iteration)
        picked = [runs[index] for index in range(0, length, max(1, length // _PICKED))]
        self._offer(picked + [runs[number - first] for number in (longest, latest) if number >= first])
        return True

    def _take_slow_run(self, run: Run, trace: bytes, parent: bytes) -> None:
        """The span of a slow run, which waits for what is still to be learnt. ``trace`` and ``parent`` are those of its
        iteration.
        """
        kind = self._kinds.get(run[4], {}).get(run[3]) or self._kind(run[3], run[4])
        self._trace, self._parent = trace, parent
        span = self._special(run, kind, self._contexts.get(run[7]), True)
        assert span is not None
        self._traces[run[0] % RUN_MEMORY] = span[1]
        self._slow.append((run, span))

    def _end_lost_iteration(
        self, number: int, trace: bytes, parent: bytes, first_start: float, last_end: float, runs: int
    ) -> None:
        """The span of an iteration whose end was lost."""
        self._iteration, self._trace, self._parent = number, trace, parent
        self._first_start, self._last_end, self._runs = first_start, last_end, runs
        super()._end_iteration({}, self._out)

    # -- in Python

    def _build_runs(self, runs: Sequence[Run], ended: dict[int, Iteration], out: list[Span]) -> None:
        """As its base does; ``out`` gets what is rare."""
        # Where records are missing, so may be numbers: here a run is found by its number.
        if runs and runs[-1][0] - runs[0][0] == len(runs) - 1 and self._align(runs[0][1], runs[-1][2]):
            self._pack_runs(runs, ended, out)
        else:
            super()._build_runs(runs, ended, out)

    def _pack_runs(self, runs: Sequence[Run], ended: dict[int, Iteration], out: list[Span]) -> None:
        """The twin of ``native/packer.c``."""
        append = self._pieces.append
        scale, origin = self._scale, self._origin
        traces, memory = self._traces, RUN_MEMORY - 1
        ids = self.ids
        base, unit = ids.run_base, ids.run_unit
        trace_step, trace_turn = ids.trace_step, ids.trace_end - ids.trace_step
        trace_back = trace_step - ids.trace_span
        keeps, keep_all = self.sampling.keeps, self.sampling.bound >> 64 == 1
        lowest = self._lowest
        # The longest run of the batch is found by the comparison that finds slow ones.
        longest_s = bound = min(lowest, 0.0)
        longest, latest, latest_delay = 0, 0, -1.0
        heads: dict[int, tuple[bytes, bytes]] = {}
        id_tag, start_tag, end_tag, delay_field, link_field = SPAN_ID, _START, _END, DELAY, LINK
        iteration_now, trace, parent, kept = self._iteration, self._trace, self._parent, self._kept
        head = _head(trace, parent) if kept else b""
        trace_value = ids.trace_value(iteration_now)
        first_number, last_number = runs[0][0], runs[-1][0]
        # Of what scheduled a run longer ago, it is no longer known whether it was sent.
        horizon = max(0, last_number - memory)
        iteration_first, first_start = first_number - self._runs, self._first_start
        span_id = base + (first_number - 1) * unit
        ident_now, kind_now, head_now, size_now = 0.0, "", b"", 0
        kind: Any = None
        end, previous_end, end_value = self._last_end, -1.0, 0.0
        for number, start, run_end, ident, kind_name, delay, scheduler, context_number, iteration, _ in runs:
            span_id += unit
            if iteration != iteration_now:
                if parent:
                    self._iteration, self._trace, self._parent = iteration_now, trace, parent
                    self._first_start, self._last_end, self._runs = first_start, end, number - iteration_first
                    self._end_iteration(ended, out)
                has_span = self._has_span(iteration, number - first_number + 1, runs, ended)
                if has_span is None:
                    self._hold(runs[-1])
                    break
                if iteration == iteration_now + 1:
                    # What ``trace_value`` says, and exact: no sum leaves the exponent.
                    trace_value += trace_step if trace_value < trace_turn else trace_back
                else:
                    trace_value = ids.trace_value(iteration)
                iteration_now = iteration
                trace = ids.prefix + pack_id(trace_value)
                kept = keep_all or keeps(trace)
                if has_span and kept:
                    parent = ids.iteration(iteration)
                    head = _head(trace, parent)
                else:
                    parent = b""
                    head = TRACE + trace + _FLAGS_AND_TAG
                # Below 0 every run is looked at.
                bound = longest_s if kept else -1.0
                first_start = start
                iteration_first = number
            end = run_end
            if ident != ident_now or kind_name is not kind_now:
                ident_now, kind_now = ident, kind_name
                kinds = self._kinds.get(kind_name)
                kind = kinds.get(ident) if kinds is not None else None
                if kind is None:
                    kind = self._kind(ident, kind_name)
                size_now = 0
            own_head, own_trace = head, trace
            if end - start >= bound or context_number:
                if end - start >= lowest and number in self._active:
                    self._take_slow_run(runs[number - first_number], trace, parent)
                    previous_end = -1.0
                    continue
                own_kept = kept
                if context_number:
                    found = heads.get(context_number)
                    if found is None:
                        found = heads[context_number] = self._context_head(context_number)
                    if found[1]:
                        own_head, own_trace = found
                        own_kept = True
                    elif found[0]:
                        own_kept = False
                if not own_kept:
                    traces[number & memory] = b""
                    previous_end = -1.0
                    continue
                if longest_s <= end - start < lowest:
                    longest_s, longest = end - start, number
                    bound = longest_s if kept else -1.0
            if own_head is not head_now:
                head_now = own_head
                if len(own_head) != size_now:
                    size_now = 0
            if not size_now:
                size_now = len(own_head)
                pack_plain, first_plain, pack_linked, first_linked = kind.shapes.get(size_now) or kind.shape(size_now)
            start_value = end_value if start == previous_end else start * scale + origin
            previous_end = end
            end_value = end * scale + origin
            traces[number & memory] = own_trace
            link_trace = traces[scheduler & memory] if scheduler > horizon else b""
            if delay < 0.0:  # not known, after a gap
                link = LINK + link_trace + SPAN_ID + ids.run(scheduler) if link_trace else b""
                append(_without_delay(own_head, span_id, start_value, end_value, link, kind))
                continue
            if delay > latest_delay:
                latest_delay, latest = delay, number
            if link_trace:
                append(pack_linked(
                    first_linked, own_head, span_id, start_tag, start_value, end_tag, end_value, delay_field, delay,
                    link_field, link_trace, id_tag, base + scheduler * unit,
                ))  # fmt: skip
            else:
                append(pack_plain(
                    first_plain, own_head, span_id, start_tag, start_value, end_tag, end_value, delay_field, delay
                ))  # fmt: skip
        else:
            self._iteration, self._trace, self._parent, self._kept = iteration_now, trace, parent, kept
            self._first_start, self._last_end, self._runs = first_start, end, last_number - iteration_first + 1
            if parent and iteration_now in ended:
                self._end_iteration(ended, out)
        self._offer([*runs[:: max(1, len(runs) // _PICKED)], *(runs[n - first_number] for n in (longest, latest) if n)])

    @staticmethod
    def _has_span(iteration: int, following: int, runs: Sequence[Run], ended: dict[int, Iteration]) -> bool | None:
        """Whether the iteration has more than one run; None where that is not known yet. ``following``: the index of
        the run after its first.
        """
        known = ended.get(iteration)
        if known is not None:
            return known[3] > 1
        return runs[following][8] == iteration if following < len(runs) else None

    def _hold(self, run: Run) -> None:
        """Whether it is the only one of its iteration will be seen: it is asked for again."""
        self._held = run
        self._iteration, self._trace, self._parent, self._kept, self._runs = -1, b"", b"", False, 0

    def _context_head(self, number: int) -> tuple[bytes, bytes]:
        """What spans under an application's span begin with, and their trace. The trace is empty where there are none:
        with something before it since they are not to be sent, with nothing since the context is not known.
        """
        context = self._contexts.get(number)
        if context is None:
            return b"", b""
        if not (context.sampled and context.kept):
            return b"-", b""
        extra = context.extra
        flags, state = (FLAGS, "") if extra is None else (
            FLAGS_OF_REMOTE if extra.remote_parent else FLAGS, extra.trace_state
        )  # fmt: skip
        state_field = text_field(3, state) if state else b""
        head = TRACE + context.trace_id + flags + PARENT + context.span_id + state_field + SPAN_ID
        return head, context.trace_id

    def _end_iteration(self, ended: dict[int, Iteration], out: list[Span]) -> None:
        known = ended.get(self._iteration)
        parent = self._parent
        if not parent or known is None or not self._scale:
            super()._end_iteration(ended, out)
            return
        self._parent = b""
        _, start, end, callbacks, poll_duration, poll_delay = known
        if self._last_end > end:
            end = self._last_end
        scale, origin = self._scale, self._origin
        data = _pack_iteration(
            TRACE + self._trace + _FLAGS_AND_TAG, parent, _START, start * scale + origin, _END, end * scale + origin,
            _POLL, poll_duration,
        ) + _callbacks_field(callbacks)  # fmt: skip
        if poll_delay >= 0.0:
            data += _POLL_DELAY + pack_id(poll_delay)
        self._pieces.append(field(2, data))
        self._note_iteration(self._trace, parent, start, end)

    def _note_iteration(self, trace: bytes, span_id: bytes, start: float, end: float) -> None:
        """The span of an iteration. The longest one is offered as an exemplar."""
        longest = self._longest_iteration
        if longest is None or end - start > longest[3] - longest[2]:
            self._longest_iteration = trace, span_id, start, end

    def _offer(self, runs: Sequence[Run]) -> None:
        """Those of the runs that were packed, as exemplars."""
        for run in runs:
            number, start, end, ident, kind_name, delay, _, _, _, _ = run
            if run == self._held or end - start >= self._lowest:
                continue
            trace = self._traces[number % RUN_MEMORY]
            kind = self._kinds.get(kind_name, {}).get(ident)
            if trace and kind is not None:
                span_id, ends = self.ids.run(number), (self._ns(start), self._ns(end))
                self._offered.append((kind, trace, span_id, b"", *ends, delay, b"", b"", None))


def _without_delay(
    head: bytes, span_id: float, start_value: float, end_value: float, link: bytes, kind: PackedKind
) -> bytes:
    times = _START + pack_id(start_value) + _END + pack_id(end_value)
    return field(2, head + pack_id(span_id) + times + link + kind.common)


def _head(trace: bytes, parent: bytes) -> bytes:
    return TRACE + trace + FLAGS + PARENT + parent + SPAN_ID if parent else TRACE + trace + _FLAGS_AND_TAG
