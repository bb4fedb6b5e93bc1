"""Code sites: the places in the code that a record's idents point to.

An ident, in a record, is a site's number plus ``SITE_LIMIT`` times a task's number (see layout.py).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from .layout import SITE_LIMIT

#: The name of a site that was never written down, or whose line in the site log was lost.
UNKNOWN_LABEL: Final = "unknown"

# Integers up to here are exact in a double. No writer makes a larger ident: only damage does.
_EXACT: Final = 2.0**53


def module_name(name: object) -> str:
    """A module's name as it is recorded; "" if it is no text. A child that multiprocessing spawns calls the program's
    own file ``__mp_main__``. It is the same code as its parent's ``__main__``, and so gets that name.
    """
    if not isinstance(name, str):
        return ""
    return "__main__" if name == "__mp_main__" else name


class Site(NamedTuple):
    """A place in the code. ``line`` is 0 and ``file`` empty where there is no Python source (C functions)."""

    module: str
    qualname: str
    file: str
    line: int

    @property
    def label(self) -> str:
        """``module.qualname``, with the line for lambdas, which are all called the same."""
        name = f"{self.module}.{self.qualname}" if self.module else self.qualname
        if self.qualname.endswith("<lambda>"):
            return f"{name}:{self.line}"
        return name


#: Site 0: callbacks that could not be named.
UNKNOWN_SITE: Final = Site("", UNKNOWN_LABEL, "", 0)


#: Sites of the loop's own work, which is recorded if it takes long, in the order of ``core.interface.DUE_TIMERS``.
OWN_WORK: Final = (
    Site("asyncio.eventloop", "due_timers", "", 0),
    Site("asyncio.eventloop", "cancelled_timers", "", 0),
    Site("asyncio.eventloop", "poll_results", "", 0),
)
_OWN_WORK_WORDS: Final = {
    OWN_WORK[0].label: "the loop itself (timers that fell due)",
    OWN_WORK[1].label: "the loop itself (cancelled timers)",
    OWN_WORK[2].label: "the loop itself (results of a poll)",
}


def in_words(label: str) -> str:
    """The label; for the loop's own work, what it does in words."""
    return _OWN_WORK_WORDS.get(label, label)


def is_own_work(label: str) -> bool:
    """Whether a label is of the loop's own work."""
    return label in _OWN_WORK_WORDS


def site_of(ident: float) -> int:
    """The site number of an ident; 0 (unknown) for what is no ident: NaN, infinity, a negative number."""
    return int(ident) % SITE_LIMIT if 0.0 <= ident < _EXACT else 0


def task_of(ident: float) -> int:
    """The task number of an ident; 0 if no task ran, and for what is no ident."""
    return int(ident) // SITE_LIMIT if 0.0 <= ident < _EXACT else 0
