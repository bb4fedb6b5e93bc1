"""The command line of `traceloop run`: which words are ours, what they mean, what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click.testing
import pytest

from traceloop.cli import options
from traceloop.cli.run_help import command, documented
from traceloop.parsing import SettingsError
from traceloop.settings import FIELDS, OTHER_VARIABLES, Settings, misspelt

P = "OTEL_PYTHON_TRACELOOP_"


def parse(*words: str) -> tuple[Settings, list[str]]:
    return options.parse(words, Settings())


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["app.py", "--report"], ["app.py", "--report"]),
        (["--report", "app.py", "--report"], ["app.py", "--report"]),
        (["-m", "mod", "-x"], ["-m", "mod", "-x"]),
        (["-mmod", "-x"], ["-mmod", "-x"]),
        (["-c", "code", "--report"], ["-c", "code", "--report"]),
        (["-ccode"], ["-ccode"]),
        (["-"], ["-"]),
        (["--", "-m", "mod"], ["-m", "mod"]),
        (["--report", "--", "--", "x"], ["--", "x"]),
        (["--profile", "app.py"], ["app.py"]),
        ([], []),
    ],
)
def test_the_first_word_that_is_no_option_ends_the_options(words: list[str], program: list[str]) -> None:
    assert parse(*words)[1] == program


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--slow-threshold", "0.5"], "slow_threshold", 0.5),
        (["--slow-threshold=0.5"], "slow_threshold", 0.5),
        (["--slow-threshold", "50ms"], "slow_threshold", 0.05),
        (["--slow-threshold", "app.*=20us"], "slow_patterns", (("app.*", 0.00002),)),
        (["--snapshot-on-stall", "1.5s"], "snapshot_on_stall", 1.5),
        (["--exit-timeout", "300ms"], "exit_timeout", 0.3),
        (["--slow-threshold", "app.*=1"], "slow_patterns", (("app.*", 1.0),)),
        (["--metrics-host", "0.0.0.0"], "metrics_host", "0.0.0.0"),
        (["--metrics-port", "0"], "metrics_port", 0),
        (["--metrics-port", "9464"], "metrics_port_required", True),
        (["--no-metrics"], "metrics", False),
        (["--no-page"], "page", False),
        (["--html", "/tmp/report.html"], "html", "/tmp/report.html"),
        (["--spans", "slow"], "spans", "slow"),
        (["--profile"], "profile", 100.0),
        (["--profile=20"], "profile", 20.0),
        (["--profile-workers"], "profile_workers", True),
        (["--spans", "0.25"], "spans", 0.25),
        (["--otlp-endpoint", "http://localhost:4318"], "otlp_endpoint", "http://localhost:4318"),
        (["--collector", "thread"], "collector", "thread"),
        (["--ring-size", "16M"], "ring_size", 16 << 20),
        (["--ring-size", "1GiB"], "ring_size", 1 << 30),
        (["--record", "somewhere"], "record", "somewhere"),
        (["--report"], "report", True),
        (["--command-arguments"], "command_arguments", True),
        (["--no-children"], "children", False),
        (["--keep-uvloop"], "keep_uvloop", True),
        (["--snapshot-on-stall", "2"], "snapshot_on_stall", 2.0),
        (["--memory-trace"], "memory_trace", True),
        (["--exit-timeout", "0"], "exit_timeout", 0.0),
    ],
)
def test_an_option_sets_its_field(words: list[str], field: str, value: object) -> None:
    settings, program = parse(*words, "app.py")
    assert getattr(settings, field) == value
    assert program == ["app.py"]
    # Only the command insists on a port: a child that inherits the variable takes another where it is taken.
    inherited = False if field == "metrics_port_required" else value
    assert Settings.from_environ(settings.to_environ()).as_dict()[field] == inherited


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--slow-threshold", "0"], "above 0"),
        (["--slow-threshold", "-1"], "above 0"),
        (["--slow-threshold", "nan"], "above 0"),
        (["--slow-threshold", "soon"], "above 0"),
        (["--slow-threshold", "ms"], "above 0"),
        (["--slow-threshold", "0ms"], "above 0"),
        (["--slow-threshold", "5 min"], "above 0"),
        (["--slow-threshold", "=1"], "PATTERN=SECONDS"),
        (["--metrics-port", "65536"], "0 to 65535"),
        (["--metrics-port", "-1"], "0 to 65535"),
        (["--metrics-port", "http"], "0 to 65535"),
        (["--metrics-host", ""], "host name"),
        (["--spans", "some"], "all, slow, off or a ratio"),
        (["--spans", "1.5"], "ratio from 0 to 1"),
        (["--otlp-endpoint", "localhost:4318"], "http://"),
        (["--otlp-endpoint", "http://"], "http://"),
        (["--otlp-endpoint", "http://localhost:99999"], "1 to 65535"),
        (["--otlp-endpoint", "http://[::1]:0/v1/traces"], "1 to 65535"),
        (["--otlp-endpoint", "http://a..b:4318"], "name or the address of a host"),
        (["--otlp-endpoint", "https://:4318"], "name or the address of a host"),
        (["--otlp-endpoint", f"http://{64 * 'a'}/"], "name or the address of a host"),
        (["--collector", "both"], "process, thread or none"),
        (["--ring-size", "1K"], "64K to 4G"),
        (["--ring-size", "5G"], "64K to 4G"),
        (["--ring-size", "big"], "64K to 4G"),
        (["--record", ""], "directory"),
        (["--snapshot-on-stall", "0"], "above 0"),
        (["--exit-timeout", "-1"], "0 to 3600"),
        (["--profile=often"], "0 to 1000"),
        (["--profile=1e9"], "0 to 1000"),
        (["--report=yes"], "takes no value"),
        (["--reports"], "did you mean --report?"),
        (["-X", "dev"], "traceloop run python -X"),
    ],
)
def test_a_bad_option_is_refused_in_one_line_that_says_what_was_expected(words: list[str], expected: str) -> None:
    with pytest.raises(options.UsageError) as caught:
        parse(*words, "app.py")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_option_without_its_value_is_refused() -> None:
    with pytest.raises(options.UsageError, match="--record expects DIR"):
        parse("--record")


def test_the_last_pattern_counts_and_the_command_line_before_the_environment() -> None:
    base = Settings.from_environ({P + "SLOW_THRESHOLD": "200ms,app.*=3s"})
    settings, _ = options.parse(["--slow-threshold", "app.*=1", "--slow-threshold", "app.a*=2", "x"], base)
    assert [settings.threshold_for(name) for name in ("app.a", "app.b", "lib.c")] == [2.0, 1.0, 0.2]


def test_every_option_has_a_variable_of_the_same_meaning() -> None:
    texts = {
        "slow_threshold": "0.5", "metrics_host": "::1", "metrics_port": "1", "metrics": "false", "page": "false",
        "html": "/tmp/r.html", "spans": "off",
        "otlp_endpoint": "http://h", "collector": "none", "ring_size": "1M", "record": "r", "report": "true",
        "children": "no", "keep_uvloop": "1", "snapshot_on_stall": "1", "memory_trace": "on", "exit_timeout": "1",
        "find_blocking": "true", "requests": "false", "profile": "true", "profile_workers": "true",
        "command_arguments": "1",
    }  # fmt: skip
    assert {option.name for option in options.OPTIONS} == set(texts)
    for option in options.OPTIONS:
        settings = Settings.from_environ({option.variable: texts[option.name]})
        assert getattr(settings, option.name) != getattr(Settings(), option.name), option.variable
        assert (
            Settings.from_environ(settings.to_environ()).replace(metrics_port_required=settings.metrics_port_required)
            == settings
        )


def test_the_table_and_the_annotations_name_the_same_fields() -> None:
    assert list(Settings.__annotations__) == [field.name for field in FIELDS] == list(Settings.__slots__)


def test_the_page_of_the_command_line_has_the_table_of_the_options() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()
    assert documented() in text, f"docs/cli.md should have this table:\n{documented()}"


def test_the_help_shows_every_option_with_its_default() -> None:
    text = " ".join(click.testing.CliRunner().invoke(command, ["--help"]).output.split())
    for field in FIELDS:
        if field.option:
            assert field.option in text
            assert not field.shown or f"(default: {field.shown})" in text


def test_standard_variables_are_heeded_and_ours_overrule_them() -> None:
    settings = Settings.from_environ({"OTEL_EXPORTER_PROMETHEUS_PORT": "1", "OTEL_EXPORTER_PROMETHEUS_HOST": "::"})
    assert (settings.metrics_port, settings.metrics_host, settings.metrics_port_required) == (1, "::", True)
    assert Settings.from_environ({"OTEL_EXPORTER_PROMETHEUS_PORT": "1", P + "METRICS_PORT": "2"}).metrics_port == 2


def test_a_bad_variable_is_refused_by_the_command_and_told_by_a_child() -> None:
    environ = {P + "RING_SIZE": "huge", P + "SPANS": "slow"}
    with pytest.raises(SettingsError, match=P + "RING_SIZE: expected a size"):
        Settings.from_environ(environ)
    told: list[str] = []
    settings = Settings.from_environ(environ, on_error=told.append)
    assert settings.spans == "slow" and settings.ring_size == Settings().ring_size
    assert len(told) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SLOW_TRESHOLD", f"; did you mean {P}SLOW_THRESHOLD?"),
        ("RINGSIZE", f"; did you mean {P}RING_SIZE?"),
        ("Q", ""),
    ],
)
def test_a_misspelt_variable_is_reported_in_one_line(name: str, expected: str) -> None:
    assert misspelt({P + name: "1", P + "SPANS": "all", "PATH": ""}) == [f"{P}{name}: no such variable{expected}"]


def test_the_variables_of_a_run_are_no_misspelt_ones() -> None:
    environ = Settings(run_dir="/x", ring_size=1 << 20, report=True).to_environ()
    assert misspelt({**environ, **dict.fromkeys(OTHER_VARIABLES, "1")}) == []


def test_choices_of_a_program_are_checked_as_options_are() -> None:
    settings = Settings().with_choices({"ring_size": "1M", "slow_threshold": "0.5,app.*=1", "record": None})
    assert (settings.ring_size, settings.slow_threshold, settings.slow_patterns) == (1 << 20, 0.5, (("app.*", 1.0),))
    assert Settings().with_choices({"spans": 0.5, "report": True}) == Settings(spans=0.5, report=True)
    for choices, expected in (
        ({"spans": "some"}, "spans: expected all, slow, off"),
        ({"ring_size": -1}, "ring_size: expected a size"),
        ({"rings_size": 1}, "no such setting; did you mean ring_size?"),
        ({"slow_patterns": 3}, "slow_patterns: "),
    ):
        with pytest.raises(SettingsError, match=expected):
            Settings().with_choices(choices)


def library(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A program that uses the library, without `traceloop run`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(P)}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[2],
        env={**inherited, **{P + name: value for name, value in environ.items()}},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


RING_SIZE = """
import asyncio, traceloop
with asyncio.Runner(loop_factory=traceloop.new_event_loop) as runner:
    runner.run(asyncio.sleep(0))
    from traceloop.recording.process import current_process
    print(current_process().ring_size)
