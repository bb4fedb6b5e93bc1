"""The resource of spans: OpenTelemetry's variables and detectors, said of the traced process."""

import os
import socket

import pytest

from traceloop.exporters.spans.resource import detected_attributes, resource_attributes

DESCRIPTION = {
    "pid": 4711,
    "parent": 12,
    "python": "3.13.0",
    "implementation": "cpython",
    "executable": "/usr/bin/python3.13",
    "command": "python3.13 -m app --flag",
}
DETECTORS = "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"


def resource(environ, told=None):
    found = detected_attributes(environ, pytest.fail if told is None else told.append)
    return resource_attributes(environ, DESCRIPTION, found)


def test_it_speaks_of_the_traced_process():
    got = resource({})
    assert got["process.pid"] == 4711 != os.getpid()
    assert (got["process.runtime.name"], got["process.runtime.version"]) == ("cpython", "3.13.0")
    assert got["telemetry.distro.name"] == "traceloop"
    assert not any(name.startswith(("host.", "os.", "process.executable")) for name in got)
    assert resource_attributes({}, {})["service.name"] == "unknown_service:python"


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "unknown_service:python3.13"),  # as the SDK within it would say
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=a"}, "a"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=a", "OTEL_SERVICE_NAME": "b"}, "b"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name="}, "unknown_service:python3.13"),
    ],
)
def test_the_services_name(environ, name):
    assert resource(environ)["service.name"] == name


def test_attributes_of_the_environment():
    got = resource({"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=a%2Cb , team = x,broken,process.pid=1"})
    assert (got["deployment.environment.name"], got["team"], got["process.pid"]) == ("a,b", "x", "1")
    assert "broken" not in got


def test_detectors_of_the_machine():
    got = resource({DETECTORS: "otel,host, os", "OTEL_RESOURCE_ATTRIBUTES": "host.name=mine"})
    assert got["os.type"] == os.uname().sysname.lower()
    assert got["host.name"] == "mine"  # the environment overrules what is found out
    assert resource({DETECTORS: "host"})["host.name"] == socket.gethostname()


@pytest.mark.parametrize("names", ["process,service_instance", "*"])
def test_detectors_of_the_process_tell_of_the_traced_one(names):
    first, second = resource({DETECTORS: names}), resource({DETECTORS: names})
    assert first["process.pid"] == 4711 and first["process.parent_pid"] == 12
    assert first["process.executable.name"] == "python3.13" and first["process.command"] == "python3.13"
    assert first["process.executable.path"] == "/usr/bin/python3.13"
    assert first["service.instance.id"] != second["service.instance.id"]
    assert ("os.type" in first) == (names == "*")


def test_a_detector_that_is_not_there_is_told():
    told = []
    got = resource({DETECTORS: "nobodys,os"}, told)
    assert got["os.type"] and len(told) == 1 and "nobodys" in told[0]
