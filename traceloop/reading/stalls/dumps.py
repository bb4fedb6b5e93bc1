"""Reads stacks that faulthandler wrote, and gives their frames the names that our own stacks have.

A dump has files, lines and bare function names. The module of a file comes from the process (which records it as soon
as it can), from its site log, or from the package folders around the file. The qualified name is found in the source,
by the line. Where the source cannot be read, the bare name stays.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable
from functools import lru_cache

from ...record.frames import Frame, is_loop
from ...record.text import MAX_TEXT, printable

_THREAD = re.compile(r"(?:Current thread|Thread) 0x([0-9a-fA-F]+)")
_FRAME = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')
_MAX_SOURCE = 4 << 20


class DumpedThread:
    """One thread of a dump. frames: (file, line, function), outermost first, cut at 100 by faulthandler."""

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.frames: list[tuple[str, int, str]] = []

    def below_loop(self) -> list[tuple[str, int, str]] | None:
        """The frames of the handle that runs; None where this thread runs no loop of ours."""
        for index in range(len(self.frames) - 1, -1, -1):
            file, _, function = self.frames[index]
            if is_loop(file, function):
                return self.frames[index + 1 :]
        return None


def parse_dump(text: str) -> list[DumpedThread]:
    """The threads of one dump, or of several in a row. Lines of another form are ignored."""
    threads: list[DumpedThread] = []
    for line in text.splitlines():
        match = _THREAD.match(line)
        if match:
            threads.append(DumpedThread(int(match.group(1), 16)))
            continue
        match = _FRAME.match(line)
        if match and threads:
            file, number, function = match.groups()
            line_number = int(number) if number.isdigit() else 0
            if not line_number and "/" not in file and not file.startswith("<"):
                continue  # the frame was just being made: the string in the place of its file is something else
            threads[-1].frames.append((printable(file, MAX_TEXT), line_number, printable(function)))
    for thread in threads:
        thread.frames.reverse()
    return threads


def name_frames(frames: list[tuple[str, int, str]], module_of: Callable[[str], str]) -> list[Frame]:
    """Frames with module and qualified name. ``module_of``: the module of a file, "" where it is not known."""
    out: list[Frame] = []
    for file, line, function in frames:
        module = module_of(file) or module_by_path(file)
        out.append((file, line, module, qualname_at(file, line, function)))
    return out


@lru_cache(maxsize=1024)
def module_by_path(file: str) -> str:
    """The module that a file would be imported as, from the packages around it."""
    if not file or file.startswith("<"):
        return ""
    folder, name = os.path.split(file)
    stem = name.removesuffix(".py")
    parts = [] if stem == "__init__" else [stem]
    while os.path.isfile(os.path.join(folder, "__init__.py")) and len(parts) < 20:
        folder, package = os.path.split(folder)
        parts.insert(0, package)
    return ".".join(parts)


def qualname_at(file: str, line: int, function: str) -> str:
    """The qualified name of the function called ``function`` that has this line."""
    best = ""
    for name, first, last, qualname in _functions_of(file):
        # The later one is the inner one.
        if first <= line <= last and name == function:
            best = qualname
    return best or function


@lru_cache(maxsize=64)
def _functions_of(file: str) -> tuple[tuple[str, int, int, str], ...]:
    try:
        if os.path.getsize(file) > _MAX_SOURCE:
            return ()
        with open(file, "rb") as source:
            tree = ast.parse(source.read())
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return ()
    out: list[tuple[str, int, int, str]] = []
    todo: list[tuple[ast.AST, str]] = [(tree, "")]
    while todo:
        node, prefix = todo.pop()
        for child in ast.iter_child_nodes(node):
            inside = prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
                out.append((child.name, first, child.end_lineno or child.lineno, prefix + child.name))
                inside = f"{prefix}{child.name}.<locals>."
            elif isinstance(child, ast.Lambda):
                name = f"{prefix}<lambda>:{child.lineno}"
                out.append(("<lambda>", child.lineno, child.end_lineno or child.lineno, name))
            elif isinstance(child, ast.ClassDef):
                inside = f"{prefix}{child.name}."
            todo.append((child, inside))
    out.sort(key=lambda entry: (entry[1], -entry[2]))
    return tuple(out)
