"""What is said where spans go somewhere that was not named to us."""

import re
import subprocess
import sys
import tomllib

import pytest

from tests.helpers.paths import ROOT
from traceloop.exporters.extras import PACKAGES
from traceloop.exporters.span_pipeline import SpanPipeline
from traceloop.settings import Settings

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:secret@127.0.0.1:1"}


def notices(environ, **choices):
    said = []
    pipeline = SpanPipeline(Settings(**choices), environ, said.append)
    pipeline.shutdown(0.1)
    return [line for line in said if "makes a span" in line]


def test_a_variable_for_the_applications_own_spans_gets_a_notice():
    (line,) = notices(ENDPOINT)
    assert line == (
        "every callback makes a span, sent to http://127.0.0.1:1 (OTEL_EXPORTER_OTLP_ENDPOINT); "
        "--spans slow sends those of slow callbacks only, --spans off none"
    )


def test_a_ratio_is_named():
    (line,) = notices({**ENDPOINT, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"})
    assert line.startswith("every callback of a sampled trace makes a span")


@pytest.mark.parametrize(
    ("environ", "choices"),
    [
        ({}, {}),
        ({}, {"otlp_endpoint": "http://127.0.0.1:1"}),
        (ENDPOINT, {"spans_chosen": True}),
        (ENDPOINT, {"spans": "slow", "spans_chosen": True}),
        (ENDPOINT, {"spans": "off"}),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, {}),
        ({**ENDPOINT, "OTEL_TRACES_SAMPLER": "always_off"}, {}),
    ],
)
def test_who_asked_for_them_or_gets_few_hears_nothing(environ, choices):
    assert notices(environ, **choices) == []


@pytest.mark.parametrize(
    ("environ", "choices", "expected"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "none"},
            {"otlp_endpoint": "http://127.0.0.1:1"},
            "no spans to http://127.0.0.1:1: OTEL_TRACES_EXPORTER is none",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "console,none"},
            {},
            "no spans are sent: OTEL_TRACES_EXPORTER is console,none, and none excludes the others",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
            {},
            "no spans to otlp: OTEL_EXPORTER_OTLP_ENDPOINT: expected an http:// or https:// address, "
            "got 'collector:4318'",
        ),
    ],
)
def test_choices_that_exclude_each_other_and_endpoints_that_are_none_get_one_line(environ, choices, expected):
    said = []
    pipeline = SpanPipeline(Settings(**choices), environ, said.append)
    pipeline.shutdown(0.1)
    assert said == [expected] and not pipeline.active


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    program = (
        "import sys; sys.modules['requests'] = None\n"
        "from traceloop.exporters.span_pipeline import SpanPipeline\n"
        "from traceloop.settings import Settings\n"
        "SpanPipeline(Settings(), {'OTEL_EXPORTER_OTLP_ENDPOINT': 'https://127.0.0.1:1'}, print).shutdown(0.1)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("no spans to otlp: ") and "requests" in done.stdout, done.stderr
    assert done.stdout.endswith(" (pip install opentelemetry-exporter-otlp-proto-http requests)\n")


def test_the_packages_to_install_are_those_of_the_extras():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, packages in PACKAGES.items():
        assert [re.split("[<>=]", each)[0] for each in extras[extra]] == [*packages]


def test_the_choice_reaches_the_collector():
    settings = Settings.from_environ({"OTEL_PYTHON_TRACELOOP_SPANS": "all"})
    assert settings.spans_chosen and Settings.from_environ(settings.to_environ()).spans_chosen
    assert not Settings.from_environ({}).spans_chosen
