"""The command line of `traceloop run`: which words are ours, what they mean, what is refused."""

from __future__ import annotations

import pytest

from traceloop.cli import options
from traceloop.settings import Settings, SettingsError

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
        (["--slow-threshold", "app.*=1"], "slow_patterns", (("app.*", 1.0),)),
        (["--metrics-host", "0.0.0.0"], "metrics_host", "0.0.0.0"),
        (["--metrics-port", "0"], "metrics_port", 0),
        (["--metrics-port", "9464"], "metrics_port_required", True),
        (["--no-metrics"], "metrics", False),
        (["--spans", "slow"], "spans", "slow"),
        (["--spans", "0.25"], "spans", 0.25),
        (["--otlp-endpoint", "http://localhost:4318"], "otlp_endpoint", "http://localhost:4318"),
        (["--collector", "thread"], "collector", "thread"),
        (["--ring-size", "16M"], "ring_size", 16 << 20),
        (["--ring-size", "1GiB"], "ring_size", 1 << 30),
        (["--record", "somewhere"], "record", "somewhere"),
        (["--report"], "report", True),
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
    assert Settings.from_environ(settings.to_environ()).as_dict()[field] == value or field == "metrics_port_required"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--slow-threshold", "0"], "above 0"),
        (["--slow-threshold", "-1"], "above 0"),
        (["--slow-threshold", "nan"], "above 0"),
        (["--slow-threshold", "soon"], "above 0"),
        (["--slow-threshold", "=1"], "PATTERN=SECONDS"),
        (["--metrics-port", "65536"], "0 to 65535"),
        (["--metrics-port", "-1"], "0 to 65535"),
        (["--metrics-port", "http"], "0 to 65535"),
        (["--metrics-host", ""], "host name"),
        (["--spans", "some"], "all, slow, off or a ratio"),
        (["--spans", "1.5"], "ratio from 0 to 1"),
        (["--otlp-endpoint", "localhost:4318"], "http://"),
        (["--otlp-endpoint", "http://"], "http://"),
        (["--collector", "both"], "process, thread or none"),
        (["--ring-size", "1K"], "64K to 4G"),
        (["--ring-size", "5G"], "64K to 4G"),
        (["--ring-size", "big"], "64K to 4G"),
        (["--record", ""], "directory"),
        (["--snapshot-on-stall", "0"], "above 0"),
        (["--exit-timeout", "-1"], "0 to 3600"),
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
    base = Settings.from_environ({P + "SLOW_THRESHOLD": "0.2,app.*=3"})
    settings, _ = options.parse(["--slow-threshold", "app.*=1", "--slow-threshold", "app.a*=2", "x"], base)
    assert [settings.threshold_for(name) for name in ("app.a", "app.b", "lib.c")] == [2.0, 1.0, 0.2]


def test_every_option_has_a_variable_of_the_same_meaning() -> None:
    texts = {
        "slow_threshold": "0.5", "metrics_host": "::1", "metrics_port": "1", "metrics": "false", "spans": "off",
        "otlp_endpoint": "http://h", "collector": "none", "ring_size": "1M", "record": "r", "report": "true",
        "children": "no", "keep_uvloop": "1", "snapshot_on_stall": "1", "memory_trace": "on", "exit_timeout": "1",
    }  # fmt: skip
    assert {option.field for option in options.OPTIONS} == set(texts)
    for option in options.OPTIONS:
        settings = Settings.from_environ({option.variable: texts[option.field]})
        assert getattr(settings, option.field) != getattr(Settings(), option.field), option.variable
        assert (
            Settings.from_environ(settings.to_environ()).replace(metrics_port_required=settings.metrics_port_required)
            == settings
        )


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


def test_settings_are_immutable_and_comparable() -> None:
    settings = Settings(report=True)
    with pytest.raises(AttributeError):
        settings.report = False
    assert settings.replace(report=False) == Settings() and hash(settings) != hash(Settings())
