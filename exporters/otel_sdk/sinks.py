"""Any other exporter: spans as the SDK's objects, through its ``SpanExporter`` interface.

25 to 45 us a span, against less than 1 us for otlp_encoder.py: for consoles, Zipkin, gRPC and what users have written.
The exporters are found as the SDK finds them, by the entry points ``opentelemetry_traces_exporter``. OpenTelemetry is
imported here and nowhere else in the collector, when such an exporter was asked for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from traceloop.settings import Settings

from ..otlp.sender import QUEUE_FULL, REJECTED, SHUTDOWN, Exported, SentHook
from ..spans.builder import Span
from ..spans.resource import SCOPE_NAME, own_version

DEFAULT_QUEUE_SPANS: Final = 65536
DEFAULT_BATCH_SPANS: Final = 512
DEFAULT_DELAY_SECONDS: Final = 1.0
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope(SCOPE_NAME, own_version())
_UNSET: Final = Status(StatusCode.UNSET)


def readable_span(span: Span, resource: Resource) -> ReadableSpan:
    """The SDK's object for a span."""
    kind, trace_id, span_id, parent, start, end, delay, link_trace, link_id, extra = span
    state = TraceState()
    if extra is not None and extra.trace_state:
        state = TraceState.from_header([extra.trace_state])
    trace = int.from_bytes(trace_id, "big")
    links = []
    attributes = dict(kind.attributes)
    if delay >= 0.0:
        attributes["asyncio.schedule.delay"] = delay
    if link_trace:
        links.append(_link(link_trace, link_id))
    events: list[Event] = []
    if extra is not None:
        attributes.update(extra.attributes)
        links += [_link(link.trace_id, link.span_id) for link in extra.links]
        events = [Event(event.name, event.attributes, event.time_ns) for event in extra.events]
    parent_context = None
    if parent:
        remote = extra is not None and extra.remote_parent
        parent_context = SpanContext(trace, int.from_bytes(parent, "big"), remote, _SAMPLED, state)
    return ReadableSpan(
        name=kind.name,
        context=SpanContext(trace, int.from_bytes(span_id, "big"), False, _SAMPLED, state),
        parent=parent_context,
        resource=resource,
        attributes=_bounded_attributes(attributes, kind.dropped_attributes),
        events=_bounded(events, extra.dropped_events) if extra is not None else events,
        links=_bounded(links, extra.dropped_links) if extra is not None else links,
        kind=SpanKind.INTERNAL,
        instrumentation_scope=_SCOPE,
        status=_UNSET,
        start_time=start,
        end_time=end,
    )


def _bounded(items: list[Any], dropped: int) -> Any:
    """The list with the SDK's note of how many are missing from it."""
    if not dropped:
        return items
    made = BoundedList.from_seq(len(items), items)
    made.dropped = dropped
    return made


def _bounded_attributes(attributes: dict[str, Any], dropped: int) -> Any:
    if not dropped:
        return attributes
    made = BoundedAttributes(len(attributes), attributes)
    made.dropped = dropped
    return made


