"""The OpenTelemetry resource of a traced process: what all its spans are said of.

As the SDK makes it (OTEL_SERVICE_NAME over OTEL_RESOURCE_ATTRIBUTES over what is found out), from what the process
wrote down of itself: the collector is another process, whose own pid and interpreter say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

SCOPE_NAME = "traceloop"


def parse_pairs(text: str) -> dict[str, str]:
    """``key=value,key=value`` with percent-encoded values, as OpenTelemetry has it in its variables."""
    out: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if equals and key.strip():
            out[key.strip()] = unquote(value.strip())
    return out


def resource_attributes(environ: Mapping[str, str], description: Mapping[str, Any]) -> dict[str, Any]:
    """``description``: what the process wrote into its process.json."""
    implementation = str(description.get("implementation", "")) or "cpython"
    version = str(description.get("python", ""))
    out: dict[str, Any] = {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": installed_version("opentelemetry-sdk"),
        "telemetry.distro.name": "traceloop",
        "telemetry.distro.version": installed_version("traceloop-eventloop") or own_version(),
        "process.runtime.name": implementation,
        "process.runtime.version": version,
        "process.runtime.description": f"{implementation} {version}".strip(),
    }
    pid = description.get("pid")
    if isinstance(pid, int):
        out["process.pid"] = pid
    out.update(parse_pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")))
    name = environ.get("OTEL_SERVICE_NAME", "").strip()
    if name:
        out["service.name"] = name
    if not out.get("service.name"):
        out["service.name"] = "unknown_service:python"
    return {key: value for key, value in out.items() if value != ""}


def own_version() -> str:
    """The version of traceloop."""
    import traceloop

    return traceloop.__version__


def installed_version(distribution: str) -> str:
    """The version of an installed distribution, empty where there is none."""
    from importlib import metadata  # costs more than the rest of the module, and is needed once

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
