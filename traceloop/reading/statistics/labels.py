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
    """The first ``limit`` values are admitted for good; what comes later is ``other`` for good, so no counter falls."""

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
    """Names for things that come and go (loops by their thread's name): unique among those that are there, and used
    again afterwards.

    Names that differ in their numbers only (``Thread-1``, ``Thread-2``, ...) share ``family_limit`` slots, beyond
    which a free one of the family is taken, and all names ``limit``, beyond which any free one is.
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
        """A slot for ``name``: the name itself, or with a number behind it, or another's that has gone.

        ``since``: when its owner came; a slot is not given to two who were there at once, even if this is learnt late.
        """
        name = printable(name, _MAX_SLOT) or "unnamed"
        if since != since:  # a damaged record's: not a number is later than nothing, and no slot would ever be free
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
    """Names for things that some programs make for each request (thread pools, limiters). Things of one name share a
    label once there have been many of them.

    The first ``own`` of a family, names that differ in their numbers only, have labels of their own; later ones have
    the family's. Beyond ``limit`` labels there is ``other``.
    """

    def __init__(self, own: int = 8, limit: int = 64) -> None:
        self._families = Families(own)
        self._labels = BoundedLabels(limit)

    def take(self, name: str) -> str:
        """The label of a new thing of this name."""
        return self._labels.admit(self._families.take(printable(name, _MAX_SLOT) or "unnamed"))

    def forget(self) -> None:
        """Another process: its first ones have labels of their own again."""
        self._families.forget()


class NumberSlots:
    """The smallest free numbers from 0 on, used again when their owner has gone.

    From ``limit`` on the times do not count: those of a damaged record could give each process a number of its own.
    """

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._taken: set[int] = set()
        self._freed_at: dict[int, float] = {}

    def take(self, since: float = math.inf) -> int:
        """The smallest number that is free.

        ``since``: when its owner came; no number is given to two who were there at once, even if this is learnt late.
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
