"""What can be chosen about a run, and how the choice reaches every process of it.

`traceloop run` reads the environment, lays its options over it and writes the result back into the
environment of the program, where each traced process, its children and the collector read it again. Hence one
text form for each value, used by options and variables alike.

This module is imported before the program's first line and in the command's fast path: it imports nothing
beyond what the interpreter has loaded anyway (`dataclasses` alone would cost more than the whole command).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Final

PREFIX: Final = "OTEL_PYTHON_TRACELOOP_"

#: Marks a process as part of a run: the run directory, or `NO_DIRECTORY` where none could be made.
RUN_DIR: Final = PREFIX + "RUN_DIR"
#: The process that `traceloop run` became: it alone prints the run's summary.
ROOT_PID: Final = PREFIX + "ROOT_PID"
NO_DIRECTORY: Final = "none"

MIN_RING_SIZE: Final = 64 << 10
MAX_RING_SIZE: Final = 4 << 30


class SettingsError(ValueError):
    """A value that cannot be used; its text is one line that says what was expected."""


def parse_seconds(text: str) -> float:
    """A number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise SettingsError(f"expected a number of seconds above 0, got {text!r}")
    return value


def parse_wait(text: str) -> float:
    """A number of seconds from 0 to an hour."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise SettingsError(f"expected a number of seconds from 0 to 3600, got {text!r}")
    return value


def parse_thresholds(text: str) -> tuple[float | None, tuple[tuple[str, float], ...]]:
    """`0.1`, `app.batch.*=1.0`, or several with commas: the general threshold or None, then the patterns."""
    general: float | None = None
    patterns: list[tuple[str, float]] = []
    for part in text.split(","):
        pattern, equals, seconds = part.strip().rpartition("=")
        try:
            value = parse_seconds(seconds)
        except SettingsError:
            value = 0.0
        if not value or (equals and not pattern.strip()):
            raise SettingsError(f"expected SECONDS above 0 or PATTERN=SECONDS, got {text!r}")
        if equals:
            patterns.append((pattern.strip(), value))
        else:
            general = value
    return general, tuple(patterns)


def parse_port(text: str) -> int:
    """A TCP port, 0 for any free one."""
    port = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= port <= 65535:
        raise SettingsError(f"expected a port from 0 to 65535, got {text!r}")
    return port


def parse_host(text: str) -> str:
    """A host name or address to listen on."""
    if not text or any(character.isspace() or character == "/" for character in text):
        raise SettingsError(f"expected a host name or an address, got {text!r}")
    return text


def parse_spans(text: str) -> str | float:
    """`all`, `slow`, `off`, or the share of handle runs that make a span, from 0 to 1."""
    if text in ("all", "slow", "off"):
        return text
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise SettingsError(f"expected all, slow, off or a ratio from 0 to 1, got {text!r}")
    return ratio


def parse_endpoint(text: str) -> str:
    """The address of an OTLP receiver."""
    scheme, separator, rest = text.partition("://")
    if scheme not in ("http", "https") or not separator or not rest.strip("/") or " " in text:
        raise SettingsError(f"expected an http:// or https:// address, got {text!r}")
    return text


def parse_collector(text: str) -> str:
    """Where the record is read: `process`, `thread` or `none`."""
    if text not in ("process", "thread", "none"):
        raise SettingsError(f"expected process, thread or none, got {text!r}")
    return text


def parse_size(text: str) -> int:
    """Bytes, with K, M or G for powers of 1024 (`8M`, `8MiB`)."""
    bare = text.strip().lower()
    for ending in ("ib", "b"):
        if bare.endswith(ending):
            bare = bare[: -len(ending)]
            break
    shift = {"k": 10, "m": 20, "g": 30}.get(bare[-1:], 0)
    digits = bare[:-1] if shift else bare
    size = int(digits) << shift if digits.isascii() and digits.isdigit() and len(digits) < 20 else 0
    if not MIN_RING_SIZE <= size <= MAX_RING_SIZE:
        raise SettingsError(f"expected a size from 64K to 4G, as in 8M, got {text!r}")
    return size


def parse_directory(text: str) -> str:
    """The path of a directory."""
    if not text or "\0" in text:
        raise SettingsError(f"expected the path of a directory, got {text!r}")
    return text


def parse_flag(text: str) -> bool:
    """A truth value as OpenTelemetry's variables are written, and as people write them."""
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise SettingsError(f"expected true or false, got {text!r}")


