"""From the text of an option or a variable to a value: one function for each kind.

Each raises `SettingsError`, whose line says what was expected. Imports next to nothing: see settings.py.
"""

from __future__ import annotations

import os

from .record.secrets import without_secrets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

MIN_RING_SIZE: Final = 64 << 10
MAX_RING_SIZE: Final = 4 << 30


class SettingsError(ValueError):
    """A value that cannot be used; its text is one line that says what was expected."""


# By what a number with this unit is divided for seconds: dividing rounds once, as reading 0.05 does.
_UNITS: Final = (("ms", 1e3), ("us", 1e6), ("µs", 1e6), ("s", 1.0), ("", 1.0))


def parse_seconds(text: str) -> float:
    """A time above 0, in seconds if it has no unit: ``0.2``, ``50ms``, ``20us``, ``1.5s``."""
    value = _seconds(text)
    if not 0 < value < float("inf"):
        raise SettingsError(f"expected a number of seconds above 0 or a time such as 50ms, got {text!r}")
    return value


def _seconds(text: str) -> float:
    """The same of any number; below 0 for what is none."""
    bare = text.strip()
    unit, divisor = next(each for each in _UNITS if bare.endswith(each[0]))
    try:
        return float(bare.removesuffix(unit)) / divisor
    except ValueError:
        return -1.0


def parse_rate(text: str) -> float:
    """A number of times a second, from 0 (not at all) to 1000; a flag's yes is 100."""
    if text.strip().lower() in ("true", "yes", "on"):
        return 100.0
    if text.strip().lower() in ("false", "no", "off"):
        return 0.0
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1000:
        raise SettingsError(f"expected a number of samples a second, from 0 to 1000, got {text!r}")
    return value


def parse_duration(text: str) -> float:
    """A time above 0 with its unit: a budget of 50 that was meant as milliseconds would never be broken."""
    value = _seconds(text)
    if not 0 < value < float("inf"):
        raise SettingsError(f"expected a duration above 0, such as 50ms or 0.2s, got {text!r}")
    bare = text.strip()
    if not bare.endswith("s"):
        raise SettingsError(f"{bare}: which unit? {bare}ms or {bare}s")
    return value


def parse_wait(text: str) -> float:
    """A time from 0 to an hour, in seconds if it has no unit."""
    value = _seconds(text)
    if not 0 <= value <= 3600:
        raise SettingsError(f"expected a number of seconds from 0 to 3600, got {text!r}")
    return value


def parse_thresholds(text: str) -> tuple[float | None, tuple[tuple[str, float], ...]]:
    """`0.1`, `50ms`, `app.batch.*=1.0`, or several with commas: the general threshold or None, then the patterns."""
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
        raise SettingsError(f"expected an http:// or https:// address, got {without_secrets(text)!r}")
    # Behind what a user and a password may be. An IPv6 address is in brackets.
    address = rest.partition("/")[0].rpartition("@")[2]
    _, colon, port = address.rpartition("]")[2].rpartition(":")
    if colon and not (port.isdecimal() and 0 < int(port) < 65536):
        raise SettingsError(f"expected a port from 1 to 65535 in {without_secrets(text)!r}")
    host = address[: -len(colon + port)] if colon else address
    if not all(0 < len(label) < 64 for label in host.removesuffix(".").split(".")) and not host.startswith("["):
        raise SettingsError(f"expected the name or the address of a host in {without_secrets(text)!r}")
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


def parse_file(text: str) -> str:
    """The path of a file that is written at the end, wherever the program has gone by then."""
    if not text or "\0" in text or text.endswith("/"):
        raise SettingsError(f"expected the path of a file, got {text!r}")
    folder = os.path.dirname(os.path.abspath(text))
    if not os.path.isdir(folder):
        raise SettingsError(f"there is no directory {folder}")
    return os.path.abspath(text)


def parse_flag(text: str) -> bool:
    """A truth value as OpenTelemetry's variables are written, and as people write them."""
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise SettingsError(f"expected true or false, got {text!r}")


def did_you_mean(name: str, known: Iterable[str], prefix: str = "", nearness: float = 0.75) -> str:
    """`; did you mean X?`, or nothing where no known name is near; `prefix` stands before all of them."""
    from difflib import get_close_matches  # not above: it brings in the regular expressions

    near = get_close_matches(name, list(known), 1, nearness)
    return f"; did you mean {prefix}{near[0]}?" if near else ""
