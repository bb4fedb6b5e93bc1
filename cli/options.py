"""The options of `traceloop run`: one table, from which the parser, the help text and the documentation are
made.

`run` is parsed by the few lines below and not by click, because importing click takes longer than everything
else that the command does before it becomes the program.
"""

from __future__ import annotations

from traceloop import settings
from traceloop.settings import PREFIX, Settings, SettingsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


class Option:
    """One option: `--name METAVAR`, or a flag (no metavar) that sets the field to `value`."""

    def __init__(
        self,
        name: str,
        field: str,
        help: str,
        metavar: str = "",
        parse: Callable[[str], Any] | None = None,
        value: bool = True,
    ) -> None:
        self.name = name
        self.field = field
        self.help = help
        self.metavar = metavar
        self.parse = parse
        self.value = value
        self.variable = PREFIX + field.upper()


OPTIONS = (
    Option(
        "--slow-threshold",
        "slow_threshold",
        "A callback is slow from here on (default 0.1). PATTERN=SECONDS sets it for some callbacks: 'app.batch.*=1.0'. "
        "May be repeated.",
        "SECONDS|PATTERN=SECONDS",
        settings.parse_thresholds,
    ),
    Option(
        "--metrics-host",
        "metrics_host",
        "Where /metrics is served (default localhost).",
        "HOST",
        settings.parse_host,
    ),
    Option(
        "--metrics-port",
        "metrics_port",
        "Its port (default 9464). 0 takes any free one and prints it.",
        "PORT",
        settings.parse_port,
    ),
    Option("--no-metrics", "metrics", "Serve no metrics.", value=False),
    Option(
        "--spans",
        "spans",
        "Which callbacks make a span: all (the default), slow, a RATIO from 0 to 1, or off.",
        "all|slow|RATIO|off",
        settings.parse_spans,
    ),
    Option(
        "--otlp-endpoint",
        "otlp_endpoint",
        "Send spans to this OTLP receiver. Without it OTEL_EXPORTER_OTLP_* decide; without these, none are sent.",
        "URL",
        settings.parse_endpoint,
    ),
    Option(
        "--collector",
        "collector",
        "Who reads the record: a process of its own (the default), a thread of the program, or none.",
        "process|thread|none",
        settings.parse_collector,
    ),
    Option(
        "--ring-size",
        "ring_size",
        "Memory for the record of each loop (default 8M).",
        "SIZE",
        settings.parse_size,
    ),
    Option("--record", "record", "Keep the record in this directory.", "DIR", settings.parse_directory),
    Option("--report", "report", "Print a report when the program has ended."),
    Option("--no-children", "children", "Leave processes that the program starts untraced.", value=False),
    Option("--keep-uvloop", "keep_uvloop", "A program that asks for uvloop gets uvloop, and runs untraced."),
    Option(
        "--snapshot-on-stall",
        "snapshot_on_stall",
        "Keep a copy of the record when a callback has run this long.",
        "SECONDS",
        settings.parse_seconds,
    ),
    Option(
        "--memory-trace",
        "memory_trace",
        "When memory grows, trace allocations for 15 s, once, to name the lines; each costs 2 to 4 times as much then.",
    ),
    Option(
        "--exit-timeout",
        "exit_timeout",
        "How long the program's end may wait for its last records to be read (default 2).",
        "SECONDS",
        settings.parse_wait,
    ),
)


class UsageError(Exception):
    """A command line that cannot be used; its text is one line."""


class HelpRequested(Exception):
    """`--help` was among the options."""


def is_program(word: str) -> bool:
    """Whether traceloop's own options end before this word."""
    return not word.startswith("-") or word == "-" or word[:2] in ("-m", "-c")


def parse(words: Sequence[str], base: Settings) -> tuple[Settings, list[str]]:
    """The settings that the options make of `base`, and the program with its arguments, unchanged.

    The first word that is no option ends the options, and so do `-m`, `-c`, `-` and `--`.
    """
    changes: dict[str, Any] = {}
    patterns: list[tuple[str, float]] = []
    at = 0
    while at < len(words) and not is_program(words[at]):
        name, equals, value = words[at].partition("=")
        at += 1
        if name == "--" and not equals:
            break
        if name in ("--help", "-h"):
            raise HelpRequested
        option = next((option for option in OPTIONS if option.name == name), None)
        if option is None:
            raise UsageError(_unknown(name))
        if option.parse is None:
            if equals:
                raise UsageError(f"{name} takes no value")
            changes[option.field] = option.value
            continue
        if not equals:
            if at == len(words):
                raise UsageError(f"{name} expects {option.metavar}")
            value = words[at]
            at += 1
        try:
            parsed = option.parse(value)
        except SettingsError as error:
            raise UsageError(f"{name}: {error}") from None
        if option.field == "slow_threshold":
            general, more = parsed
            patterns += more
            if general is not None:
                changes["slow_threshold"] = general
        else:
            changes[option.field] = parsed
    if patterns:
        # What was said last counts most, and the command line more than the environment.
        changes["slow_patterns"] = (*reversed(patterns), *base.slow_patterns)
    if "metrics_port" in changes:
        changes["metrics_port_required"] = True
    return base.replace(**changes), list(words[at:])


def _unknown(name: str) -> str:
    if not name.startswith("--"):
        return f"no such option: {name} (options of the interpreter go after `python`: traceloop run python {name} ...)"
    near = [option.name for option in OPTIONS if option.name.startswith(name) or name.startswith(option.name)]
    hint = f"; did you mean {near[0]}?" if near else "; see traceloop run --help"
    return f"no such option: {name}{hint}"