def _link(trace_id: bytes, span_id: bytes) -> Link:
    return Link(SpanContext(int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big"), False, _SAMPLED))


def load_exporter(name: str, protocol: str, endpoint: str | None) -> Any:
    """The exporter of that name. Raises LookupError where nobody offers one."""
    if name == "otlp" and protocol == "grpc":
        name = "otlp_proto_grpc"
    elif name == "otlp" and protocol:
        raise LookupError(f"OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf or grpc, got {protocol!r}")
    for entry in entry_points(group="opentelemetry_traces_exporter", name=name):
        make = entry.load()
        return make(endpoint=endpoint) if endpoint is not None and name.startswith("otlp") else make()
    hint = " (pip install 'traceloop-eventloop[otlp-grpc]')" if name == "otlp_proto_grpc" else ""
    raise LookupError(f"no installed package offers the traces exporter {name!r}{hint}")


class SdkSink:
    """Hands spans to one exporter, in a thread of its own."""

    def __init__(
        self,
        name: str,
        protocol: str,
        settings: Settings,
        environ: Mapping[str, str],
        notice: Callable[[str], None],
        exporter: Any = None,
    ) -> None:
        """``exporter``: the one to use, instead of looking for ``name``."""
        self.name = name
        self.exported = Exported()
        self._exporter = load_exporter(name, protocol, settings.otlp_endpoint) if exporter is None else exporter
        self._notice = notice
        self._resources: dict[object, Resource] = {}
        self._queue: deque[tuple[Resource, Sequence[Span], Callable[[], None] | None]] = deque()
        self._queued = 0
        self._working = False
        self._condition = threading.Condition()
        self._flushing = self._stopping = self._failed = False
        self._limit = _positive(environ, "OTEL_BSP_MAX_QUEUE_SIZE", DEFAULT_QUEUE_SPANS)
        # As with OTLP over HTTP: a queue of four batches, unless the variables say otherwise.
        batch = max(1, min(DEFAULT_BATCH_SPANS, self._limit // 4))
        self._batch = min(_positive(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", batch), self._limit)
        self._delay = _positive(environ, "OTEL_BSP_SCHEDULE_DELAY", int(DEFAULT_DELAY_SECONDS * 1000)) / 1000
        self._thread = threading.Thread(target=self._work, name=f"traceloop-{name}", daemon=True)
        self._thread.start()

    def put(
        self,
        process: object,
        resource: Mapping[str, Any],
        spans: Sequence[Span],
        on_sent: SentHook | None = None,
    ) -> None:
        """Queues spans of one process; never waits."""
        made = self._resources.get(process)
        if made is None:
            made = self._resources[process] = Resource(dict(resource))
        for start in range(0, len(spans), self._batch):
            part = spans[start : start + self._batch]
            # One read of a busy ring may bring more than the whole queue takes.
            room = max(0, self._limit - self._queued)
            if room < len(part):
                self.exported.count_dropped(QUEUE_FULL, len(part) - room)
                part = part[:room]
            if not part:
                continue
            with self._condition:
                self._queue.append((made, part, on_sent(part) if on_sent is not None else None))
                self._queued += len(part)
                if len(self._queue) == 1 or self._queued >= self._batch:
                    self._condition.notify_all()

    def forget(self, process: object) -> None:
        """The process is over."""
        self._resources.pop(process, None)

    def flush(self, timeout: float) -> bool:
        """Exports what is queued; waits at most ``timeout`` s."""
        deadline = time.monotonic() + timeout
        with self._condition:
            self._flushing = True
            self._condition.notify_all()
            while self._queue or self._working:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._condition.wait(left)
        return True

    def shutdown(self, timeout: float) -> None:
        """Exports what it can within ``timeout`` s, then shuts the exporter down."""
        self.flush(timeout)
        with self._condition:
            self._stopping = True
            lost, self._queued = self._queued, 0
            self._queue.clear()
            self._condition.notify_all()
        if lost:
            self.exported.count_dropped(SHUTDOWN, lost)
        closer = threading.Thread(target=self._close, name="traceloop-close", daemon=True)
        closer.start()
        closer.join(max(0.2, timeout))

    def _close(self) -> None:
        try:
            self._exporter.shutdown()
        except Exception as error:
            self._notice(f"the traces exporter {self.name} failed at its end: {error!r}")

    def _work(self) -> None:
        # What exporters do to get spans out makes no spans itself.
        suppressed = otel_context.get_current()
        for key_name in ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY"):
            key = getattr(otel_context, key_name, None)
            if key is not None:
                suppressed = otel_context.set_value(key, True, suppressed)
        otel_context.attach(suppressed)
        while True:
            with self._condition:
                while not self._queue and not self._stopping:
                    self._flushing = False
                    self._condition.wait()
                if self._stopping:
                    return
                until = time.monotonic() + self._delay
                while self._queued < self._batch and not (self._flushing or self._stopping):
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    self._condition.wait(left)
                items: list[tuple[Resource, Sequence[Span], Callable[[], None] | None]] = []
                count = 0
                while self._queue and (not items or count + len(self._queue[0][1]) <= self._batch):
                    items.append(self._queue.popleft())
                    count += len(items[-1][1])
                self._queued -= count
                self._working = bool(items)
            if items:
                self._export(items, count)
            with self._condition:
                self._working = False
                self._condition.notify_all()

    def _export(self, items: list[tuple[Resource, Sequence[Span], Callable[[], None] | None]], count: int) -> None:
        problem = ""
        try:
            spans = [readable_span(span, resource) for resource, part, _ in items for span in part]
            if self._exporter.export(spans) is SpanExportResult.SUCCESS:
                self.exported.sent += count
                for _, _, sent in items:
                    if sent is not None:
                        sent()
            else:
                problem = "it refused them"
        except Exception as error:
            problem = repr(error)
        if problem:
            self.exported.count_dropped(REJECTED, count)
            if not self._failed:
                self._notice(f"spans do not arrive at the traces exporter {self.name}: {problem}")
        self._failed = bool(problem)


class ProviderSink:
    """Hands spans to the processors of an application's own tracer provider; for library use, in its process.

    What a processor does with them (a BatchSpanProcessor queues 2,048 and drops the rest) is the application's choice,
    and not seen here.
    """

    def __init__(self, provider: Any, notice: Callable[[str], None] = lambda line: None) -> None:
        """``provider``: a ``TracerProvider`` of the SDK. Raises TypeError for another."""
        processor = getattr(provider, "_active_span_processor", None)
        if processor is None:
            raise TypeError(f"expected a TracerProvider of opentelemetry-sdk, got {type(provider).__name__}")
        self.exported = Exported()
        self._processor = processor
        self._resource = provider.resource
        self._notice = notice
        self._failed = False

    def put(
        self,
        process: object,
        resource: Mapping[str, Any],
        spans: Sequence[Span],
        on_sent: SentHook | None = None,
    ) -> None:
        """Ends the spans in the provider, under its own resource."""
        taken = 0
        try:
            for span in spans:
                self._processor.on_end(readable_span(span, self._resource))
                taken += 1
        except Exception as error:
            self.exported.count_dropped(REJECTED, len(spans) - taken)
            if not self._failed:
                self._failed = True
                self._notice(f"a span processor of the tracer provider failed: {error!r}")
        self.exported.sent += taken
        if on_sent is not None and taken:
            on_sent(spans[:taken])()

    def forget(self, process: object) -> None:
        """Nothing is kept of a process."""

    def flush(self, timeout: float) -> bool:
        """Asks the processors to export."""
        try:
            return bool(self._processor.force_flush(int(timeout * 1000)))
        except Exception as error:
            self._notice(f"the tracer provider could not be flushed: {error!r}")
            return False

    def shutdown(self, timeout: float) -> None:
        """The provider is the application's: it is flushed, not shut down."""
        self.flush(timeout)


def _positive(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip()
    try:
        value = int(text) if text else default
    except ValueError:
        return default
    return value if value > 0 else default