"""


def test_the_size_of_the_rings_holds_for_a_loop_without_a_run() -> None:
    """It was read as a plain number only, and anything else silently ignored."""
    done = library(RING_SIZE, RING_SIZE="1M")
    assert (done.stdout, done.stderr) == ("1048576\n", "")


def test_a_bad_or_misspelt_variable_is_reported_once_by_a_loop_without_a_run() -> None:
    done = library(RING_SIZE, RING_SIZE="lots", SPAN="off")
    assert done.stdout == f"{8 << 20}\n"
    assert done.stderr.splitlines() == [
        f"traceloop: {P}SPAN: no such variable; did you mean {P}SPANS?",
        f"traceloop: {P}RING_SIZE: expected a size from 64K to 4G, as in 8M, got 'lots'",
    ]


def test_what_start_is_given_holds_for_the_recording_too() -> None:
    """With the collector in a thread, ring_size and memory_trace were silently ignored."""
    done = library(
        """
import asyncio, traceloop
traceloop.start(collector="thread", ring_size=1 << 20, memory_trace=True, metrics=False, slow_threshold=0.3)
with asyncio.Runner(loop_factory=traceloop.new_event_loop) as runner:
    runner.run(asyncio.sleep(0))
    recorder = runner.get_loop()._recorder
    print(recorder.process.ring_size, recorder.sampler.memory._trace, recorder.general_threshold)
"""
    )
    assert done.stdout == "1048576 True 0.3\n", done.stderr


def test_settings_are_immutable_and_comparable() -> None:
    settings = Settings(report=True)
    with pytest.raises(AttributeError):
        settings.report = False
    assert settings.replace(report=False) == Settings() and hash(settings) != hash(Settings())
