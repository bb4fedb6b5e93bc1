"""The profile of a process: samples of what its loops ran, added up in a tree of stacks.

The root of a sample's stack is its callback. Below it are the coroutines that await the task, then the frames that run.
The tree is bounded. Where it has no room for a stack's inner frames, the sample counts at the innermost frame that the
tree has, and is also counted as cut.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import Final, NamedTuple

from ...record.frames import is_application
from ...record.sites import UNKNOWN_SITE, Site, site_of
from ..decoding.decoded import Decoded, StackNode, StackSample
from ..site_names import SiteNames
from .parts import Sample

MAX_NODES: Final = 20_000
_MAX_DEFINED: Final = 65_536
_MAX_DEPTH: Final = 512
#: The root of the stacks of worker threads, and of stacks whose callback is not known.
WORKERS: Final = "worker threads"


class Frame(NamedTuple):
    """A node's frame. The root of a stack is its callback: a site whose line is 0. awaits: whether the frame does not
    run, but awaits the one below it.
    """

    site: Site
    awaits: bool


class Line(NamedTuple):
    """One line of the application: its seconds and samples include everything that it called.

    callback: the label under which most of the time ran. request: the name of the request for which most of it ran; ""
    for none.
    """

    function: str
    file: str
    line: int
    callback: str
    seconds: float
    samples: int
    request: str = ""


class Profile:
    """The profile of the process that has a slot, and of those that had it before.

    Nodes are numbered from 1; the root is 0. By node: parents; frames; application: whether the code is the
    application's; seconds, samples: of the samples whose innermost frame the node is. rate: samples a second, 0 where
    there was no profile. first, last: when the first and the last sample were taken, s. cut: samples whose inner frames
    had no room in the tree. lost: samples whose stack is not known, because its definition was overwritten.
    """

    def __init__(self, sites_of: Callable[[], SiteNames]) -> None:
        """``sites_of``: the sites of the process that has the slot."""
        self._sites_of = sites_of
        self._defined: dict[int, StackNode] = {}
        self._found: dict[tuple[int, int], int] = {}
        self._children: dict[tuple[int, Frame], int] = {}
        self.parents = [-1]
        self.frames = [Frame(UNKNOWN_SITE, False)]
        self.application = [False]
        self.seconds = [0.0]
        self.samples = [0]
        self.rate = 0.0
        self.first = self.last = 0.0
        self.cut = 0
        self.lost = 0

    def new_process(self) -> None:
        """Another process has the slot: the numbers of its record are its own."""
        self._defined.clear()
        self._found.clear()

    def feed(self, decoded: Decoded) -> None:
        """Takes in what the process ring said."""
        if decoded.profile_rate:
            self.rate = decoded.profile_rate
        if not decoded.nodes and not decoded.samples:
            return
        for node in decoded.nodes:
            known = self._defined.get(node.number)
            if node != known and (known is not None or len(self._defined) < _MAX_DEFINED):
                self._defined[node.number] = node
                if known is not None:
                    self._found.clear()
        for sample in decoded.samples:
            self._take(sample)

    def _take(self, sample: StackSample) -> None:
        root = -1 if sample.ring < 0 else site_of(sample.ident)
        node = self._found.get((root, sample.node))
        if node is None:
            node = self._place(root, sample.node)
        self.seconds[node] += sample.seconds
        self.samples[node] += 1
        self.first = self.first or sample.when
        self.last = max(self.last, sample.when)

    def _place(self, root: int, number: int) -> int:
        """The tree's node for a sample's, made if there is none."""
        path: list[StackNode] = []
        known = True
        at = number
        while at:
            defined = self._defined.get(at)
            if defined is None or len(path) >= _MAX_DEPTH:
                known = False
                break
            path.append(defined)
            at = defined.parent
        sites = self._sites_of()
        label = WORKERS if root < 0 else sites.label(root)
        node = self._child(0, Frame(Site("", label, "", 0), False))
        if not known:
            self.lost += 1
            return node
        for each in reversed(path):
            site = sites.site(each.site) or UNKNOWN_SITE
            inner = self._child(node, Frame(site, each.awaits))
            if not inner:
                self.cut += 1
                return node
            node = inner
        self._found[root, number] = node
        return node

    def _child(self, parent: int, frame: Frame) -> int:
        node = self._children.get((parent, frame), 0)
        if not node and len(self.parents) < MAX_NODES:
            node = self._children[parent, frame] = len(self.parents)
            self.parents.append(parent)
            self.frames.append(frame)
            self.application.append(is_application(frame.site.file, frame.site.module))
            self.seconds.append(0.0)
            self.samples.append(0)
        return node

    def metrics(self) -> Iterator[Sample]:
        """No series: a profile has too many lines for labels."""
        return iter(())

    # -- answers

    @property
    def total_seconds(self) -> float:
        """Seconds of all samples of loops. Those of worker threads are left out, since they run at the same time."""
        workers = self._workers()
        return sum(s for node, s in enumerate(self.seconds) if not workers[node])

    @property
    def total_samples(self) -> int:
        """How many samples there are, of loops and workers."""
        return sum(self.samples)

    def _workers(self) -> list[bool]:
        out = [False] * len(self.parents)
        for node in range(1, len(self.parents)):
            parent = self.parents[node]
            out[node] = out[parent] if parent else self.frames[node].site.qualname == WORKERS
        return out

    def stack_of(self, node: int) -> list[int]:
        """The nodes of a stack, outermost first, without the root."""
        out: list[int] = []
        while node > 0:
            out.append(node)
            node = self.parents[node]
        out.reverse()
        return out

    def requests(self, names: Container[str]) -> list[int]:
        """For each node, the node of its stack at which its request begins; 0 where it belongs to no request.

        ``names``: of requests, which are the names of the functions that handle them. The handler is the application's
        outermost frame with such a name. Where there is none, a library's frame counts: a server handles some requests
        without the application's code.
        """
        out = [0] * len(self.parents)
        for node in range(1, len(self.parents)):
            parent = self.parents[node]
            known = out[parent]
            out[node] = known
            if (not known or not self.application[known]) and parent and self.frames[node].site.label in names:
                out[node] = node if self.application[node] or not known else known
        return out

    def lines(self, limit: int, requests: Container[str] = ()) -> list[Line]:
        """The application's lines that took the loops' time, most first.

        Each sample counts once: for the application's innermost frame, or for the callback where there is no such
        frame. ``requests``: names of requests, as for the method ``requests``.
        """
        workers = self._workers()
        handlers = self.requests(requests) if requests else None
        own: list[int] = [0]
        roots: list[int] = [0]
        totals: dict[Site, tuple[float, int]] = {}
        by_root: dict[Site, dict[int, float]] = {}
        by_request: dict[Site, dict[str, float]] = {}
        for node in range(1, len(self.parents)):
            parent = self.parents[node]
            roots.append(roots[parent] if parent else node)
            own.append(node if not parent or self.application[node] else own[parent])
            if not self.samples[node] or workers[node]:
                continue
            site = self.frames[own[node]].site
            seconds, samples = totals.get(site, (0.0, 0))
            totals[site] = seconds + self.seconds[node], samples + self.samples[node]
            callbacks = by_root.setdefault(site, {})
            callbacks[roots[node]] = callbacks.get(roots[node], 0.0) + self.seconds[node]
            if handlers is not None:
                name = self.frames[handlers[node]].site.label if handlers[node] else ""
                served = by_request.setdefault(site, {})
                served[name] = served.get(name, 0.0) + self.seconds[node]
        most = sorted(totals.items(), key=lambda item: -item[1][0])[:limit]
        out = []
        for site, (seconds, samples) in most:
            callback = max(by_root[site].items(), key=lambda item: item[1])[0]
            label = self.frames[callback].site.qualname
            request = max(by_request.get(site, {"": 0.0}).items(), key=lambda item: item[1])[0]
            out.append(Line(site.label, site.file, site.line, label, seconds, samples, request))
        return out
