"""Packs the packets of a Perfetto trace: the few messages that a timeline needs, field by field.

The fields are those of perfetto's ``protos/perfetto/trace/trace_packet.proto`` and ``track_event/*.proto``; the tests
decode with the classes published for them. What makes a trace small:

* a packet's time is the difference to the packet before it in its *sequence*, by an incremental clock that each
  sequence defines for itself (``clock_snapshot.proto``). So a sequence's packets are written in the order of time;
* names are interned: written once a sequence, a number afterwards.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from ..otlp.encoder import field, text_field, varint

#: TrackEvent.type
BEGIN: Final = 1
END: Final = 2
INSTANT: Final = 3
COUNTER: Final = 4

# Clocks: built-in ones, and the first of those that a sequence may define.
_REALTIME: Final = 1
_BOOTTIME: Final = 6
_OWN_CLOCK: Final = 64

_fixed64 = Struct("<Q").pack
_double = Struct("<d").pack
#: Tags of TrackEvent.flow_ids (47) and terminating_flow_ids (48), both fixed64.
FLOW: Final = varint(47 << 3 | 1)
FLOW_END: Final = varint(48 << 3 | 1)

#: Differences of times up to 16 us, which most are.
VARINTS: Final = [varint(value) for value in range(16384)]


def number_field(number: int, value: int) -> bytes:
    """A varint field."""
    return varint(number << 3) + varint(value)


# The number of the one annotation that is interned, of a sequence; an annotation up to its value.
_DELAY_NAME: Final = 1
_DELAY: Final = number_field(1, _DELAY_NAME) + varint(3 << 3)
DELAYS: Final = tuple(varint(4 << 3 | 2) + bytes((len(_DELAY) + size,)) + _DELAY for size in range(11))


def flow(identity: int) -> bytes:
    """A flow that goes through this slice."""
    return FLOW + _fixed64(identity)


def flow_end(identity: int) -> bytes:
    """A flow that ends at this slice."""
    return FLOW_END + _fixed64(identity)


def packet(content: bytes) -> bytes:
    """A TracePacket as the trace has it."""
    return field(1, content)


def clocks(monotonic_ns: int, offset_ns: int) -> bytes:
    """Which wall clock time a time of this trace is. Its times are monotonic; Perfetto's own clock is BOOTTIME."""
    pair = ((_BOOTTIME, monotonic_ns), (_REALTIME, monotonic_ns + offset_ns))
    snapshot = b"".join(field(1, number_field(1, clock) + number_field(2, max(0, ns))) for clock, ns in pair)
    return packet(field(6, snapshot) + number_field(10, 1))


def process_track(uuid: int, pid: int, name: str) -> bytes:
    """The descriptor of a process."""
    descriptor = number_field(1, uuid) + field(3, number_field(1, pid) + text_field(6, name))
    return packet(field(60, descriptor) + number_field(10, 1))


def thread_track(uuid: int, parent: int, pid: int, tid: int, name: str) -> bytes:
    """The descriptor of a thread."""
    thread = number_field(1, pid) + number_field(2, tid) + text_field(5, name)
    return packet(field(60, number_field(1, uuid) + number_field(5, parent) + field(4, thread)) + number_field(10, 1))


def track(uuid: int, parent: int, name: str) -> bytes:
    """The descriptor of any other track."""
    descriptor = number_field(1, uuid) + number_field(5, parent) + text_field(2, name)
    return packet(field(60, descriptor) + number_field(10, 1))


def counter_track(uuid: int, parent: int, name: str) -> bytes:
    """The descriptor of a counter."""
    descriptor = number_field(1, uuid) + number_field(5, parent) + text_field(2, name) + field(8, b"")
    return packet(field(60, descriptor) + number_field(10, 1))


def text_annotation(name: str, value: str) -> bytes:
    """A DebugAnnotation with its name written out."""
    return field(4, text_field(10, name) + text_field(6, value))


def number_annotation(name: str, value: float) -> bytes:
    """The same of a number; integers stay integers."""
    if isinstance(value, int):
        return field(4, text_field(10, name) + number_field(4, value))
    return field(4, text_field(10, name) + b"\x29" + _double(value))


def event(sequence: int, when_ns: int, kind: int, uuid: int, *, name: str = "", more: bytes = b"") -> bytes:
    """One event with everything written out, in a sequence without a clock of its own. ``more``: further fields."""
    inner = number_field(9, kind) + number_field(11, uuid) + (text_field(23, name) if name else b"") + more
    return packet(number_field(8, max(0, when_ns)) + number_field(10, sequence) + field(11, inner))


def counter_value(value: int) -> bytes:
    """TrackEvent.counter_value."""
    return number_field(30, value)


class Sequence:
    """A sequence with a clock of its own, whose events are written in the order of time.

    ``now_ns``: the time of the packet written last.
    """

    def __init__(self, number: int, start_ns: int) -> None:
        self.number = number
        self.now_ns = start_ns
        self._names: dict[str, int] = {}
        self._next = 1
        #: What every packet ends with but its event: the sequence, and that it needs what was interned.
        self.tail = number_field(10, number) + number_field(13, 2)

    def begin(self) -> bytes:
        """The packet that defines the clock; the first of the sequence, or one after which everything begins anew."""
        self._names.clear()
        self._next = 1
        own = number_field(1, _OWN_CLOCK) + number_field(2, 0) + number_field(3, 1)
        snapshot = field(1, own) + field(1, number_field(1, _BOOTTIME) + number_field(2, max(0, self.now_ns)))
        defaults = field(59, number_field(58, _OWN_CLOCK))
        interned = field(12, field(3, number_field(1, _DELAY_NAME) + text_field(2, "schedule delay, us")))
        # Trace processor takes a packet's clock before its defaults: so they come in two packets.
        first = packet(field(6, snapshot) + number_field(10, self.number) + number_field(13, 1) + defaults)
        return first + packet(interned + self.tail)

    def intern(self, name: str) -> tuple[int, bytes]:
        """The number of an event's name, and the packet that has to be written before it is used; b"" if it was."""
        number = self._names.get(name)
        if number is not None:
            return number, b""
        number = self._names[name] = self._next
        self._next += 1
        interned = field(2, number_field(1, number) + text_field(2, name))
        return number, packet(field(12, interned) + self.tail)
