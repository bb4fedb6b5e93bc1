"""What a rule finds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from ...record.plumbing import readable
from ..units import counted

#: The program suffers from it; it costs something, or will; worth knowing.
CRITICAL: Final = "critical"
WARNING: Final = "warning"
NOTE: Final = "note"
SEVERITIES: Final = (CRITICAL, WARNING, NOTE)

DOCS: Final = "docs/findings/"
_PACKAGES: Final = re.compile(r"/(?:site|dist)-packages/")


class Who(NamedTuple):
    """Code that a finding names. Empty strings and line 0: not known.

    function: ``module.qualname``. file: as the interpreter has it. callback: what the loop ran, where that is other
    code (a server's, for a handler of the application).
    """

    function: str
    file: str = ""
    line: int = 0
    callback: str = ""

    @property
    def place(self) -> str:
        """``app/prices.py:31 in load_prices``; the function's full name if its file is not known; for functions of
        asyncio or ours, what they do.
        """
        return place_of(self.function, self.file, self.line)


class Finding(NamedTuple):
    """One thing that is wrong.

    kind: the name of its rule and of its page in docs/findings/. detail: the sort of it (``sleep``), or "".
    title: what is wrong and where, one sentence without a full stop. harm: how bad it is.
    cost_s: seconds that the program lost by it; findings are ranked by this. A leak, which costs nothing until memory
    is used up, ranks as if it cost ``thresholds.LEAK_SHARE`` of the time observed.
    process: slot. loop: label, "" where it concerns the whole process. evidence: what was measured, a line each.
    remedy: what to do. stack: the application's frames of the run that stands for the others, innermost first.
    """

    kind: str
    detail: str
    severity: str
    title: str
    harm: str
    cost_s: float
    process: int
    loop: str
    who: Who | None
    evidence: tuple[str, ...]
    remedy: str
    stack: tuple[str, ...] = ()

    @property
    def is_the_machines(self) -> bool:
        """Whether the finding is that the machine is busy with something else, which no change of the program mends."""
        return self.kind == "processor-starved" and not self.detail

    @property
    def page(self) -> str:
        """The page of the docs, as a path in the repository."""
        return f"{DOCS}{self.kind}.md"

    @property
    def explained_by(self) -> str:
        """The command that shows this page. It is installed with the package."""
        return f"traceloop explain {self.kind}"


class Verdict(NamedTuple):
    """All findings, the worst first.

    ``basis``: what was looked at, which a reader needs to know if nothing was found. ``busy``: sentences about loops
    that are active nearly all the time in processes without a finding: where their time goes. ``is_blank``: nothing was
    recorded that could be judged.
    """

    findings: tuple[Finding, ...]
    basis: str
    busy: tuple[str, ...] = ()
    is_blank: bool = False

    @property
    def troubles(self) -> tuple[Finding, ...]:
        """Those that are more than notes."""
        return tuple(found for found in self.findings if found.severity != NOTE)

    @property
    def all_clear(self) -> str:
        """Says that nothing was found, or that nothing could be judged; the basis follows it."""
        return "nothing is known of the program" if self.is_blank else "no trouble found"

    @property
    def line(self) -> str:
        """One line without a full stop: the worst finding; or that there is none, and the basis of that. Notes are
        counted then: a stall that was reported while it lasted may be no more.
        """
        troubles = self.troubles
        if not troubles:
            notes = f"; {counted(len(self.findings), 'note')}" if self.findings else ""
            return f"{self.all_clear} ({self.basis}){notes}"
        (worst, *alike), *more = together(troubles)
        text = f"{worst.title} ({worst.harm})"
        text += f", likewise in {counted(len(alike), 'more process', 'more processes')}" if alike else ""
        return text + (f"; and {counted(len(more), 'more finding')}" if more else "")


def together(troubles: Iterable[Finding]) -> list[list[Finding]]:
    """The findings that several processes have alike (workers of a server), each group where its worst one stands."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for found in troubles:
        those = groups.setdefault((found.kind, found.title), [])
        if any(each.process == found.process for each in those):
            groups[found.kind, f"{found.title} {len(groups)}"] = [found]  # two of one process are two
        else:
            those.append(found)
    return list(groups.values())


def place_of(function: str, file: str, line: int) -> str:
    """As ``Who.place``."""
    words = readable(function)
    if not file or words != function:
        return words
    name = function.rpartition(".<locals>.")[2]
    if name.startswith("<lambda>:"):
        name = "<lambda>"  # the line that it begins at is in its name
    parts = name.split(".")
    # Of module.Class.method the file names the module.
    short = ".".join(parts[-2:] if len(parts) > 2 and parts[-2][:1].isupper() else parts[-1:])
    return f"{short_path(file)}:{line} in {short}"


def short_path(file: str) -> str:
    """The last folder and the name of a file, without the installation's prefix. For a library's file also the package,
    because many packages have folders of the same name: ``anyio/_core/_sockets.py``.
    """
    packages = _PACKAGES.split(file, maxsplit=1)
    if len(packages) == 2:
        package, *inner = packages[1].split("/")
        return "/".join([package, *(["…"] if len(inner) > 2 else []), *inner[-2:]])
    folder, name = os.path.split(file)
    parent = os.path.basename(folder)
    return f"{parent}/{name}" if parent and not file.startswith("<") else name
