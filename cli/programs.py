"""Finds the program that the words after `traceloop run` name: which interpreter runs, with which arguments.

`traceloop run X` means `python X` wherever `python` can run X. So X goes to the interpreter unchanged, and the
interpreter reports what is wrong with it. Anything else is a command: a console script or an interpreter on PATH.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Options of the interpreter that take a value: in the same word, or as the next one.
_WITH_VALUE = "WXcm"


class Refused(Exception):
    """The words name nothing that can be traced; the text is one line."""


class Program:
    """An interpreter and its command line, which begins with the interpreter's own name.

    missing: the file is not there; the interpreter is run all the same, untraced, and says so in its own
    words. probe: the options with which to ask the interpreter whether it has the startup hook, None where
    that is known.
    """

    def __init__(self, executable: str, argv: list[str], probe: list[str] | None = None, missing: bool = False) -> None:
        self.executable = executable
        self.argv = argv
        self.probe = probe
        self.missing = missing


def resolve(words: Sequence[str], environ: Mapping[str, str], own_options: Sequence[str] = ()) -> Program:
    """The program that the words name. `own_options` are those of the interpreter that runs this command."""
    own = sys.executable
    if not own:
        raise Refused("the interpreter does not know its own path")
    first, rest = words[0], list(words[1:])
    probe = list(own_options) if changes_start(own_options) else None
    if first.startswith("-"):
        # Options of the interpreter, unless a file has such a name (after `--`).
        options = ["--"] if os.path.lexists(first) and first != "-" else []
        if not options and first != "-" and first[:2] not in ("-m", "-c"):
            options_in_words = interpreter_options(words)
            if changes_start(options_in_words):
                probe = [*own_options, *options_in_words]
        return Program(own, [own, *own_options, *options, *words], probe)
    found = None
    if not _is_program_path(first):
        # PATH does not have the folder of an environment that is not activated (in a unit of systemd, a container).
        found = which(first, environ) or which(first, {"PATH": os.path.dirname(own)})
        if found is None:
            if os.path.lexists(first) or "/" in first or first.endswith((".py", ".pyc", ".pyz", ".zip")):
                missing = not os.path.exists(first)
                return Program(own, [own, *own_options, *words], probe, missing)
            raise Refused(f"no such file, and no such command on PATH: {first}")
    path = found or first
    if is_interpreter_name(path):
        options = interpreter_options(rest)
        foreign = not is_own_interpreter(path)
        return Program(path, list(words), options if foreign or changes_start(options) else None)
    interpreter, options = _script_interpreter(path, environ, is_command=found is not None)
    if interpreter is None or is_own_interpreter(interpreter):
        if changes_start(options):
            probe = [*own_options, *options]
        return Program(own, [own, *own_options, *options, path, *rest], probe)
    return Program(interpreter, [interpreter, *options, path, *rest], options)


def _is_program_path(path: str) -> bool:
    """Whether the interpreter would find a program there. A folder is one only with a `__main__` in it."""
    if os.path.isdir(path):
        return any(os.path.isfile(os.path.join(path, "__main__" + ending)) for ending in (".py", ".pyc"))
    return os.path.exists(path)


def which(command: str, environ: Mapping[str, str]) -> str | None:
    """The path of a command, as a shell finds it."""
    if "/" in command:
        return None
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder or ".", command)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def is_interpreter_name(path: str) -> bool:
    """Whether the last part of the path is python, python3, python3.12, pypy3 or the like."""
    name = os.path.basename(path)
    for stem in ("python", "pypy"):
        if name.startswith(stem):
            return not name[len(stem) :].replace(".", "").rstrip("td").strip("0123456789")
    return False


def is_own_interpreter(path: str) -> bool:
    """Whether running this path runs the interpreter of this very environment."""
    own = sys.executable
    try:
        # A virtual environment is its folder: its python is a link to the same file as that of the next.
        return os.path.realpath(path) == os.path.realpath(own) and os.path.realpath(
            os.path.dirname(os.path.abspath(path))
        ) == os.path.realpath(os.path.dirname(own))
    except OSError:
        return False


def interpreter_options(words: Sequence[str]) -> list[str]:
    """The leading words that are options of the interpreter, without `-c`, `-m`, a file and what follows."""
    out: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if not word.startswith("-") or word in ("-", "--"):
            break
        if word.startswith("--"):
            out.append(word)
            if word == "--check-hash-based-pycs" and at + 1 < len(words):
                at += 1
                out.append(words[at])
            at += 1
            continue
        letters = 1
        while letters < len(word) and word[letters] not in _WITH_VALUE:
            letters += 1
        if letters < len(word) and word[letters] in "cm":
            if letters > 1:
                out.append(word[:letters])
            break
        out.append(word)
        at += 1
        if letters == len(word) - 1 and at < len(words):  # -X dev, in two words
            out.append(words[at])
            at += 1
    return out


def changes_start(options: Sequence[str]) -> bool:
    """Whether these options may keep the startup hook from running: no site, isolated, no user site."""
    letters = ""
    skip = False
    for word in options:
        if skip:
            skip = False
        elif word.startswith("-") and not word.startswith("--"):
            for letter in word[1:]:
                if letter in _WITH_VALUE:
                    skip = word.endswith(letter)
                    break
                letters += letter
    return any(letter in letters for letter in "SIs")


def _script_interpreter(path: str, environ: Mapping[str, str], is_command: bool) -> tuple[str | None, list[str]]:
    """The interpreter that a script asks for, with its options; None where this one will do.

    Refuses what is not Python.

    The first line counts for commands found on PATH, as it does for a shell. A script given by its path is run as
    `python PATH` would run it, whatever its first line says, unless it is the console script of another environment,
    which would not find its packages here.
    """
    if not os.path.isfile(path):
        return None, []  # a folder, a pipe or /dev/stdin, whose first line cannot be read here
    try:
        with open(path, "rb") as file:
            head = file.read(8192)  # a launcher has the whole path of its interpreter
    except OSError:
        return None, []  # the interpreter will report why
    if head.startswith((b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")):
        raise Refused(f"{path} is a binary, not a Python program")
    if not head.startswith(b"#!"):
        return None, []
    words = _first_line(head)
    if not words:
        return None, []
    if not is_interpreter_name(words[0]):
        # poetry, `uv run --script`, nix-shell, the shell that starts a pex: `python PATH` runs these too.
        if is_command or not _python_runs(path):
            raise Refused(f"{path} is a script for {os.path.basename(words[0])}, not a Python program")
        return None, []
    interpreter = words[0] if "/" in words[0] else which(words[0], environ)
    if interpreter is None:
        return None, []
    if is_command or os.path.dirname(os.path.realpath(path)) == os.path.realpath(os.path.dirname(interpreter)):
        return interpreter, interpreter_options(words[1:])
    return None, []


def _first_line(head: bytes) -> list[str]:
    """The words of a script's first line behind `#!`, as the kernel, `env` and pip's launcher understand them."""
    line, _, after = head.partition(b"\n")
    words = os.fsdecode(line[2:]).split()
    if words and os.path.basename(words[0]) == "sh" and after.startswith(b"'''exec' "):
        # pip's and uv's way around the kernel, which ends a path at a blank and after a certain length
        import shlex

        try:
            words = shlex.split(os.fsdecode(after.partition(b"\n")[0][len(b"'''exec' ") :].partition(b' "$0"')[0]))
        except ValueError:  # a quote that does not end
            return []
    if words and os.path.basename(words[0]) == "env":
        words = [word.removeprefix("-S") for word in words[1:]]
        words = [word for word in words if word and "=" not in word]
    return words


def _python_runs(path: str) -> bool:
    """Whether `python PATH` would begin to run it. Only asked for a script that names another interpreter."""
    import warnings
    from zipfile import is_zipfile

    if is_zipfile(path):
        return True
    try:
        with open(path, "rb") as file, warnings.catch_warnings(action="ignore"):
            compile(file.read(), path, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
