"""The tasks of a process at one moment: which wait for which. Tasks that stand at the same place form a group.

At the top of the tree are the tasks that no other task waits for. Under each task are those that it waits for. Tasks
that wait for each other have no top: they are a **deadlock**, and the tree begins at one of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from itertools import chain as chained
from types import MappingProxyType
from typing import Any, Final

from ...record.frames import Frame
from ...record.sites import site_of
from .circles import circles
from .process import ProcessStatistics
from .waits import UNKNOWN, AwaitPlace

WAITING: Final = "waiting"
#: A look found the task suspended. It has gone on since, and may be suspended again.
BRIEF: Final = "waiting briefly"
ACTIVE: Final = "running or ready"
RUNNING: Final = "running"
UNSEEN: Final = "not looked at yet"
# A task that no look has found counts as suspended when its loop is idle, or has polled this long (s) after the task's
# step. Where there are few tasks, a look has found it by then.
_PATIENCE_SECONDS: Final = 2.0
_MAX_DEPTH: Final = 50


# No dataclasses here: the imports of that module took a quarter of the collector's start.


class TaskNow:
    """One task. Times are seconds before now.

    waited_s: the time since its last step; for a task that runs, since the beginning of this step. frames: its chain of
    coroutines, outermost first; empty where no look has found it suspended. awaits: the tasks that it waits for.
    in_circle: whether it waits for itself, directly or through others. is_over: whether it did so until it was
    cancelled or destroyed.
    """

    __slots__ = (
        "age_s",
        "awaited",
        "awaits",
        "coroutine",
        "frames",
        "ident",
        "in_circle",
        "is_over",
        "loop",
        "made_by",
        "name",
        "place",
        "state",
        "waited_s",
    )

    def __init__(
        self,
        ident: float,
        coroutine: str,
        name: str,
        state: str,
        age_s: float,
        waited_s: float,
        place: AwaitPlace,
        frames: list[Frame],
        made_by: str,
        loop: str,
        in_circle: bool = False,
        is_over: bool = False,
    ) -> None:
        self.ident = ident
        self.coroutine = coroutine
        self.name = name
        self.state = state
        self.age_s = age_s
        self.waited_s = waited_s
        self.place = place
        self.frames = frames
        self.made_by = made_by
        self.loop = loop
        self.awaits: list[TaskNow] = []
        self.awaited = False
        self.in_circle = in_circle
        self.is_over = is_over

    def as_dict(self) -> dict[str, Any]:
        """For JSON: plain values; other tasks by their names."""
        return {
            "name": self.name,
            "coroutine": self.coroutine,
            "state": self.state,
            "age_seconds": round(self.age_s, 6),
            "seconds_since_step": round(self.waited_s, 6),
            "file": self.place.file,
            "line": self.place.line,
            "function": self.place.function,
            "waits_in": self.place.inside,
            "made_by": self.made_by,
            "loop": self.loop,
            "awaits": [task.name or task.coroutine for task in self.awaits],
            "deadlock": self.in_circle,
            "stack": [{"file": f, "line": line, "module": m, "function": q} for f, line, m, q in self.frames],
        }


class Group:
    """Tasks of one coroutine that stand at one place and wait for groups that are alike. below: those groups."""

    __slots__ = ("below", "tasks")

    def __init__(self, tasks: list[TaskNow], below: list[Group]) -> None:
        self.tasks = tasks
        self.below = below


def tasks_now(
    process: ProcessStatistics,
    now: float,
    only: Collection[float] | None = None,
    running: Mapping[float, tuple[float, Frame | None]] = MappingProxyType({}),
) -> list[TaskNow]:
    """The tasks of a process that are not done, oldest first; ``now``: monotonic s. ``only``: tasks with these idents.

    ``running``: the tasks that are known to run, from ``stalls.parts.running_tasks``. A step that lasts is not in the
    loop's record yet, and a look from before the step shows the task as waiting.
    """
    process.adopt_tasks()
    waits = process.waits
    found: dict[float, TaskNow] = {}
    for loop in process.loops.values():
        polled = now if loop.rests else now - loop.running_seconds(now) - _PATIENCE_SECONDS
        label = cache(loop.tasks.label)
        for state in loop.tasks.states(only):
            chain = state.chain or state.stood
            place = waits.chains.place(chain) if chain else UNKNOWN
            found[state.ident] = TaskNow(
                ident=state.ident,
                coroutine=label(site_of(state.ident)),
                name=state.name,
                state=state_of(state.chain, state.stood, state.last_step, polled),
                age_s=max(0.0, now - state.since),
                waited_s=max(0.0, now - state.last_step),
                place=place,
                frames=waits.chains.frames(chain) if chain else [],
                made_by=label(state.creator) if state.creator else "",
                loop=loop.label,
            )
    for ident, (since, frame) in running.items():
        if ident in found:
            _runs(found[ident], max(0.0, now - since), frame)
    for ident, task in found.items():
        if task.state == WAITING:
            task.awaits = [found[other] for other in waits.awaited.get(ident, ()) if other in found]
            for other in task.awaits:
                other.awaited = True
    _mark_circles(found.values())
    return sorted(found.values(), key=lambda task: -task.age_s)


def _runs(task: TaskNow, seconds: float, frame: Frame | None) -> None:
    task.state, task.waited_s, task.frames, task.place = RUNNING, seconds, [], UNKNOWN
    if frame is not None:
        file, line, module, qualname = frame
        task.place = AwaitPlace(file, line, f"{module}.{qualname}" if module else qualname, "")


def tasks_in_circles(process: ProcessStatistics, now: float) -> list[TaskNow]:
    """The tasks of a process that wait for each other (``now``: monotonic s), oldest first."""
    # The looks may be out of date for some tasks. So they only select the tasks that are examined as they are now.
    idents = sorted(chained.from_iterable(circles(process.waits.awaited)))
    return [task for task in tasks_now(process, now, idents) if task.in_circle] if idents else []


def tasks_of_broken_circles(process: ProcessStatistics, least: float) -> list[TaskNow]:
    """The tasks that waited for each other before something ended it, for ``least`` s; longest first."""
    chains = process.waits.chains
    found: list[TaskNow] = []
    for circle in process.waits.circles.lasted(least):
        tasks = {
            each.ident: TaskNow(
                ident=each.ident,
                coroutine=process.sites.label(site_of(each.ident)),
                name=each.name,
                state=WAITING,
                age_s=each.until - each.since,
                waited_s=each.until - each.since,
                place=chains.place(each.chain),
                frames=chains.frames(each.chain),
                made_by="",
                loop="",
                in_circle=True,
                is_over=True,
            )
            for each in circle
        }
        for each in circle:
            tasks[each.ident].awaits = [tasks[other] for other in each.awaits]
        found += sorted(tasks.values(), key=lambda task: -task.waited_s)
    return found


def separate_circles(tasks: Iterable[TaskNow]) -> list[list[TaskNow]]:
    """Divides tasks in circles into one list for each circle, in the order of ``tasks``."""
    known = list(tasks)
    places = {id(task): place for place, task in enumerate(known)}
    found = circles({place: [places[id(other)] for other in task.awaits if id(other) in places]
                     for place, task in enumerate(known)})
    return [[known[int(place)] for place in sorted(members)] for members in sorted(found, key=min)]


def state_of(chain: int, stood: int, last_step: float, polled: float) -> str:
    """The state of a task.

    ``chain``: the chain at which a look has found it since ``last_step`` (monotonic s), 0 for none. ``stood``: the same
    of an earlier look. ``polled``: all that was ready at this moment (monotonic s) has run by now.
    """
    if chain:
        return WAITING
    if stood:
        return BRIEF
    return UNSEEN if last_step < polled else ACTIVE


def last_moment(process: ProcessStatistics) -> float:
    """The latest known moment of a process that has ended (monotonic s): its end, else its tasks' last step or look."""
    steps = [state.last_step for loop in process.loops.values() for state in loop.tasks.states()]
    return max(*steps, last_look(process), process.ended_at)