class Settings:
    """The choices of one run; immutable, and safe to read from any thread.

    run_dir: the run directory, None where nothing is shared with a collector process.
    slow_threshold: seconds from which a handle run is slow.
    slow_patterns: (callback pattern, seconds) pairs, of which the first match overrules the threshold.
    metrics_host, metrics_port: where /metrics is served; port 0 takes any free one.
    metrics_port_required: the port was asked for: a taken one is an error, no reason to take another.
    metrics: whether it is served at all.
    spans: "all", "slow", "off", or a ratio from 0 to 1.
    otlp_endpoint: where spans go, None to leave it to OpenTelemetry's own variables.
    collector: "process", "thread" or "none".
    ring_size: bytes of each loop's ring.
    record: a directory in which the record is kept, or None.
    report: whether the text report is printed at the end.
    children: whether processes started by the program are traced too.
    keep_uvloop: whether a program that asks for uvloop gets it, untraced.
    snapshot_on_stall: seconds of a stall after which the record is copied, or None.
    memory_trace: whether allocations are traced.
    exit_timeout: seconds that a process waits at its exit for its last records to be read.
    """

    __slots__ = (
        "children",
        "collector",
        "exit_timeout",
        "keep_uvloop",
        "memory_trace",
        "metrics",
        "metrics_host",
        "metrics_port",
        "metrics_port_required",
        "otlp_endpoint",
        "record",
        "report",
        "ring_size",
        "run_dir",
        "slow_patterns",
        "slow_threshold",
        "snapshot_on_stall",
        "spans",
    )

    children: bool
    collector: str
    exit_timeout: float
    keep_uvloop: bool
    memory_trace: bool
    metrics: bool
    metrics_host: str
    metrics_port: int
    metrics_port_required: bool
    otlp_endpoint: str | None
    record: str | None
    report: bool
    ring_size: int
    run_dir: str | None
    slow_patterns: tuple[tuple[str, float], ...]
    slow_threshold: float
    snapshot_on_stall: float | None
    spans: str | float

    def __init__(
        self,
        *,
        run_dir: str | None = None,
        slow_threshold: float = 0.1,
        slow_patterns: tuple[tuple[str, float], ...] = (),
        metrics_host: str = "localhost",
        metrics_port: int = 9464,
        metrics_port_required: bool = False,
        metrics: bool = True,
        spans: str | float = "all",
        otlp_endpoint: str | None = None,
        collector: str = "process",
        ring_size: int = 8 << 20,
        record: str | None = None,
        report: bool = False,
        children: bool = True,
        keep_uvloop: bool = False,
        snapshot_on_stall: float | None = None,
        memory_trace: bool = False,
        exit_timeout: float = 2.0,
    ) -> None:
        values = locals()
        for name in self.__slots__:
            object.__setattr__(self, name, values[name])

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Settings are immutable: use replace()")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("Settings are immutable: use replace()")

    def as_dict(self) -> dict[str, Any]:
        """Every field by name, with plain values."""
        return {name: getattr(self, name) for name in self.__slots__}

    def replace(self, **changes: Any) -> Settings:
        """A copy with some fields changed."""
        return Settings(**(self.as_dict() | changes))

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
        for variable, parse, field in _VARIABLES:
            text = environ.get(variable, "").strip()
            if not text:
                continue
            try:
                value = parse(text)
            except SettingsError as error:
                line = f"{variable}: {error}"
                if on_error is None:
                    raise SettingsError(line) from None
                on_error(line)
                continue
            if field == "slow_threshold":
                general, patterns = value
                changes["slow_patterns"] = patterns
                if general is not None:
                    changes[field] = general
            else:
                changes[field] = value
        # Inside a run the port is the run's own: a second `traceloop run` there must not insist on it.
        changes["metrics_port_required"] = "metrics_port" in changes and not directory
        return cls(**changes)

    def to_environ(self) -> dict[str, str]:
        """The variables from which `from_environ` makes the same settings; those at their default are left
        out.
        """
        default = Settings()
        out = {RUN_DIR: self.run_dir or NO_DIRECTORY}
        if (self.slow_threshold, self.slow_patterns) != (default.slow_threshold, default.slow_patterns):
            parts = [repr(self.slow_threshold), *(f"{name}={value!r}" for name, value in self.slow_patterns)]
            out[PREFIX + "SLOW_THRESHOLD"] = ",".join(parts)
        for variable, _, field in _VARIABLES:
            value = getattr(self, field)
            if field == "slow_threshold" or not variable.startswith(PREFIX) or value is None:
                continue
            if value == getattr(default, field) and field not in ("metrics_host", "metrics_port"):
                continue
            out[variable] = str(value).lower() if isinstance(value, bool) else str(value)
        return out

    def threshold_for(self, callback: str, general: float | None = None) -> float:
        """Seconds from which a run of this callback (`module.qualname`) is slow; patterns know `*` and `?`.

        `general`: the threshold of its loop, where that is not the run's.
        """
        for pattern, seconds in self.slow_patterns:
            if _matches(pattern, callback):
                return seconds
        return self.slow_threshold if general is None else general


def _restored(fields: dict[str, Any]) -> Settings:
    return Settings(**fields)


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


# The standard variables stand first: ours of the same field overrule them.
_VARIABLES: tuple[tuple[str, Callable[[str], Any], str], ...] = (
    ("OTEL_EXPORTER_PROMETHEUS_HOST", parse_host, "metrics_host"),
    ("OTEL_EXPORTER_PROMETHEUS_PORT", parse_port, "metrics_port"),
    (PREFIX + "SLOW_THRESHOLD", parse_thresholds, "slow_threshold"),
    (PREFIX + "METRICS_HOST", parse_host, "metrics_host"),
    (PREFIX + "METRICS_PORT", parse_port, "metrics_port"),
    (PREFIX + "METRICS", parse_flag, "metrics"),
    (PREFIX + "SPANS", parse_spans, "spans"),
    (PREFIX + "OTLP_ENDPOINT", parse_endpoint, "otlp_endpoint"),
    (PREFIX + "COLLECTOR", parse_collector, "collector"),
    (PREFIX + "RING_SIZE", parse_size, "ring_size"),
    (PREFIX + "RECORD", parse_directory, "record"),
    (PREFIX + "REPORT", parse_flag, "report"),
    (PREFIX + "CHILDREN", parse_flag, "children"),
    (PREFIX + "KEEP_UVLOOP", parse_flag, "keep_uvloop"),
    (PREFIX + "SNAPSHOT_ON_STALL", parse_seconds, "snapshot_on_stall"),
    (PREFIX + "MEMORY_TRACE", parse_flag, "memory_trace"),
    (PREFIX + "EXIT_TIMEOUT", parse_wait, "exit_timeout"),
)
