"""The tasks that begin and end in a chunk: lists in plain Python, rows of C structures with the reader's C half.

Both are sequences of the same tuples. The C form (``native/task_rows.c``) makes a tuple only when it is asked for one,
since most tasks are short and are never asked for one by one; it counts what is asked of all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from ...record.sites import site_of


class NewTask(NamedTuple):
    """A task's first step. creator: number and ident of the run that made it (0: none, or unknown). waited_from:
    of a task that a task factory made, and that may have run and waited before this step, the end of the run in which
    it was made (monotonic s); of others below 0.
    """

    ident: float
    name: str
    first_run: int
    start: float
    creator: int
    creator_ident: float
    made_by_loop: bool
    waited_from: float = -1.0


class KnownTask(NamedTuple):
    """A task that is alive. since: when its first step was ready. last_end: of its steps, below 0 before the first
    one's end (monotonic s). creator: site of the handle run that made it, 0 where none did or it is not known.
    """

    ident: float
    name: str
    since: float
    last_end: float
    creator: int


#: A task's end: its ident, its outcome, when its last step began (monotonic s), the number of that run.
TaskEnd = tuple[float, int, float, int]

_OUTCOME: Final = itemgetter(1)
_Item = TypeVar("_Item")


class Rows(Protocol[_Item]):
    """Rows of one kind, in order: tasks that begin, tasks that end, requests, spans."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> _Item: ...

    def __iter__(self) -> Iterator[_Item]: ...

    def append(self, row: _Item, /) -> None:
        """Adds one at the end."""


def sites_among(rows: Rows[NewTask] | Rows[TaskEnd], first: int, last: int) -> Mapping[int, int]:
    """How many of the rows from index ``first`` up to ``last`` are of which site, in their order."""
    if isinstance(rows, list):
        return Counter([site_of(row[0]) for row in rows[first:last]])
    native: Any = rows
    found: dict[int, int] = native.sites(first, last)
    return found


def outcomes_of(ends: Rows[TaskEnd]) -> Mapping[int, int]:
    """How many tasks ended how, by outcome."""
    if isinstance(ends, list):
        return Counter(map(_OUTCOME, ends))
    native: Any = ends
    return dict(enumerate(native.outcomes()))
