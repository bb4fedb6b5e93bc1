"""Any other exporter, through the SDK's ``SpanExporter`` interface; and an application's own tracer provider.

For consoles, Zipkin, gRPC and what users have written. The exporters are found as the SDK finds them, by the entry
points ``opentelemetry_traces_exporter``. OpenTelemetry is imported here and in spans.py, and nowhere else in the
collector, when such an exporter was asked for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult

from traceloop.settings import Settings

from ..extras import how_to_install
from ..spans.model import Span
from ..spans.sinks import REJECTED, BatchLimits, Exported, Queued, SenderThread, SentHook
from .spans import readable_span

DEFAULT_QUEUE_SPANS: Final = 65536
DEFAULT_BATCH_SPANS: Final = 512
DEFAULT_DELAY_SECONDS: Final = 1.0


def load_exporter(name: str, protocol: str, endpoint: str | None) -> Any:
    """The exporter of that name. Raises LookupError where no installed package offers one."""
    if name == "otlp" and protocol == "grpc":
        name = "otlp_proto_grpc"
    elif name == "otlp" and protocol:
        raise LookupError(f"OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf or grpc, got {protocol!r}")
    for entry in entry_points(group="opentelemetry_traces_exporter", name=name):
        make = entry.load()
        if name == "console":
            # Not among the program's own output. A copy of the descriptor: ours may be let go of before its end.
            return make(out=os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace"))
        return make(endpoint=endpoint) if endpoint is not None and name.startswith("otlp") else make()
    group = entry_points(group="opentelemetry_traces_exporter")
    hint = f"; there are {', '.join(sorted(group.names))}" if group else ""
    if name == "otlp_proto_grpc":
        hint = how_to_install("otlp-grpc")
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
        self._failed = self._untraced = False
        limit = _positive(environ, "OTEL_BSP_MAX_QUEUE_SIZE", DEFAULT_QUEUE_SPANS)
        # As with OTLP over HTTP: a queue of four batches, unless the variables say otherwise.
        batch = max(1, min(DEFAULT_BATCH_SPANS, limit // 4))
        self._batch = min(_positive(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", batch), limit)
        delay = _positive(environ, "OTEL_BSP_SCHEDULE_DELAY", int(DEFAULT_DELAY_SECONDS * 1000)) / 1000
        limits = BatchLimits(self._batch, delay, queue_spans=limit)
        self._thread: SenderThread[tuple[Resource, Sequence[Span]]] = SenderThread(
            name, limits, self.exported, self._export, notice
        )

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
            part = part[: self._thread.room(len(part))]
            if part:
                sent = on_sent(part) if on_sent is not None else None
                self._thread.put(Queued((made, part), len(part), 0, sent))

    def forget(self, process: object) -> None:
        """The process is over."""
        self._resources.pop(process, None)

    def flush(self, timeout: float) -> bool:
        """Exports what is queued; waits at most ``timeout`` s."""
        return self._thread.flush(timeout)

    def shutdown(self, timeout: float) -> None:
        """Exports what it can within ``timeout`` s, then shuts the exporter down."""
        until = time.monotonic() + timeout
        self._thread.shutdown(timeout)
        closer = threading.Thread(target=self._close, name="traceloop-close", daemon=True)
        closer.start()
        closer.join(max(0.2, until - time.monotonic()))

    def _close(self) -> None:
        try:
            self._exporter.shutdown()
            if self.name == "console":
                self._exporter.out.close()  # a descriptor of our own, see load_exporter
        except Exception as error:
            self._notice(f"the traces exporter {self.name} failed at its end: {error!r}")

    def _export(self, batch: list[Queued[tuple[Resource, Sequence[Span]]]]) -> tuple[int, str]:
        if not self._untraced:
            _leave_untraced()
            self._untraced = True
        problem = ""
        spans: list[Any] = []
        try:
            spans = [readable_span(span, item.payload[0]) for item in batch for span in item.payload[1]]
            if self._exporter.export(spans) is not SpanExportResult.SUCCESS:
                problem = "it refused them"
        except Exception as error:
            problem = repr(error)
        if problem and not self._failed:
            self._notice(f"spans do not arrive at the traces exporter {self.name}: {problem}")
        self._failed = bool(problem)
        return (0 if problem else len(spans)), REJECTED


def _leave_untraced() -> None:
    """What exporters do in this thread to get spans out makes no spans itself."""
    suppressed = otel_context.get_current()
    for key_name in ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY"):
        key = getattr(otel_context, key_name, None)
        if key is not None:
            suppressed = otel_context.set_value(key, True, suppressed)
    otel_context.attach(suppressed)


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
        self.exported.count_sent(taken)
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
