"""Names of things that some programs make for each request (pools, limiters): later ones share the family's name."""

from __future__ import annotations

import re

_MAX_FAMILIES = 1000
_NUMBER = re.compile(r"\d+")


class Families:
    """The first ``own`` of a family, names that differ in their numbers only, are called by names of their own, later
    ones by the family's. Families beyond a thousand have none of their own.
    """

    def __init__(self, own: int = 8) -> None:
        self._own = own
        self._made: dict[str, int] = {}

    def take(self, name: str) -> str:
        """What a new thing of this name is called."""
        family = _NUMBER.sub("#", name).removesuffix("-#") or name
        made = self._made.get(family, 0 if len(self._made) < _MAX_FAMILIES else self._own)
        if made >= self._own:
            return family
        self._made[family] = made + 1
        return name

    def forget(self) -> None:
        """Names of their own are given out anew."""
        self._made.clear()
