"""Names of things that some programs make for each request (pools, limiters): later ones share the family's name."""

from __future__ import annotations

import re

_MAX_FAMILIES = 1000
_NUMBER = re.compile(r"\d+")


class Families:
    """A family are names that differ only in their numbers. The first ``own`` things of a family keep their names,
    later ones get the family's. After a thousand families, all get the family's name.
    """

    def __init__(self, own: int = 8) -> None:
        self._own = own
        self._made: dict[str, int] = {}

    def take(self, name: str) -> str:
        """The name for a new thing of this name."""
        family = _NUMBER.sub("#", name).removesuffix("-#") or name
        made = self._made.get(family, 0 if len(self._made) < _MAX_FAMILIES else self._own)
        if made >= self._own:
            return family
        self._made[family] = made + 1
        return name

    def forget(self) -> None:
        """Forgets which names are in use."""
        self._made.clear()
