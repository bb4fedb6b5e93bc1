"""The OpenTelemetry resource of a traced process, to which all its spans belong.

It is made as the SDK makes it (OTEL_SERVICE_NAME over OTEL_RESOURCE_ATTRIBUTES over what is detected), from the
process's own description: the collector is another process, whose pid and interpreter are not those of the resource.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
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


def _detectors(environ: Mapping[str, str]) -> list[str]:
    names = [name.strip() for name in environ.get("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "").split(",")]
    return list(dict.fromkeys(name for name in names if name))


#: What they would find out is another process's; ``resource_attributes`` tells it of the right one.
_OF_PROCESS = ("process", "service_instance")


def detected_attributes(environ: Mapping[str, str], notice: Callable[[str], None]) -> dict[str, Any]:
    """What the detectors of OTEL_EXPERIMENTAL_RESOURCE_DETECTORS say of the machine and the deployment.

    They are found as the SDK finds them, by the entry points ``opentelemetry_resource_detector``. May take seconds:
    some ask the network. ``notice``: called with one that is missing or fails.
    """
    wanted = [name for name in _detectors(environ) if name != "otel"]
    if not wanted or all(name in _OF_PROCESS for name in wanted):
        return {}
    from importlib.metadata import entry_points

    out: dict[str, Any] = {}
    if "*" in wanted:
        wanted = [entry.name for entry in entry_points(group="opentelemetry_resource_detector") if entry.name != "otel"]
    for name in wanted:
        if name in _OF_PROCESS:
            continue
        try:
            (entry, *_) = entry_points(group="opentelemetry_resource_detector", name=name)
            out.update(entry.load()().detect().attributes)
        except ValueError:
            notice(f"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS: no installed package offers {name!r}")
        except Exception as error:
            notice(f"the resource detector {name} failed: {error!r}")
    return out


def _of_process(names: list[str], description: Mapping[str, Any]) -> dict[str, Any]:
    """What ``process`` and ``service_instance`` would say within the process itself."""
    out: dict[str, Any] = {}
    if "process" in names or "*" in names:
        executable = str(description.get("executable", ""))
        out["process.executable.path"] = executable
        out["process.executable.name"] = os.path.basename(executable)
        out["process.command"] = os.path.basename(executable)
        if isinstance(description.get("parent"), int):
            out["process.parent_pid"] = description["parent"]
    if "service_instance" in names or "*" in names:
        out["service.instance.id"] = str(uuid.uuid4())
    return out


def resource_attributes(
    environ: Mapping[str, str], description: Mapping[str, Any], detected: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """``description``: what the process wrote into its process.json. ``detected``: by ``detected_attributes``."""
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
    out.update(detected or {})
    out.update(_of_process(_detectors(environ), description))
    out.update(parse_pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")))
    name = environ.get("OTEL_SERVICE_NAME", "").strip()
    if name:
        out["service.name"] = name
    if not out.get("service.name"):
        executable = os.path.basename(str(description.get("executable", ""))) or "python"
        out["service.name"] = f"unknown_service:{executable}"
    return {key: value for key, value in out.items() if value != ""}


def own_version() -> str:
    """The version of traceloop."""
    from traceloop.version import __version__

    return __version__


def installed_version(distribution: str) -> str:
    """The version of an installed distribution, empty where there is none."""
    from importlib import metadata  # costs more than the rest of the module, and is needed once

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
