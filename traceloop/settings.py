"""What can be chosen about a run: one table, `FIELDS`.

The fields of `Settings`, their defaults, the options of `traceloop run`, their help, the environment variables and the
table in docs/cli.md are all made from it.

`traceloop run` reads the environment, applies its options, and writes the result into the environment of the program.
Each traced process, its children and the collector read it there, once (`from_environ`), and hand it to whatever
needs it (`choose`, `chosen`). So each value has one text form, which options and variables share.

This module is imported before the program's first line and in the command's fast path: it imports nothing
beyond what the interpreter has loaded anyway (`dataclasses` alone would cost more than the whole command).
"""

from __future__ import annotations

from .parsing import (
    SettingsError,
    did_you_mean,
    parse_collector,
    parse_directory,
    parse_endpoint,
    parse_file,
    parse_flag,
    parse_host,
    parse_port,
    parse_rate,
    parse_seconds,
    parse_size,
    parse_spans,
    parse_thresholds,
    parse_wait,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final

PREFIX: Final = "OTEL_PYTHON_TRACELOOP_"

#: Marks a process as part of a run: the run directory, or `NO_DIRECTORY` where none could be made.
RUN_DIR: Final = PREFIX + "RUN_DIR"
#: The process that `traceloop run` became: it alone prints the run's summary.
ROOT_PID: Final = PREFIX + "ROOT_PID"
#: The collector's process, and the address of its metrics.
COLLECTOR_PID: Final = PREFIX + "COLLECTOR_PID"
METRICS_URL: Final = PREFIX + "METRICS_URL"
#: What the root's stderr is, as `notices.own_stderr` names it.
STDERR: Final = PREFIX + "STDERR"
NO_DIRECTORY: Final = "none"

#: Which signal has a process dump its stacks. Which core runs loops.
DUMP_SIGNAL: Final = PREFIX + "DUMP_SIGNAL"
CORE: Final = PREFIX + "CORE"

#: Variables of ours that are no fields of `Settings`.
OTHER_VARIABLES: Final = (RUN_DIR, ROOT_PID, COLLECTOR_PID, METRICS_URL, STDERR, DUMP_SIGNAL, CORE)


class Field:
    """One setting of a run.

    name: of the field of `Settings`. default: its value if nothing is chosen. parse: from a text to a value; None if a
    text cannot choose it. option: of `traceloop run`. metavar: what the option expects; "" for a flag, which sets the
    field to `flag`. help: one or two sentences. shown: how the default is written; "" leaves it out. bare: the value of
    an option without one; a value then follows a `=`. standard: OpenTelemetry's variable for the same thing; ours takes
    precedence.
    """

    __slots__ = (
        "bare",
        "default",
        "flag",
        "help",
        "metavar",
        "name",
        "option",
        "parse",
        "shown",
        "standard",
        "variable",
    )

    def __init__(
        self,
        name: str,
        default: Any,
        parse: Callable[[str], Any] | None = None,
        option: str = "",
        metavar: str = "",
        help: str = "",
        *,
        flag: bool = True,
        shown: str = "",
        bare: str = "",
        standard: str = "",
    ) -> None:
        self.name = name
        self.default = default
        self.parse = parse
        self.option = option
        self.metavar = metavar
        self.help = help
        self.flag = flag
        self.shown = shown
        self.bare = bare
        self.standard = standard
        self.variable = PREFIX + name.upper() if option else ""

    def text_of(self, value: Any) -> str:
        """The text from which `parse` makes this value."""
        return str(value).lower() if isinstance(value, bool) else str(value)

    def checked(self, value: Any) -> Any:
        """The value as `parse` would return it. Raises `SettingsError` if it cannot be used."""
        if self.parse is None or (value is None and self.default is None):
            return value
        return self.parse(self.text_of(value))


FIELDS: Final = (
    Field("run_dir", None),
    Field(
        "slow_threshold", 0.1, parse_thresholds, "--slow-threshold", "SECONDS|PATTERN=SECONDS",
        "From this length on a callback is slow; with a unit: 50ms. PATTERN=SECONDS sets it for some callbacks: "
        "'app.batch.*=1.0'. "
        "May be repeated; the last match counts.",
        shown="0.1",
    ),
    Field("slow_patterns", ()),
    Field(
        "metrics_host", "localhost", parse_host, "--metrics-host", "HOST",
        "Where /metrics is served.",
        shown="localhost", standard="OTEL_EXPORTER_PROMETHEUS_HOST",
    ),
    Field(
        "metrics_port", 9464, parse_port, "--metrics-port", "PORT",
        "Its port. 0 takes any free one and prints it. If a port that you asked for is taken, the command ends with "
        "status 2; if the default one is taken, another is used, and a line says so.",
        shown="9464", standard="OTEL_EXPORTER_PROMETHEUS_PORT",
    ),
    Field("metrics_port_required", False),
    Field("metrics", True, parse_flag, "--no-metrics", "", "Serve no metrics, and no page.", flag=False),
    Field("page", True, parse_flag, "--no-page", "", "Serve no live page of the run beside the metrics.", flag=False),
    Field(
        "spans", "all", parse_spans, "--spans", "all|slow|RATIO|off",
        "Which callbacks make a span: all, slow ones, a RATIO from 0 to 1, or none.",
        shown="all",
    ),
    Field("spans_chosen", False),
    Field(
        "otlp_endpoint", None, parse_endpoint, "--otlp-endpoint", "URL",
        "Send spans to this OTLP receiver. Without it OTEL_EXPORTER_OTLP_* decide. Without these, no spans are sent.",
    ),
    Field(
        "collector", "process", parse_collector, "--collector", "process|thread|none",
        "What reads the record: a process of its own; a thread of the program, which competes for the GIL; or none, "
        "and the record stays for `traceloop report`.",
        shown="process",
    ),
    Field(
        "ring_size", 8 << 20, parse_size, "--ring-size", "SIZE",
        "Memory for the record of each loop, from 64K to 4G.",
        shown="8M",
    ),
    Field(
        "record", None, parse_directory, "--record", "DIR",
        "Keep the record in this directory: of each loop as much as its ring holds (`--ring-size`).",
    ),
    Field(
        "command_arguments", False, parse_flag, "--command-arguments", "",
        "Record the program's arguments too, and not only its name. The report and the label `command` show them. They "
        "may have passwords in them.",
    ),
    Field("report", False, parse_flag, "--report", "", "Print a report when the program has ended."),
    Field(
        "html", None, parse_file, "--html", "FILE",
        "Write the report to this file when the program has ended, as one page for a browser.",
    ),
    Field(
        "children", True, parse_flag, "--no-children", "",
        "Leave processes that the program starts untraced.",
        flag=False,
    ),
    Field(
        "keep_uvloop", False, parse_flag, "--keep-uvloop", "",
        "A program that asks for uvloop gets uvloop, and runs untraced.",
    ),
    Field(
        "snapshot_on_stall", None, parse_seconds, "--snapshot-on-stall", "SECONDS",
        "Keep a copy of the record when a callback has run this long.",
    ),
    Field(
        "memory_trace", False, parse_flag, "--memory-trace", "",
        "When memory grows, trace allocations once, to name the lines: for 15 s or 5 % of the time so far at most.",
    ),
    Field(
        "find_blocking", False, parse_flag, "--find-blocking", "",
        "Report the calls on a loop's thread that may block, however quick they are: files, connections, look-ups, "
        "subprocesses, imports, sleeps. Each such call costs some 40 us more.",
    ),
    Field(
        "requests", True, parse_flag, "--no-requests", "",
        "Do not follow requests: leave out their durations and where their time went.",
        flag=False,
    ),
    Field(
        "profile", 0.0, parse_rate, "--profile", "HZ",
        "Sample what the loops run, HZ times a second (up to 1000; 100 without a number). The report, the page and "
        "`traceloop export` then say where the time goes by line.",
        bare="100",
    ),
    Field(
        "profile_workers", False, parse_flag, "--profile-workers", "",
        "With --profile: sample the calls in threads of executors too.",
    ),
    Field(
        "exit_timeout", 2.0, parse_wait, "--exit-timeout", "SECONDS",
        "How long the program's end may wait until its last records are read. A report that you asked for is printed "
        "even if that takes longer.",
        shown="2",
    ),
)  # fmt: skip
_BY_NAME: Final = {field.name: field for field in FIELDS}


class Settings:
    """The choices of one run; immutable, and safe to read from any thread. `Settings(spans="slow")`, by name.

    run_dir: the run directory; None if nothing is shared with a collector process.
    slow_threshold: seconds from which a handle run is slow.
    slow_patterns: (callback pattern, seconds) pairs; the first match overrules the threshold.
    metrics_host, metrics_port: where /metrics is served; port 0 takes any free one.
    metrics_port_required: True if the user named the port: a busy one is then an error instead of a reason to pick
        another.
    metrics: whether it is served at all. page: whether the live page is, beside it.
    spans: "all", "slow", "off", or a ratio from 0 to 1. spans_chosen: True if the user said so; where it is but the
    default, and an endpoint meant for the application's spans gets ours too, there is a notice.
    otlp_endpoint: where spans go, None to leave it to OpenTelemetry's own variables.
    collector: "process", "thread" or "none".
    ring_size: bytes to which each loop's ring may grow.
    record: a directory in which the record is kept, or None.
    command_arguments: whether the record has the program's arguments, or its name only.
    report: whether the text report is printed at the end. html: the file to which it is written as a page, or None.
    children: whether processes started by the program are traced too.
    keep_uvloop: whether a program that asks for uvloop gets it, untraced.
    snapshot_on_stall: seconds of a stall after which the record is copied, or None.
    memory_trace: whether allocations are traced.
    find_blocking: whether calls on a loop's thread that may block are looked for.
    requests: whether requests are followed.
    profile: samples of the profile a second, 0 for none. profile_workers: whether it has the threads of executors too.
    exit_timeout: seconds that a process waits at its exit for its last records to be read.
    """

    __slots__ = tuple(_BY_NAME)

    # For type checkers; a test compares them with the table.
    run_dir: str | None
    slow_threshold: float
    slow_patterns: tuple[tuple[str, float], ...]
    metrics_host: str
    metrics_port: int
    metrics_port_required: bool
    metrics: bool
    page: bool
    spans: str | float
    spans_chosen: bool
    otlp_endpoint: str | None
    collector: str
    ring_size: int
    record: str | None
    command_arguments: bool
    report: bool
    html: str | None
    children: bool
    keep_uvloop: bool
    snapshot_on_stall: float | None
    memory_trace: bool
    find_blocking: bool
    requests: bool
    profile: float
    profile_workers: bool
    exit_timeout: float

    def __init__(self, **values: Any) -> None:
        for field in FIELDS:
            object.__setattr__(self, field.name, values.pop(field.name, field.default))
        if values:
            raise TypeError(f"no such setting: {', '.join(sorted(values))}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Settings are immutable: use replace()")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("Settings are immutable: use replace()")

    def as_dict(self) -> dict[str, Any]:
        """Every field by name, with plain values."""
        return {name: getattr(self, name) for name in self.__slots__}

    def replace(self, **changes: Any) -> Settings:
        """A copy with some fields changed, unchecked."""
        return Settings(**(self.as_dict() | changes))

    def with_choices(self, choices: Mapping[str, Any], on_error: Callable[[str], None] | None = None) -> Settings:
        """A copy with choices from elsewhere: of a program's own code, of a file.

        Texts are understood as in a variable (`ring_size="1M"`). A value that cannot be used raises `SettingsError`,
        which names the field; with `on_error` given, it is called with the line and the field stays as it is.
        """
        changes: dict[str, Any] = {}
        for name, value in choices.items():
            try:
                field = _BY_NAME.get(name)
                if field is None:
                    raise SettingsError(f"no such setting{did_you_mean(name, _BY_NAME)}")
                _put(changes, field, field.checked(value))
                if name == "slow_patterns":
                    changes[name] = tuple((str(pattern), parse_seconds(str(limit))) for pattern, limit in value)
            except (SettingsError, TypeError) as error:
                line = f"{name}: {error}"
                if on_error is None:
                    raise SettingsError(line) from None
                on_error(line)
        return self.replace(**changes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Settings) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(tuple(self.as_dict().items()))

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items())})"

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], Settings], tuple[dict[str, Any]]]:
        return _restored, (self.as_dict(),)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], on_error: Callable[[str], None] | None = None) -> Settings:
        """The settings that the environment names, defaults for the rest.

        A value that cannot be used raises `SettingsError`; with `on_error` given, it is called with the line
        and the default stands (a child of a run goes on where the command would refuse).
        """
        changes: dict[str, Any] = {}
        directory = environ.get(RUN_DIR)
        if directory and directory != NO_DIRECTORY:
            changes["run_dir"] = directory
        for field in FIELDS:
            # The standard variable first: ours overrules it.
            for variable in (field.standard, field.variable):
                text = environ.get(variable, "").strip() if variable else ""
                if not text or field.parse is None:
                    continue
                try:
                    _put(changes, field, field.parse(text))
                except SettingsError as error:
                    line = f"{variable}: {error}"
                    if on_error is None:
                        raise SettingsError(line) from None
                    on_error(line)
        # Inside a run the port is the run's own: a second `traceloop run` there must not insist on it.
        changes["metrics_port_required"] = "metrics_port" in changes and not directory
        changes["spans_chosen"] = "spans" in changes
        return cls(**changes)

    def to_environ(self) -> dict[str, str]:
        """The variables from which `from_environ` makes the same settings; those at their default are left out."""
        out = {RUN_DIR: self.run_dir or NO_DIRECTORY}
        if self.slow_threshold != _BY_NAME["slow_threshold"].default or self.slow_patterns:
            parts = [repr(self.slow_threshold), *(f"{name}={value!r}" for name, value in self.slow_patterns)]
            out[_BY_NAME["slow_threshold"].variable] = ",".join(parts)
        for field in FIELDS:
            value = getattr(self, field.name)
            if not field.variable or value is None or field.name == "slow_threshold":
                continue
            # A standard variable in the environment would take the place of a default that is left out.
            if value != field.default or field.standard or (field.name == "spans" and self.spans_chosen):
                out[field.variable] = field.text_of(value)
        return out

    def threshold_for(self, callback: str, general: float | None = None) -> float:
        """Seconds from which a run of this callback (`module.qualname`) is slow; patterns know `*` and `?`.

        `general`: the threshold of its loop, where that is not the run's.
        """
        for pattern, seconds in self.slow_patterns:
            if _matches(pattern, callback):
                return seconds
        return self.slow_threshold if general is None else general


