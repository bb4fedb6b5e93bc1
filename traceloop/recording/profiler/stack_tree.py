"""The stacks that the profile has met, as a tree: each frame is written down once, and a stack is the number of a node.

A node is looked up by its parent, the identity of its code object and the index of its last instruction, so that a
stack met before costs no line number and no name. Nodes of one line are one node. The line is a site of the site log.

The ring that holds the definitions is overwritten in time: ``begin_anew`` has each node defined again with the next
sample that needs it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from types import CodeType
from typing import NamedTuple

from ...record import layout
from ...record.sites import Site
from ..watchdog.stacks import qualname_of

#: Nodes that are numbered; what is called in one of them then and is new counts as its own.
MAX_NODES = 16_384


class Place(NamedTuple):
    """A frame, without the frame. instruction: index of its last one. awaits: it is suspended, and awaits the next."""

    code: CodeType
    instruction: int
    module: str
    awaits: bool


class StackTree:
    """Numbers the stacks of one process. For one thread."""

    def __init__(self, number_of: Callable[[Site], float]) -> None:
        """``number_of``: the number of a site; it is written down if it is new."""
        self._number_of = number_of
        self._known: dict[tuple[int, int, int, bool], int] = {}
        self._by_site: dict[tuple[int, int], int] = {}
        # The keys of each code object, which die with it: ids are used again.
        self._references: dict[int, tuple[weakref.ref[CodeType], list[tuple[int, int, int, bool]]]] = {}
        self._parents = [0]
        self._sites = [0]
        self._written_in = [0]
        self._round = 0
        #: Stacks whose inner frames found no place.
        self.cut = 0

    def begin_anew(self) -> None:
        """Every node is to be defined again."""
        self._round += 1

    def node_of(self, stack: Sequence[Place]) -> int:
        """The number of a stack, outermost frame first; 0 for an empty one."""
        node = 0
        known = self._known
        for place in stack:
            key = (node, id(place.code), place.instruction, place.awaits)
            found = known.get(key) or self._add(key, node, place)
            if not found:
                self.cut += 1
                break
            node = found
        return node

    def definitions(self, node: int) -> list[float]:
        """The records that define a node and those above it, as far as they are due."""
        due: list[int] = []
        while node and self._written_in[node] != self._round:
            self._written_in[node] = self._round
            due.append(node)
            node = self._parents[node]
        out: list[float] = []
        for each in reversed(due):
            out += (float(each), layout.R_NODE, self._parents[each] + layout.OUTCOME * self._sites[each])
        return out

    def _add(self, key: tuple[int, int, int, bool], parent: int, place: Place) -> int:
        code = place.code
        site = int(self._number_of(Site(place.module, qualname_of(code), code.co_filename, _line_of(place))))
        if not site:
            return 0
        if place.awaits:
            site += layout.SITE_LIMIT
        node = self._by_site.get((parent, site), 0)
        if not node:
            node = len(self._parents)
            if node > MAX_NODES:
                return 0
            self._parents.append(parent)
            self._sites.append(site)
            self._written_in.append(self._round - 1)
            self._by_site[parent, site] = node
        entry = self._references.get(id(code))
        if entry is None:
            entry = self._references[id(code)] = (weakref.ref(code, self._forgetting(id(code))), [])
        entry[1].append(key)
        if entry[0]() is code and len(self._known) < 4 * MAX_NODES:
            self._known[key] = node
        return node

    def _forgetting(self, code_id: int) -> Callable[[object], None]:
        references, known = self._references, self._known

        def forget(_: object) -> None:
            _, keys = references.pop(code_id, (None, ()))
            for key in keys:
                known.pop(key, None)

        return forget


def _line_of(place: Place) -> int:
    for start, end, line in place.code.co_lines():
        if start <= place.instruction < end and line is not None:
            return line
    return place.code.co_firstlineno
