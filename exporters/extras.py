"""Names the packages to install where those of an extra are missing, however traceloop was installed."""

from typing import Final

#: As in pyproject.toml, without the versions.
PACKAGES: Final = {
    "otlp": ("opentelemetry-exporter-otlp-proto-http", "requests"),
    "otlp-grpc": ("opentelemetry-exporter-otlp-proto-grpc",),
}


def how_to_install(extra: str) -> str:
    """The command in brackets, to end a message with."""
    return f" (pip install {' '.join(PACKAGES[extra])})"
