"""The ledger of each request of one loop: its duration, cut into stretches that add up to it exactly.

A request is a task of a server's library, or a part of a connection's task (servers.py). The record tells when each
step of the task ran, and which run made it ready. So the time between two steps is explained backwards, from the second
step:

* Between the moment at which it was ready and its start, the task waited for the runs in between.
* If a timer, a descriptor or another thread made it ready, it waited for that before. Where the thread was a worker,
  the offload's own steps tell how long the call was queued, ran, and waited to be delivered.
* If a callback made it ready that only passes something on, the same question is asked of the callback.
* If a task of the same request made it ready (its child, or a task that it awaited), that task's own stretches take the
  place of the wait. This is the critical path: of ten members of a ``gather``, only the last one counts.
* If a task outside of the request made it ready (it released a lock, or put something into a queue), the request's task
  waited for that one.

Where a look at the suspended tasks fell into the wait (statistics/waits.py), the place of the wait is known too.

If a descriptor's run leads to the request, it begins when the poll returned with its bytes; else when its task was
made. It ends with the last step of its task, or, on a connection's task, with the run that finished the response.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from ...record.frames import is_application
from ...record.layout import SITE_LIMIT
from ...record.sites import UNKNOWN_LABEL, site_of
from ..decoding import decoded as kinds
from ..decoding.decoded import LATEST, Decoded
from ..decoding.runs import Run
from ..decoding.task_rows import NewTask, sites_among
from ..statistics.context import SitesOf
from ..statistics.counting import native_of
from ..statistics.executors import ExecutorStatistics
from ..statistics.parts import Sample
from ..statistics.waits import Waits
from . import stretches
from .looks import look_within
from .native_ledger import NativeLedger
from .recent_runs import RecentRuns
from .servers import CONNECTION, REQUEST, kind_of
from .stretches import Moment, Part, Stretch, Stretches, Turn
from .totals import Request, RequestTotals

# Bounds: tasks that are followed at once (requests, and what belongs to them); ended tasks that may still be asked for;
# offloads under way.
_MAX_FOLLOWED: Final = 20_000
_MAX_ENDED: Final = 4096
_MAX_OFFLOADS: Final = 20_000
# Runs that have named their request.
_MAX_MARKS: Final = 16_384
_MAX_FURTHER: Final = 1000
# The longest chain of callbacks that pass something on to each other before a task is reached.
_MAX_HOPS: Final = 16
# A shorter wait for the loop is not shared out among the runs within it. Of a longer wait, only runs with at least a
# tenth of it are named, among the latest so many: naming a run costs ten times as much as passing over it.
_SHARED_SECONDS: Final = 0.001
_NAMED_SHARE: Final = 0.1
_MAX_BEHIND: Final = 256
# At most ten runs can have such a share, as runs follow one another. In a damaged record they may overlap.
_MAX_NAMED: Final = 16
_CAUSES: Final = {
    kinds.READER: stretches.NETWORK,
    kinds.WRITER: stretches.NETWORK,
    kinds.TIMER: stretches.TIMER,
    kinds.THREADSAFE: stretches.THREAD,
}
_RUNNING: Final = (stretches.RUNNING, "")
_NOT_KNOWN: Final = (stretches.UNKNOWN, "")


class Offloaded(NamedTuple):
    """One offload whose result was delivered; monotonic s, -1 where it is not known. names: whether the function is the
    application's, and so may name a request.
    """

    submit: float
    start: float
    finish: float
    executor: str
    function: str
    names: bool


class _Followed:
    """A task that is a request, or belongs to one, or may turn out to.

    root: the task of the request or the connection; the task itself, where that is not known. name: the one that the
    server's library gives. place: names the request where no name is known. arrival: for a connection, the beginning of
    the request that its latest step began, and the stretches up to the end of that step.
    """

    __slots__ = ("arrival", "ident", "kind", "last_end", "maker", "name", "place", "root", "stretches")

    def __init__(
        self, ident: float, kind: int, maker: _Followed | None, name_of_run: Callable[[int, float], str]
    ) -> None:
        self.ident = ident
        self.kind = kind
        self.maker = maker
        self.root: _Followed = self if maker is None else maker.root
        self.name = ""
        self.place = ""
        self.last_end = -1.0
        self.stretches = Stretches(-math.inf, name_of_run)
        self.arrival: tuple[float, list[Stretch]] = (0.0, [])

    @property
    def is_found(self) -> bool:
        """Whether the task had begun, in another task's step, before its first record."""
        return self.maker is None and not self.kind


