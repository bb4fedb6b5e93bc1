"""Replaces the span pipeline where no spans were asked for.

Importing the pipeline takes as long as importing all the rest of the collector, and a short program would wait for that
at its end.
"""

from __future__ import annotations

from collections.abc import Mapping

from traceloop.settings import Settings

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def may_export_spans(settings: Settings, environ: Mapping[str, str]) -> bool:
    """Whether anything asks for spans; which exporter, and whether there is one, the pipeline finds out."""
    if settings.spans == "off":
        return False
    return bool(settings.otlp_endpoint or any(environ.get(name) for name in ("OTEL_TRACES_EXPORTER", *_ENDPOINTS)))


class NoSpans:
    """Takes what the pipeline takes, and does nothing."""

    def take(self, chunks: object, now: float) -> None:
        """Nothing."""

    def end_process(self, follower: object) -> None:
        """Nothing."""

    def flush(self, timeout: float) -> bool:
        """Everything has been sent."""
        return True

    def shutdown(self, timeout: float) -> None:
        """Nothing."""
