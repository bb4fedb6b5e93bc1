"""The collector as a thread of the application (`--collector thread`, `traceloop.start(tracer_provider=...)`)."""

from __future__ import annotations

import os
import socket
import threading
import time

from traceloop.recording.own_threads import start_without_signals
from traceloop.settings import Settings

from ..exporters.metrics import asked_for as asked_for_metrics
from .errors import CollectorError
from .files import say
from .listening import listen, url_of
from .pace import MIN_POLL_SECONDS, SHUTDOWN_SECONDS, SOON_SECONDS, Pace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from traceloop.reading.statistics.run import Statistics

    from ..exporters.metrics.push import MetricsPush
    from ..exporters.spans.sinks import SpanSink


class CollectorThread:
    """The collector as a daemon thread of the application; reads this process's rings, private ones too.

    ``url``: of the metrics, None where none are served. ``notices``: lines for the user.
    """

    def __init__(self, settings: Settings, tracer_provider: object = None) -> None:
        self._pace = Pace(SOON_SECONDS)  # never as though in C: while it reads, the application waits for the GIL
        self.settings = settings
        self.notices: list[str] = []
        self.url: str | None = None
        self._sinks: list[SpanSink] | None = None
        if tracer_provider is not None:
            from ..exporters.otel_sdk.sinks import ProviderSink

            self._sinks = [ProviderSink(tracer_provider, say)]
        self._listener: socket.socket | None = None
        if settings.metrics:
            bound, notice = listen(
                settings.metrics_host,
                settings.metrics_port,
                required=settings.metrics_port_required,
                page=settings.page,
            )
            self.url = url_of(bound, settings.metrics_host)
            self._listener = socket.socket(fileno=bound.detach())
            if notice:
                self.notices.append(notice)
        self._stopping = False
        # Released when there is something to read, or when the thread has to end. To release it never waits.
        self._woken = threading.Lock()
        self._woken.acquire()
        start_without_signals(self._open)
        self._thread = threading.Thread(target=self._work, name="traceloop-collector", daemon=True)
        start_without_signals(self._thread.start)

    def _open(self) -> None:
        from traceloop.reading.follower import PrivateFollower
        from traceloop.reading.new_statistics import make_statistics
        from traceloop.recording.process import current_process

        # Everything that the end needs is imported now, since imports may fail while the interpreter ends.
        from ..exporters.html.app import with_page
        from ..exporters.html.page import write_at_end
        from ..exporters.prometheus.server import serve
        from ..exporters.span_pipeline import make_pipeline

        self._write_at_end = write_at_end
        self.statistics = make_statistics(self.settings)
        self.statistics.from_start = True
        process = current_process()
        if process is None:
            raise CollectorError("this process does not record")
        self.follower = PrivateFollower(self.statistics, process)
        process.wake_collector = self._wake
        self.pipeline = make_pipeline(self.settings, self.statistics, say, sinks=self._sinks)
        self._push: MetricsPush | None = None
        if asked_for_metrics(os.environ):
            from ..exporters.metrics.push import make_push

            self._push = make_push(
                self.settings, self.statistics, self.read, say, os.environ, with_own_usage=False
            )
        # The cost of reading cannot be separated here from what the application does.
        listener = self._listener
        self._server = None
        if listener is not None:
            page = (lambda metrics: with_page(metrics, self._scraped)) if self.settings.page else None
            self._server = serve(self._scraped, listener, own_usage=False, beside=page)

    def _scraped(self) -> Statistics:
        self.read()
        return self.statistics

    def write_page(self, path: str) -> str:
        """Writes what was read as a page; returns the line that says so, or why not. Never raises."""
        return self._write_at_end(path, self.statistics)

    def read(self) -> bool:
        """Reads what is new; from any thread."""
        with self.statistics.lock:
            found = False
            for chunks in self.follower.chunks():
                found = True
                self._pace.count(chunks)
                self.pipeline.take(chunks, time.monotonic())
            if not found:
                self.pipeline.take((), time.monotonic())
        return found

    def _wake(self) -> None:
        """Ends the current pause, or the next one. Called from any thread."""
        try:
            self._woken.release()
        except RuntimeError:
            pass  # it is free already

    def _work(self) -> None:
        pause = MIN_POLL_SECONDS
        while True:
            self._woken.acquire(timeout=pause)
            if self._stopping:
                return
            self.read()
            pause = min(pause * 1.5, self._pace.pause())

    def stop(self, timeout: float = SHUTDOWN_SECONDS) -> None:
        """Reads and sends what there is, and ends the thread. Waits at most about ``timeout`` s."""
        self._stopping = True
        self._wake()
        self._thread.join(timeout)
        with self.statistics.lock:
            for chunks in self.follower.last_chunks():
                self.pipeline.take(chunks, time.monotonic())
            self.pipeline.end_process(self.follower)
        self.pipeline.shutdown(timeout)
        if self._push is not None:
            self._push.shutdown(timeout)
        if self._server is not None:
            self._server.close()


def start_thread(settings: Settings, tracer_provider: object = None) -> CollectorThread:
    """Starts the collector as a daemon thread of this process, which reads this process's rings only.

    It competes with the application for the GIL. ``tracer_provider``: the application's own, which gets the spans.
    Raises ``CollectorError`` as ``start`` does, and TypeError for a provider that is none of opentelemetry-sdk's.
    """
    return CollectorThread(settings, tracer_provider)