def last_look(process: ProcessStatistics) -> float:
    """When a task of the process was looked at last (monotonic s); 0 where none was."""
    return max((seen[-2] for seen in process.waits.looks.values()), default=0.0)


def _mark_circles(tasks: Iterable[TaskNow]) -> None:
    known = {task.ident: task for task in tasks}
    waiting = [task for task in known.values() if task.awaits]
    for members in circles({task.ident: [other.ident for other in task.awaits] for task in waiting}):
        for ident in members:
            known[ident].in_circle = True


def tree_of(tasks: list[TaskNow]) -> list[Group]:
    """The groups at the top of the tree: tasks that no task waits for, and one of each circle that stands alone."""
    shown: set[float] = set()
    tops = [task for task in tasks if not task.awaited]
    groups = _grouped(tops, shown, _MAX_DEPTH)
    for task in tasks:
        if task.ident not in shown:
            groups += _grouped([task], shown, _MAX_DEPTH)
    return groups


def _grouped(tasks: list[TaskNow], shown: set[float], depth: int) -> list[Group]:
    by_likeness: dict[Any, Group] = {}
    for task in tasks:
        again = task.ident in shown
        shown.add(task.ident)
        below = _grouped(task.awaits, shown, depth - 1) if task.awaits and not again and depth > 0 else []
        likeness = (task.coroutine, task.place, task.state, task.in_circle, _likeness(below))
        group = by_likeness.get(likeness)
        if group is None:
            by_likeness[likeness] = Group([task], below)
        else:
            group.tasks.append(task)
            for mine, others in zip(group.below, below, strict=True):
                _join(mine, others)
    return sorted(by_likeness.values(), key=lambda group: -max(task.waited_s for task in group.tasks))


def _likeness(groups: list[Group]) -> tuple[Any, ...]:
    return tuple(
        (group.tasks[0].coroutine, group.tasks[0].place, group.tasks[0].state, _likeness(group.below))
        for group in groups
    )


def _join(group: Group, other: Group) -> None:
    known = {task.ident for task in group.tasks}
    group.tasks += [task for task in other.tasks if task.ident not in known]
    for mine, others in zip(group.below, other.below, strict=True):
        _join(mine, others)