def _let_go(task: _Followed | None) -> None:
    if task is not None:  # it is not looked up any more; with its makers their row would never end
        task.maker = None


class Ledger:
    """A part of a loop's statistics. It is fed before the part that uses up the looks (statistics/tasks.py)."""

    def __init__(
        self, totals: RequestTotals, sites_of: SitesOf, waits: Waits, executors: ExecutorStatistics
    ) -> None:
        """``totals``, ``waits``, ``executors``: of the process."""
        self._totals = totals
        self._sites_of = sites_of
        self._waits = waits
        self._executors = executors
        self._forget()

    def _forget(self) -> None:
        self._sites = self._sites_of()
        self._loop = 0
        self._runs = RecentRuns()
        self._kinds: dict[int, int] = {}
        self._labels: dict[int, str] = {}
        self._serves = False
        self._followed: dict[float, _Followed] = {}
        self._ended: dict[float, _Followed] = {}
        self._marks: dict[int, int] = {}
        # For a run that answered several requests: a client may send several without waiting for the answers.
        self._further_marks: dict[int, list[int]] = {}
        self._submitted: dict[int, tuple[float, int, float]] = {}
        self._delivered: dict[int, Offloaded] = {}
        self._native: NativeLedger | None = None

    def feed(self, decoded: Decoded) -> None:
        """Takes in one chunk of the loop's record."""
        number = decoded.loop.number if decoded.loop is not None else self._loop
        if self._sites is not self._sites_of() or number != self._loop:
            self._forget()
            self._loop = number
        module = native_of(decoded.runs)
        if not self._serves:
            # Sites are compared first: asking for the kind of each task took a tenth of the reading.
            if not any(map(self._kind_of, sites_among(decoded.tasks, 0, len(decoded.tasks)))):
                return
            self._serves = True
        self._take_offloads(decoded)
        if module is None:
            self._take(decoded)
            return
        if self._native is None:
            self._native = NativeLedger(module, self._totals, self._waits, self._sites)
        self._native.feed(decoded, self._delivered)

    def _take(self, decoded: Decoded) -> None:
        """Takes in a chunk in Python. With the reader's C half, ``NativeLedger`` does this instead."""
        if decoded.dropped:
            self._totals.incomplete += sum(each.root is each for each in self._followed.values())
            for each in self._followed.values():
                each.maker = None  # ended tasks refer to some of these, and do not need the chain of makers
            self._followed.clear()
        self._runs.add(decoded.runs)
        marks = self._marks
        for run_number, site in decoded.requests:
            if not run_number:
                continue
            if run_number not in marks:
                marks[run_number] = site
            else:
                further = self._further_marks.setdefault(run_number, [])
                if len(further) < _MAX_FURTHER:
                    further.append(site)
        while len(marks) > _MAX_MARKS:
            oldest = next(iter(marks))
            del marks[oldest]
            self._further_marks.pop(oldest, None)
        for task in decoded.tasks:
            self._begin(task)
        followed = self._followed
        for run in decoded.runs.of_tasks(followed):
            known = followed.get(run[3])
            if known is not None:
                self._step(known, run)

    def _kind_of(self, ident: float) -> int:
        site = site_of(ident)
        kind = self._kinds.get(site)
        if kind is None:
            kind = self._kinds[site] = kind_of(self._sites.label(site))
        return kind

    def _take_offloads(self, decoded: Decoded) -> None:
        # The process's executors take in this chunk after us, and with it the names that it defines.
        named = {number: name for number, name, _ in decoded.executors}
        for step in decoded.offloads:
            if step.step == "submit":
                if len(self._submitted) >= _MAX_OFFLOADS:
                    self._submitted.clear()
                self._submitted[step.number] = step.when, step.executor, step.ident
            elif step.step == "deliver" and step.run:
                submit, executor, function = self._submitted.pop(step.number, (-1.0, 0, 0.0))
                start, finish = self._executors.times_of(step.number)
                if len(self._delivered) >= _MAX_ENDED:
                    self._delivered.pop(next(iter(self._delivered)))
                self._delivered[step.run] = Offloaded(
                    submit,
                    start,
                    finish,
                    self._executors.label_of(executor) or named.get(executor, ""),
                    self._label(function),
                    self._is_application(site_of(function)),
                )

    def _label(self, ident: float) -> str:
        """The label of a run's ident, or of a site."""
        site = site_of(ident)
        label = self._labels.get(site)
        if label is None:
            label = self._sites.label(site)
            if label != UNKNOWN_LABEL:  # the label may be known later
                self._labels[site] = label
        return label

    def _is_application(self, number: int) -> bool:
        site = self._sites.site(number)
        return site is not None and is_application(site.file, site.module)

    def _begin(self, begun: NewTask) -> None:
        kind = self._kind_of(begun.ident)
        # An eager task that no task factory made was not announced: the run that woke it is taken for its maker.
        maker = self._followed.get(begun.creator_ident) if begun.made_by_loop and not kind else None
        if not (kind or maker is not None or not begun.made_by_loop):
            return
        if len(self._followed) >= _MAX_FOLLOWED:
            self._totals.incomplete += kind == REQUEST
            return
        _let_go(self._followed.get(begun.ident))
        task = self._followed[begun.ident] = _Followed(begun.ident, kind, maker, self._name_of_run)
        if begun.waited_from >= 0.0:
            self._had_begun(task, begun)

    def _had_begun(self, task: _Followed, begun: NewTask) -> None:
        """A task factory made ``task``: what it did in the run that made it has no record of its own."""
        own = task.stretches
        own.begin = task.last_end = begun.waited_from
        begin, spent = self._arrival(begun.creator, begun.waited_from)
        if task.kind == CONNECTION:
            task.arrival = begin, spent
        elif task.kind == REQUEST:
            own.begin = begin
            for until, part in spent:
                own.add(until, part)

    # -- one step

    def _step(self, task: _Followed, run: Run) -> None:
        number, start, end, _, _, delay, scheduler, _, _, outcome = run
        if outcome and task.last_end < 0.0 and task.kind == REQUEST and self._at_once(task, run):
            return
        ready = start - delay if 0.0 < delay < LATEST else start
        own = task.stretches
        waited: list[Stretch] = []
        if task.last_end >= 0.0 or task.is_found:
            waited = self._explain(task, task.last_end if task.last_end >= 0.0 else -math.inf, ready, run)
        elif task.kind == REQUEST:
            own.begin, waited = self._arrival(scheduler, ready)
        else:
            own.begin = ready
        awaited = self._awaited(task, scheduler) if task.kind == CONNECTION else None
        if awaited is not None and awaited.name:
            begin, before = task.arrival
            self._answered(awaited, awaited.name, begin, [*before, *waited])
        for until, part in waited:
            own.add(until, part)
        turn = self._turn(ready, start, number)
        for until, part in turn:
            own.add(until, part)
        own.add(end, _RUNNING)
        task.last_end = end
        if task.kind == CONNECTION:
            begin, arrival = self._arrival(scheduler, ready)
            task.arrival = begin, [*arrival, *turn, (end, _RUNNING)]
            own.forget_before(begin)
        site = self._marks.get(number)
        if site is not None:
            self._named(task, self._label(site))
            if task.kind == CONNECTION:
                for further in self._further_marks.pop(number, ()):
                    self._named(task, self._label(further))
        if outcome:
            self._end(task)

    def _at_once(self, task: _Followed, run: Run) -> bool:
        """Counts a request that was answered within one step, soon after its bytes were read; False for any other.

        Most requests of a quick service are like that. This takes a third of the time of the general way.
        """
        number, start, end, ident, _, _, scheduler, *_ = run
        by = self._runs.get(scheduler) if scheduler else None
        if by is None or by[4] is not kinds.READER:
            return False
        read, waited = by[2] - by[1], start - by[2]
        if not (0.0 <= by[5] < _SHARED_SECONDS and 0.0 <= waited < _SHARED_SECONDS):
            return False
        site = self._marks.get(number)
        task.name = self._label(ident if site is None else site)
        del self._followed[ident]
        parts = {_RUNNING: read + end - start, (stretches.READY, ""): by[5] + waited}
        begin = by[1] - by[5]
        self._totals.add(Request(task.name, begin, end - begin, parts, ident))
        return True

    def _named(self, task: _Followed, name: str) -> None:
        if task.kind == CONNECTION:
            # The whole request was answered within one step.
            self._answered(task, name, *task.arrival)
        else:
            task.name = name
            if task.root.kind == REQUEST:
                task.root.name = name

    def _end(self, task: _Followed) -> None:
        del self._followed[task.ident]
        _let_go(self._ended.pop(task.ident, None))
        self._ended[task.ident] = task
        if len(self._ended) > _MAX_ENDED:
            _let_go(self._ended.pop(next(iter(self._ended))))
        if task.kind == REQUEST:
            own = task.stretches
            sums = own.sums()
            name = task.name or task.place or self._label(task.ident)
            took = sum(sums.values())
            self._totals.add(Request(name, own.end - took, took, sums, task.ident, self._moments(own)))

    def _answered(self, task: _Followed, name: str, begin: float, spent: list[Stretch]) -> None:
        whole = Stretches(begin, self._name_of_run)
        for until, part in spent:
            whole.add(until, part)
        moments = self._moments(whole)
        self._totals.add(Request(name, begin, whole.end - begin, whole.sums(), task.ident, moments))

    def _moments(self, own: Stretches) -> tuple[Moment, ...]:
        return own.moments() if self._totals.tells_all else ()

    def _awaited(self, task: _Followed, scheduler: int) -> _Followed | None:
        """The task whose end made ``task`` ready."""
        for _ in range(_MAX_HOPS):
            run = self._runs.get(scheduler)
            if run is None:
                return None
            if run[3] >= SITE_LIMIT:
                return self._ended.get(run[3]) if run[9] else None
            scheduler = run[6]
        return None

    # -- why it was not ready

    def _explain(self, task: _Followed, begin: float, end: float, run: Run, hops: int = 0) -> list[Stretch]:
        """What ``task`` waited for from ``begin`` to ``end`` (monotonic s); ``run`` became ready at ``end``."""
        if end <= begin:
            return []
        by = self._runs.get(run[6]) if run[6] else None
        if by is None:
            return [(end, self._waited(task, begin, end, stretches.THREAD, "") if run[5] >= 0.0 else _NOT_KNOWN)]
        number, start, _, ident, kind, delay, *_ = by
        if ident >= SITE_LIMIT:
            return self._explain_by_task(task, begin, end, by)
        ready = start - delay if 0.0 <= delay < LATEST else start
        offload = self._delivered.get(number) or self._delivered.get(run[0])
        if kind not in kinds.OUTSIDE:
            if hops >= _MAX_HOPS:
                return [(end, _NOT_KNOWN)]
            out = self._explain(task, begin, min(ready, end), by, hops + 1)
            out += self._turn(ready, start, number)
        elif offload is not None and kind == kinds.THREADSAFE:
            out = self._of_offload(task, offload, start)
        else:
            cause = _CAUSES.get(kind, stretches.OTHER)
            out = [(ready, self._waited(task, begin, ready, cause, "")), *self._turn(ready, start, number)]
        out.append((end, _RUNNING))
        return [(min(until, end), part) for until, part in out if until > begin]

    def _explain_by_task(self, task: _Followed, begin: float, end: float, by: Run) -> list[Stretch]:
        ident = by[3]
        other = self._followed.get(ident) or self._ended.get(ident)
        if other is not None and by[9] and task.is_found and other.root.kind == CONNECTION:
            task.root = other.root  # this task was made in the step of the connection's task in which it began
        # A task's last step may also release a lock, and then nobody awaits the task. So a task whose maker is unknown
        # counts as awaited only by a connection's task, which waits for no lock.
        awaited = other is not None and by[9] and other.is_found and task.kind == CONNECTION
        if other is None or other is task or not (other.root is task.root or awaited):
            return [(end, self._waited(task, begin, end, stretches.TASK, f"for {self._name_of_task(ident)}"))]
        out: list[Stretch] = []
        first = other.stretches.begin
        if other.maker is not None and begin < first:
            out = other.maker.stretches.cut(begin, min(first, end))
            begin = first
        return out + other.stretches.cut(begin, end) if begin < end else out

    def _name_of_task(self, ident: float) -> str:
        """The name of a task; for a task of a request, the request's name."""
        known = self._followed.get(ident) or self._ended.get(ident)
        name = ""
        if known is not None:
            root = known.root if known.root.kind == REQUEST else known
            name = root.name or root.place
        return name or self._label(ident)

    def _of_offload(self, task: _Followed, offload: Offloaded, delivered: float) -> list[Stretch]:
        submit, start, finish, executor, function, names = offload
        if names:
            self._place(task, function)
        called = f"{executor} {function}"
        if start < 0.0 or finish < 0.0:
            return [(delivered, (stretches.OFFLOADED, called))]
        return [
            (max(submit, 0.0), _RUNNING),
            (start, (stretches.QUEUED, executor)),
            (finish, (stretches.OFFLOADED, called)),
            (delivered, (stretches.RETURNING, executor)),
        ]

    def _waited(self, task: _Followed, begin: float, end: float, cause: str, detail: str) -> Part:
        """The part of a wait, with its place where a look saw the task stand there."""
        if task.ident not in self._waits.looks:
            return cause, detail
        seen = look_within(self._waits, task.ident, begin, end, wants_name=not task.place)
        if seen is None:
            return cause, detail
        label, name = seen
        if name:
            self._place(task, name)
        return cause, label

    def _place(self, task: _Followed, name: str) -> None:
        task.place = task.place or name
        root = task.root
        if root.kind == REQUEST:
            root.place = root.place or name

    def _name_of_run(self, number: int, ident: float) -> str:
        """The name of run ``number``: the function that answered a request in it, where one was noted."""
        site = self._marks.get(number)
        return self._name_of_task(ident) if site is None else self._label(site)

    def _turn(self, ready: float, start: float, number: int) -> list[Stretch]:
        """The stretches in which run ``number`` was ready and others ran; ``ready``, ``start``: monotonic s."""
        least = (start - ready) * _NAMED_SHARE
        if least < _SHARED_SECONDS * _NAMED_SHARE:
            return [(start, (stretches.READY, ""))]
        runs = self._runs.longer_before(number, ready, least, _MAX_BEHIND)[:_MAX_NAMED]
        return [(start, Turn(stretches.READY, "", runs) if runs else (stretches.READY, ""))]

    def _arrival(self, scheduler: int, ready: float) -> tuple[float, list[Stretch]]:
        """When the request arrived that a task begins (monotonic s), and the stretches until the task was ready.

        A descriptor's run read its bytes, and a chain of runs handed them on, up to run number ``scheduler``.
        """
        chain: list[Run] = []
        for _ in range(_MAX_HOPS):
            by = self._runs.get(scheduler) if scheduler else None
            if by is None:
                return ready, []
            chain.append(by)
            if by[4] == kinds.READER:
                break
            if by[4] in kinds.OUTSIDE or by[9]:
                return ready, []
            scheduler = by[6]
        else:
            return ready, []
        out: list[Stretch] = []
        first = chain[-1]
        begin = first[1] - first[5] if 0.0 <= first[5] < LATEST else first[1]
        at = begin
        for by in reversed(chain):
            out += self._turn(at, by[1], by[0])
            out.append((by[2], _RUNNING))
            at = by[2]
        return begin, out

    def metrics(self) -> Iterator[Sample]:
        """No series of its own: those of the process's totals have everything."""
        return iter(())
