"""The profile in the JSON: the lines that took most, and the flame graph's tree.

In the tree the frames of frameworks are folded: those that follow one another in a stack are one node, called by the
package of the first. What took less than a thousandth is left out, and so is what is beyond the bounds.

Of a server there is a second tree, by request: what runs for a request hangs under its name, from the function that
handles it on, whichever task ran it; the rest stands under its callbacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from traceloop.reading.requests.parts import requests_of
from traceloop.reading.statistics.process import ProcessStatistics
from traceloop.reading.statistics.profile import WORKERS, Profile
from traceloop.record.plumbing import readable
from traceloop.record.text import printable

LINES: Final = 100
_NODES: Final = 1500
_LEAST: Final = 0.001
_MAX_DEPTH: Final = 100
CALLBACK: Final = "callback"
WORKER: Final = "worker"
REQUEST: Final = "request"
APPLICATION: Final = "application"
LIBRARY: Final = "library"


class _Node:
    """A node of the tree as it is shown. seconds: with all that is below it. depth: 0 at the root."""

    def __init__(self, name: str, place: str, kind: str, depth: int) -> None:
        self.name = name
        self.place = place
        self.kind = kind
        self.depth = depth
        self.seconds = 0.0
        self.children: dict[tuple[str, str, str], _Node] = {}

    def child(self, name: str, place: str, kind: str) -> _Node:
        key = (name, place, kind)
        found = self.children.get(key)
        if found is None:
            found = self.children[key] = _Node(*key, self.depth + 1)
        return found


def profile(process: ProcessStatistics) -> dict[str, Any] | None:
    """The profile of a process; None where there was none."""
    known = process.profile
    if not known.total_samples:
        return None
    total = known.total_seconds
    followed = requests_of(process)
    names = frozenset(followed.by_name) if followed is not None else frozenset()
    handlers = known.requests(names) if names else []
    return {
        "rate": known.rate,
        "samples": known.total_samples,
        "seconds": total,
        "cut_samples": known.cut,
        "lost_samples": known.lost,
        "lines": [
            {
                "function": line.function if line.file else readable(line.function),
                "file": line.file,
                "line": line.line,
                "callback": readable(line.callback),
                "request": line.request or None,
                "seconds": line.seconds,
                "samples": line.samples,
                "share": line.seconds / total if total else 0.0,
            }
            for line in known.lines(LINES, names)
        ],
        "tree": _bounded(_tree(known)),
        "requests": _bounded(_tree(known, handlers)) if any(handlers) else None,
    }


def _tree(known: Profile, handlers: Sequence[int] = ()) -> _Node:
    """``handlers``: for each node that in which its request begins, for the tree by request."""
    root = _Node("", "", "", 0)
    shown = [root]
    folded = [False]
    workers = [False]
    # Parents come before their children.
    for node in range(1, len(known.parents)):
        parent = known.parents[node]
        above = shown[parent]
        site, awaits = known.frames[node]
        library = False
        workers.append(workers[parent] if parent else site.qualname == WORKERS)
        begins = bool(handlers) and handlers[node] == node
        if begins:
            above = root.child(printable(site.label), "", REQUEST)
            if workers[node]:
                above = above.child(WORKERS, "", WORKER)
        if above is root:
            name = readable(site.qualname)
            mine = above.child(printable(name), "", WORKER if name == WORKERS else CALLBACK)
        elif above.depth >= _MAX_DEPTH:
            mine = above
        elif known.application[node]:
            place = f"{site.file.rpartition('/')[2]}:{site.line}" if site.file else ""
            name = site.label.removeprefix("__main__.") + (" (awaits)" if awaits else "")
            mine = above.child(printable(name), printable(place), APPLICATION)
        else:
            library = True
            name = site.module.partition(".")[0] or site.qualname
            mine = above if folded[parent] and not begins else above.child(printable(name), "", LIBRARY)
        shown.append(mine)
        folded.append(library)
    for node in range(1, len(known.parents)):
        shown[node].seconds += known.seconds[node]
    _sum_up(root)
    return root


def _sum_up(root: _Node) -> None:
    """Adds to each node what is below it."""
    order = [root]
    for node in order:
        order.extend(node.children.values())
    for node in reversed(order):
        node.seconds += sum(child.seconds for child in node.children.values())


def _by_weight(root: _Node) -> list[float]:
    """The seconds of all nodes, the largest first."""
    order = [root]
    for node in order:
        order.extend(node.children.values())
    return sorted((node.seconds for node in order), reverse=True)


def _bounded(root: _Node) -> dict[str, Any]:
    every = _by_weight(root)
    return _plain(root, max(_LEAST * root.seconds, every[_NODES] if len(every) > _NODES else 0.0))


def _plain(node: _Node, least: float) -> dict[str, Any]:
    children = sorted(node.children.values(), key=lambda child: -child.seconds)
    return {
        "name": node.name,
        "place": node.place,
        "kind": node.kind,
        "seconds": node.seconds,
        "children": [_plain(child, least) for child in children if child.seconds > 0.0 and child.seconds >= least],
    }
