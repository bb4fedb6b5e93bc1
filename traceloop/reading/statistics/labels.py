"""Label values that cannot grow without bound."""

from __future__ import annotations

import math
import re
from typing import Final

from ...record.families import Families
from ...record.text import printable

OTHER: Final = "other"
DEFAULT_LIMIT: Final = 200

_MAX_SLOT: Final = 100
_NUMBER = re.compile(r"\d+")


class BoundedLabels:
    """The first ``limit`` values keep their labels; later values are always ``other``. So no counter ever falls."""

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self._admitted: set[str] = set()

    def admit(self, value: str) -> str:
        """The label under which ``value`` is counted: printable, and of bounded length too."""
        if value in self._admitted:
            return value
        value = printable(value)
        if value in self._admitted:
            return value
        if len(self._admitted) < self.limit:
            self._admitted.add(value)
            return value
        return OTHER

    def __len__(self) -> int:
        return len(self._admitted)


class LabelSlots:
    """Labels for things that come and go, such as loops, which are called by their thread's name.

    A label is unique among the things that exist, and is used again afterwards. Names that differ only in their numbers
    (``Thread-1``, ``Thread-2``, ...) are a family. A family has at most ``family_limit`` labels; then a free one of the
    family is reused. All names together have at most ``limit`` labels; then any free one is reused.
    """

    def __init__(self, family_limit: int = 8, limit: int = 64) -> None:
        self._family_limit = family_limit
        self._limit = limit
        self._family_of: dict[str, str] = {}
        self._taken: set[str] = set()
        self._freed_at: dict[str, float] = {}

    def _is_free(self, label: str, since: float) -> bool:
        return label not in self._taken and self._freed_at.get(label, since) <= since

    def take(self, name: str, since: float = 0.0) -> str:
        """A label for ``name``: the name itself, the name with a number, or the label of an owner that has gone.

        ``since``: when the owner came (monotonic s). Two owners that existed at the same time never get one label, even
        if this becomes known late.
        """
        name = printable(name, _MAX_SLOT) or "unnamed"
        if since != since:  # a damaged record has NaN: it compares as later than nothing, so no label would be free
            since = 0.0
        family = _NUMBER.sub("#", name)
        label = name
        number = 1
        while not self._is_free(label, since):
            number += 1
            label = f"{name}-{number}"
        if label not in self._family_of:
            label = self._reuse(family, since) or label
        self._family_of.setdefault(label, family)
        self._taken.add(label)
        return label

    def _reuse(self, family: str, since: float) -> str | None:
        if len(self._family_of) < self._limit:
            relatives = [label for label, other in self._family_of.items() if other == family]
            if len(relatives) < self._family_limit:
                return None
        else:
            relatives = list(self._family_of)
        return next((label for label in relatives if self._is_free(label, since)), None)

    def free(self, label: str, at: float = 0.0) -> None:
        """Its owner has gone, ``at`` this time."""
        self._taken.discard(label)
        self._freed_at[label] = at


class FoldedLabels:
    """Labels for things that some programs make for each request (thread pools, limiters).

    Names that differ only in their numbers are a family. The first ``own`` things of a family have labels of their own;
    later ones share the family's label. Beyond ``limit`` labels, the label is ``other``.
    """

    def __init__(self, own: int = 8, limit: int = 64) -> None:
        self._families = Families(own)
        self._labels = BoundedLabels(limit)

    def take(self, name: str) -> str:
        """The label of a new thing of this name."""
        return self._labels.admit(self._families.take(printable(name, _MAX_SLOT) or "unnamed"))

    def forget(self) -> None:
        """Called for another process: the first things of each family have labels of their own again."""
        self._families.forget()


class NumberSlots:
    """The smallest free numbers from 0 on, used again when their owner has gone.

    From ``limit`` on, times are ignored: those of a damaged record could give each process a number of its own.
    """

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._taken: set[int] = set()
        self._freed_at: dict[int, float] = {}

    def take(self, since: float = math.inf) -> int:
        """The smallest number that is free.

        ``since``: when the owner came (monotonic s). Two owners that existed at the same time never get one number.
        """
        number = 0
        while number in self._taken or (number < self._limit and self._freed_at.get(number, 0.0) > since):
            number += 1
        self._taken.add(number)
        return number

    def free(self, number: int, at: float = 0.0) -> None:
        """Its owner has gone, ``at`` this time."""
        self._taken.discard(number)
        self._freed_at[number] = at
