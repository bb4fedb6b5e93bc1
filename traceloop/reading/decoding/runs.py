"""Handle runs and iterations of a chunk, by column: what the decoders make and the statistics and spans read.

There are two forms of each. The plain one, here, is a list of rows, which Python makes faster than columns; the other
one keeps its rows in C structures (``native/runs.c``), where nothing is a Python object until it is asked for.
Readers ask for the columns that they look through, and for the few rows that they need whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from ...record.layout import SITE_LIMIT

#: One handle run, a plain tuple for speed: number (counts the ring's runs from 1, lost ones excepted), start and end
#: (monotonic s), ident (see record/sites.py), kind (KINDS), delay (s, -1 unknown), number of the run that scheduled it
#: (0 unknown or none), number of the span in its context (0 none), iteration number, outcome (0, or layout.OUTCOME_*
#: when it was its task's last step).
Run = tuple[int, float, float, float, str, float, int, int, int, int]


class Iteration(NamedTuple):
    """One iteration. Times in s; ``start`` is the poll's return, ``end`` the end of its last run.

    poll_delay: how late the poll returned after its timeout; -1 where it did not wait for one, or was woken.
    """

    number: int
    start: float
    end: float
    callbacks: int
    poll_duration: float
    poll_delay: float


class Runs(Protocol):
    """Runs in order; ``runs[index]`` and iteration make a ``Run`` of each. The columns are as long as it is."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Run: ...

    def __iter__(self) -> Iterator[Run]: ...

    def append(self, row: Run, /) -> None:
        """Adds a run at the end."""

    def forget_lengths(self, limit: float, /) -> None:
        """Lets those that lasted for ``limit`` s or longer end where they began: they are a damaged record's."""

    def of_tasks(self, followed: dict[float, Any], /) -> list[Run]:
        """The runs whose ident is a key of ``followed``, in order."""

    def longer_before(
        self, index: int, ready: float, least: float, most: int, /
    ) -> tuple[list[tuple[int, float, float, float]], int]:
        """Of the ``most`` runs before the one at ``index`` that ended after ``ready`` (monotonic s), those that lasted
        for ``least`` s or longer, latest first: number, start, end, ident. And how many runs were looked at; ``most``
        where one had ended before.
        """

    @property
    def starts(self) -> Sequence[float]:
        """When they began, monotonic s."""

    @property
    def ends(self) -> Sequence[float]:
        """When they ended, monotonic s."""


class Iterations(Protocol):
    """Iterations in order; ``iterations[index]`` and iteration make an ``Iteration`` of each."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Iteration: ...

    def __iter__(self) -> Iterator[Iteration]: ...

    def append(self, row: Iteration, /) -> None:
        """Adds an iteration at the end."""

    @property
    def starts(self) -> Sequence[float]:
        """When they began, monotonic s."""

    @property
    def ends(self) -> Sequence[float]:
        """When they ended, monotonic s."""

    @property
    def callbacks(self) -> Sequence[int]:
        """How many handles ran in each."""

    @property
    def poll_delays(self) -> Sequence[float]:
        """How late their polls returned, s; -1: not known, or not waited for."""


class RunRows(list[Run]):
    """The plain form of ``Runs``."""

    __slots__ = ()

    def forget_lengths(self, limit: float, /) -> None:
        """See ``Runs``."""
        self[:] = [run if run[2] - run[1] < limit else (*run[:2], run[1], *run[3:]) for run in self]

    def of_tasks(self, followed: dict[float, Any], /) -> list[Run]:
        """See ``Runs``."""
        return [run for run in self if run[3] >= SITE_LIMIT and run[3] in followed]

    def longer_before(
        self, index: int, ready: float, least: float, most: int, /
    ) -> tuple[list[tuple[int, float, float, float]], int]:
        """See ``Runs``."""
        found: list[tuple[int, float, float, float]] = []
        index = min(index, len(self))
        last = max(0, index - most)
        for at in range(index - 1, last - 1, -1):
            number, start, end, ident, *_ = self[at]
            if end <= ready:
                return found, most
            if end - start >= least:
                found.append((number, start, end, ident))
        return found, index - last

    @property
    def starts(self) -> Sequence[float]:
        """See ``Runs``."""
        return [run[1] for run in self]

    @property
    def ends(self) -> Sequence[float]:
        """See ``Runs``."""
        return [run[2] for run in self]


class IterationRows(list[Iteration]):
    """The plain form of ``Iterations``."""

    __slots__ = ()

    @property
    def starts(self) -> Sequence[float]:
        """See ``Iterations``."""
        return [each[1] for each in self]

    @property
    def ends(self) -> Sequence[float]:
        """See ``Iterations``."""
        return [each[2] for each in self]

    @property
    def callbacks(self) -> Sequence[int]:
        """See ``Iterations``."""
        return [each[3] for each in self]

    @property
    def poll_delays(self) -> Sequence[float]:
        """See ``Iterations``."""
        return [each[5] for each in self]