def _put(changes: dict[str, Any], field: Field, value: Any) -> None:
    """Enters a parsed value. One text holds the threshold and the patterns."""
    if field.name != "slow_threshold":
        changes[field.name] = value
        return
    general, patterns = value
    if patterns:
        changes["slow_patterns"] = patterns
    if general is not None:
        changes["slow_threshold"] = general


def _restored(fields: dict[str, Any]) -> Settings:
    return Settings(**fields)


_chosen: Settings | None = None


def choose(settings: Settings | None) -> None:
    """These are the settings of this process from now on; None: those that its environment names."""
    global _chosen
    _chosen = settings


def chosen(on_error: Callable[[str], None]) -> Settings:
    """The settings of this process: those given to `choose`, else what the environment says now. From any thread.

    `on_error`: called with a line for each variable that cannot be used, and for each that is misspelt.
    """
    if _chosen is not None:
        return _chosen
    import os

    for line in misspelt(os.environ):
        on_error(line)
    return Settings.from_environ(os.environ, on_error=on_error)


def in_run() -> bool:
    """Whether this process belongs to a run, of `traceloop run` or `traceloop.start()`."""
    import os

    return _chosen is not None or bool(os.environ.get(RUN_DIR))


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """A line for each variable that looks like one of ours and is none."""
    known = {field.variable for field in FIELDS if field.variable}.union(OTHER_VARIABLES)
    lines: list[str] = []
    for name in environ:
        if name.startswith(PREFIX) and name not in known:
            hint = did_you_mean(name.removeprefix(PREFIX), (other.removeprefix(PREFIX) for other in known), PREFIX)
            lines.append(f"{name}: no such variable{hint}")
    return lines


def _matches(pattern: str, text: str) -> bool:
    # fnmatch brings the regular expressions with it, some milliseconds at every start: two wildcards need
    # neither.
    star, mark, at, here = -1, 0, 0, 0
    while here < len(text):
        if at < len(pattern) and (pattern[at] == "?" or (pattern[at] == text[here] and pattern[at] != "*")):
            at, here = at + 1, here + 1
        elif at < len(pattern) and pattern[at] == "*":
            star, mark, at = at, here, at + 1
        elif star >= 0:
            mark += 1
            at, here = star + 1, mark
        else:
            return False
    return not pattern[at:].strip("*")
