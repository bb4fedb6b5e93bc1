"""The options of `traceloop run`: parsed here, declared in the settings' table (`traceloop.settings.FIELDS`).

`run` is parsed by the few lines below and not by click, because importing click takes longer than everything
else that the command does before it becomes the program.
"""

from __future__ import annotations

from traceloop.parsing import SettingsError, did_you_mean
from traceloop.settings import FIELDS, Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

#: The fields of the settings that have an option.
OPTIONS = tuple(field for field in FIELDS if field.option)


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
        option = next((option for option in OPTIONS if option.option == name), None)
        if option is None:
            raise UsageError(_unknown(name))
        if not option.metavar:
            if equals:
                raise UsageError(f"{name} takes no value")
            changes[option.name] = option.flag
            continue
        if not equals and option.bare:
            value = option.bare
        elif not equals:
            if at == len(words):
                raise UsageError(f"{name} expects {option.metavar}")
            value = words[at]
            at += 1
        try:
            assert option.parse is not None
            parsed = option.parse(value)
        except SettingsError as error:
            raise UsageError(f"{name}: {error}") from None
        if option.name == "slow_threshold":
            general, more = parsed
            patterns += more
            if general is not None:
                changes["slow_threshold"] = general
        else:
            changes[option.name] = parsed
    if patterns:
        # What was said last counts most, and the command line more than the environment.
        changes["slow_patterns"] = (*reversed(patterns), *base.slow_patterns)
    if "metrics_port" in changes:
        changes["metrics_port_required"] = True
    if "spans" in changes:
        changes["spans_chosen"] = True
    return base.replace(**changes), list(words[at:])


def _unknown(name: str) -> str:
    if not name.startswith("--"):
        return f"no such option: {name} (options of the interpreter go after `python`: traceloop run python {name} ...)"
    known = [option.option for option in OPTIONS]
    near = [option for option in known if option.startswith(name) or name.startswith(option)]
    hint = f"; did you mean {near[0]}?" if near else did_you_mean(name, known)
    return f"no such option: {name}{hint or '; see traceloop run --help'}"
