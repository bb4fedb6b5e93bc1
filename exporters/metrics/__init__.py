"""Metrics that are pushed: OpenTelemetry's data model, and what sends it."""

from __future__ import annotations

from collections.abc import Mapping


def asked_for(environ: Mapping[str, str]) -> bool:
    """Whether anything asks for metrics to be pushed; what, and whether it can be had, push.py finds out."""
    return environ.get("OTEL_METRICS_EXPORTER", "").strip().lower() not in ("", "none", "prometheus")
