"""Words click's errors as `traceloop run` does: one line that says what was expected and what was given."""

from __future__ import annotations

import errno
import os
import re
from typing import Final

import click

from traceloop.parsing import did_you_mean

# click's own sentences, of the versions that we support. Others stay as they are.
_SENTENCES: Final = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"Directory '(.*)' does not exist", r"there is no folder \1"),
        (r"(?:File|Path) '(.*)' does not exist", r"there is no file \1"),
        (r"(?:Directory|File|Path) '(.*)' is not readable", r"cannot read \1: Permission denied"),
        (r"Directory '(.*)' is a file", r"\1 is a file, and a folder is expected"),
        (r"File '(.*)' is a directory", r"\1 is a folder, and a file is expected"),
        (r"'(.*)' is not a valid (?:integer|float)(?: range)?", r"expected a number, got '\1'"),
        (r"No such command '(.*)'\. Did you mean '(.*)'\?", r"no such command: \1; did you mean \2?"),
        (r"No such command '([^']*)'", r"no such command: \1"),
        (r"(\S+) is not in the range x>=(\S+)", r"expected \2 or more, got \1"),
        (r"(\S+) is not in the range (\S+)<=x<=(\S+)", r"expected a number from \2 to \3, got \1"),
        (r"'(.*)' is not one of (.*)", r"expected one of \2, got '\1'"),
        (r"Got unexpected extra arguments? \((.*)\)", r"more than was expected: \1"),
        (r"Option '(.*)' requires an argument", r"\1 expects a value"),
        (r"Option '(.*)' does not take a value", r"\1 takes no value"),
    )
)


def one_line(error: click.ClickException) -> str:
    """The error in a line without a full stop, with a hint where to read on."""
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption):
        known = [name for each in context.command.params for name in each.opts] if context is not None else []
        text = f"no such option: {error.option_name}{did_you_mean(error.option_name, known)}"
    elif isinstance(error, click.MissingParameter):
        text = _missing(error)
    elif isinstance(error, click.BadParameter):
        name = _name(error)
        text = f"{name}: {_in_our_words(error.message)}" if name else _in_our_words(error.message)
    else:
        text = _in_our_words(error.format_message())
    if context is not None and not text.endswith("?"):
        text += f"; see {context.command_path} --help"
    return text


def _name(error: click.BadParameter) -> str:
    if error.param is None:
        return str(error.param_hint or "")
    if isinstance(error.param, click.Argument):
        return (error.param.name or "").upper()
    return max(error.param.opts, key=len)


def _missing(error: click.MissingParameter) -> str:
    kind = error.param.type if error.param is not None else None
    expected = f": expected one of {', '.join(map(str, kind.choices))}" if isinstance(kind, click.Choice) else ""
    return f"{_name(error)} is missing{expected}"


def _in_our_words(message: str) -> str:
    text = " ".join(message.split()).rstrip(".")
    for pattern, replacement in _SENTENCES:
        found = pattern.fullmatch(text)
        if found is not None:
            text = found.expand(replacement)
            break
    # Names in a list are shown as they are typed, without quotes.
    return re.sub(r"'([\w-]+)'(?=, )|(?<=, )'([\w-]+)'(?=,)", lambda match: match[1] or match[2], text)


def unwritable(path: str | os.PathLike[str], error: OSError) -> click.ClickException:
    """The error for a requested file that cannot be written: a usage error, unless the disk is full."""
    text = f"cannot write {os.fspath(path)}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
        return click.ClickException(text)
    return click.UsageError(text)
