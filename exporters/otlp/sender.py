"""Sends spans to an OTLP/HTTP receiver: packs them, queues them within bounds, sends them in a thread of its own.

The reader of the rings never waits for this: past the queue's limit spans are dropped, and every drop is counted under
its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ..spans.model import Span
from ..spans.resource import SCOPE_NAME, own_version
from ..spans.sinks import REJECTED, BatchLimits, Exported, Queued, SenderThread, SentHook
from .connection import OtlpConnection
from .encoder import Data, encode_resource, encode_scope, encode_spans, end_of_fields, request_pieces
from .packing import MAX_PORTION_BYTES, Portion
from .settings import OtlpSettings

MAX_REQUEST_BYTES: Final = MAX_PORTION_BYTES
#: A third of a second of 250,000 spans a second. The collector with a full queue keeps below 60 MB.
MAX_QUEUE_BYTES: Final = 24 << 20


class _Packed(NamedTuple):
    """Packed spans of one process, and its packed resource."""

    resource: bytes
    data: Data


class OtlpSender:
    """Takes spans from one thread, sends them in a thread of its own."""

    def __init__(self, settings: OtlpSettings, notice: Callable[[str], None]) -> None:
        """``notice`` says one line to the user: failures, when they begin and when they are over. Raises ImportError
        where ``requests`` is not installed.
        """
        self.settings = settings
        self.exported = Exported()
        self._scope = encode_scope(SCOPE_NAME, own_version())
        self._resources: dict[object, bytes] = {}
        self._connection = OtlpConnection(settings, "spans", notice)
        limits = BatchLimits(
            settings.max_request_spans,
            settings.schedule_delay,
            queue_spans=settings.max_queue_spans,
            batch_bytes=MAX_REQUEST_BYTES,
            queue_bytes=MAX_QUEUE_BYTES,
        )
        self._thread: SenderThread[_Packed] = SenderThread("otlp", limits, self.exported, self._send, notice)

    def put(
        self,
        process: object,
        resource: Mapping[str, Any],
        spans: Sequence[Span],
        on_sent: SentHook | None = None,
    ) -> None:
        """Packs and queues the spans of one process; never waits. ``process``: a key for its resource."""
        packed_resource = self._resource(process, resource)
        step = self.settings.max_request_spans
        for start in range(0, len(spans), step):
            self._put_part(packed_resource, spans[start : start + step] if len(spans) > step else spans, on_sent)

    def _put_part(self, resource: bytes, part: Sequence[Span], on_sent: SentHook | None) -> None:
        room = self._thread.room(len(part))
        if room < len(part):
            part = part[:room]
        if not part:
            return
        data = encode_spans(part)
        if len(data) > MAX_REQUEST_BYTES and len(part) > 1:
            middle = len(part) // 2
            self._put_part(resource, part[:middle], on_sent)
            self._put_part(resource, part[middle:], on_sent)
            return
        self._enqueue(resource, data, len(part), on_sent(part) if on_sent else None)

    def put_packed(
        self,
        process: object,
        resource: Mapping[str, Any],
        portions: Sequence[Portion],
        sent: Callable[[], None] | None = None,
        refused: int = 0,
    ) -> None:
        """The same for spans that are packed. ``sent``: called when the last of them have arrived, and not where some
        were dropped here. ``refused``: how many more there were, which ``room_bytes`` left no place for.
        """
        if refused:
            self._thread.refuse(refused)
            sent = None
        packed_resource = self._resource(process, resource)
        last = len(portions) - 1
        for index, (data, spans) in enumerate(portions):
            room = self._thread.room(spans)
            if room < spans:
                data, spans, sent = data[: end_of_fields(data, room)], room, None
            if spans:
                self._enqueue(packed_resource, data, spans, sent if index == last else None)

    @property
    def room_bytes(self) -> int:
        """So many bytes of packed spans the queue takes before it drops any; 0 or less: none."""
        return self._thread.room_bytes

    def _enqueue(self, resource: bytes, data: Data, spans: int, sent: Callable[[], None] | None) -> None:
        self._thread.put(Queued(_Packed(resource, data), spans, len(data), sent))

    def _resource(self, process: object, resource: Mapping[str, Any]) -> bytes:
        packed = self._resources.get(process)
        if packed is None:
            packed = self._resources[process] = encode_resource(resource)
        return packed

    def forget(self, process: object) -> None:
        """The process is over: its resource is needed no more."""
        self._resources.pop(process, None)

    def flush(self, timeout: float) -> bool:
        """Sends what is queued now; waits at most ``timeout`` s, and not at all for a receiver that is failing."""
        return self._thread.flush(timeout)

    def shutdown(self, timeout: float) -> None:
        """Sends what it can within ``timeout`` s; the rest is dropped and counted."""
        self._thread.shutdown(timeout)
        if self._thread.is_over:  # else a request is still under way
            self._connection.close()

    def _send(self, batch: list[Queued[_Packed]]) -> tuple[int, str]:
        grouped: dict[bytes, list[Data]] = {}
        for item in batch:
            grouped.setdefault(item.payload.resource, []).append(item.payload.data)
        pieces = request_pieces((resource, self._scope, spans) for resource, spans in grouped.items())
        outcome = self._connection.send(pieces, self._thread)
        if outcome.reason:
            return 0, outcome.reason
        count = sum(item.spans for item in batch)
        return count - min(outcome.rejected, count), REJECTED
