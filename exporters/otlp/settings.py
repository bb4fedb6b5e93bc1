"""Where an OTLP receiver is and how it is spoken to: OpenTelemetry's variables OTEL_EXPORTER_OTLP_*.

https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from traceloop.parsing import SettingsError, parse_endpoint

from ..spans.resource import parse_pairs

MAX_REQUEST_SPANS: Final = 8192
SCHEDULE_DELAY_SECONDS: Final = 1.0


class OtlpSettings(NamedTuple):
    """Where spans go and how. ``verify``: a file of certificates to trust, True for the usual ones. Times in s."""

    endpoint: str
    headers: dict[str, str]
    timeout: float = 10.0
    compression: str = "none"
    verify: str | bool = True
    client_certificate: tuple[str, str] | str | None = None
    schedule_delay: float = SCHEDULE_DELAY_SECONDS
    max_queue_spans: int | None = None
    max_request_spans: int = MAX_REQUEST_SPANS

    @classmethod
    def from_environ(
        cls,
        environ: Mapping[str, str],
        endpoint: str | None = None,
        notice: Callable[[str], None] = lambda line: None,
        *,
        signal: str = "traces",
    ) -> OtlpSettings:
        """What OpenTelemetry's variables say; ``endpoint``, as given to us, overrules theirs. ``signal``: ``traces`` or
        ``metrics``, whose own variables overrule the general ones.

        A value that cannot be used is reported by ``notice`` and left at its default. Raises ``SettingsError`` for an
        endpoint that is none.
        """

        def variable(name: str) -> str:
            return (
                environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", "").strip()
                or environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()
            )

        def number(name: str, default: float) -> float:
            text = environ.get(name, "").strip()
            try:
                value = float(text) if text else default
            except ValueError:
                value = -1.0
            if not 0 < value < 1e12:
                notice(f"{name}: expected a number above 0, got {text!r}; using {default:g}")
                return default
            return value

        timeout_name = f"OTEL_EXPORTER_OTLP_{signal.upper()}_TIMEOUT"
        if not environ.get(timeout_name, "").strip():
            timeout_name = "OTEL_EXPORTER_OTLP_TIMEOUT"
        compression = variable("COMPRESSION").lower() or "none"
        if compression not in ("none", "gzip", "deflate"):
            notice(f"OTEL_EXPORTER_OTLP_COMPRESSION: expected none, gzip or deflate, got {compression!r}; using none")
            compression = "none"
        certificate, key = variable("CLIENT_CERTIFICATE"), variable("CLIENT_KEY")
        headers = parse_pairs(environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""))
        headers.update(parse_pairs(environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_HEADERS", "")))
        queue: int | None = None
        batch = MAX_REQUEST_SPANS
        if environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "").strip():
            queue = max(1, int(number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)))
            # What fills a batch is sent at once: with a batch as large as the queue there is no room meanwhile. The
            # SDK's own defaults are a queue of four batches.
            batch = max(1, min(MAX_REQUEST_SPANS, queue // 4))
        batch = int(number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", batch))
        return cls(
            endpoint=_endpoint(environ, endpoint, signal),
            headers=headers,
            timeout=number(timeout_name, 10.0),
            compression=compression,
            verify=variable("CERTIFICATE") or True,
            client_certificate=(certificate, key) if certificate and key else certificate or None,
            schedule_delay=number("OTEL_BSP_SCHEDULE_DELAY", SCHEDULE_DELAY_SECONDS * 1000) / 1000,
            max_queue_spans=queue,
            max_request_spans=max(1, min(batch, 65536 if queue is None else queue)),
        )


def _endpoint(environ: Mapping[str, str], endpoint: str | None, signal: str) -> str:
    if endpoint is None:
        for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
            value = environ.get(name, "").strip()
            if not value:
                continue
            try:
                endpoint = parse_endpoint(value)
            except SettingsError as error:
                raise SettingsError(f"{name}: {error}") from None
            if name != "OTEL_EXPORTER_OTLP_ENDPOINT":
                return endpoint  # used as it stands, says the specification
            break
        else:
            endpoint = "http://localhost:4318"
    if endpoint.rstrip("/").endswith(f"/v1/{signal}"):
        return endpoint
    # Given to us for spans, with their path: the other signals are beside them.
    return endpoint.rstrip("/").removesuffix("/v1/traces") + f"/v1/{signal}"
