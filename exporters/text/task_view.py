"""The tasks of a process as text: a tree of who waits for whom, or a flat table."""

from __future__ import annotations

from traceloop.reading.statistics.task_tree import ACTIVE, BRIEF, RUNNING, WAITING, Group, TaskNow
from traceloop.record.plumbing import readable

from .tables import Style, clean, count, counted, seconds, shorten, table

#: Groups under one task that are shown; the rest is counted.
MOST_BELOW = 20


_STATES = {WAITING: "waiting", BRIEF: "briefly", RUNNING: "running"}


def tree(groups: list[Group], style: Style) -> list[str]:
    """One line for each group of tasks at the same place; below it, the tasks that the group waits for."""
    lines: list[str] = []
    for group in groups:
        lines += _branch(group, style, "", "")
    return lines


def _branch(group: Group, style: Style, lead: str, below: str) -> list[str]:
    lines = [lead + _line(group, style, style.width - len(lead))]
    shown = group.below[:MOST_BELOW]
    hidden = group.below[MOST_BELOW:]
    for index, each in enumerate(shown):
        last = index == len(shown) - 1 and not hidden
        lines += _branch(each, style, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))
    if hidden:
        tasks = sum(len(each.tasks) for each in hidden)
        lines.append(below + style.dim(f"└─ and {counted(tasks, 'more task')}"))
    return lines


def _line(group: Group, style: Style, width: int) -> str:
    task = group.tasks[0]
    head = f"{count(len(group.tasks))} x " if len(group.tasks) > 1 else ""
    head += clean(readable(task.coroutine))
    if len(group.tasks) == 1 and task.name:
        head += f" ({clean(task.name)})"
    state = _state(group)
    text = f"{head}  {state}{_maker(group)}"
    if len(text) > width:
        text = f"{head}  {state}"
    if len(text) > width:
        head = shorten(head, max(16, width - len(state) - 2))
        text = shorten(f"{head}  {state}", width)
    return style.bad(text) if task.in_circle else text.replace(head, style.bold(head), 1)


def _state(group: Group) -> str:
    task = group.tasks[0]
    waited = _range([each.waited_s for each in group.tasks])
    if task.state == RUNNING:
        return f"runs, for {waited} in this step" + (f", at {place(task)}" if task.place.file else "")
    if task.state == BRIEF:
        return f"waits briefly, seen at {place(task)}"
    if task.state == ACTIVE:
        return f"active, last step {waited} ago"
    if task.state != WAITING:
        return f"{task.state}, last step {waited} ago"
    return f"{'DEADLOCK, ' if task.in_circle else ''}waits {waited} at {place(task)}"


def place(task: TaskNow) -> str:
    """``app.py:31 in load for asyncio.Lock.acquire``: the application's line, and what it waits in."""
    if not task.place.file:
        return "a place that is not known"
    file = clean(task.place.file).rpartition("/")[2]
    function = "" if task.place.function == task.coroutine else " in " + clean(task.place.function).rpartition(".")[2]
    inside = f" for {clean(task.place.inside)}" if task.place.inside else ""
    return f"{file}:{task.place.line}{function}{inside}"


def _maker(group: Group) -> str:
    makers = {task.made_by for task in group.tasks if task.made_by}
    if not makers:
        return ""
    return f", made by {clean(min(makers))}" + (f" and {len(makers) - 1} more" if len(makers) > 1 else "")


def _range(values: list[float]) -> str:
    lowest, highest = seconds(min(values)), seconds(max(values))
    return lowest if lowest == highest else f"{lowest} to {highest}"


def flat(tasks: list[TaskNow], style: Style) -> list[str]:
    """A row for each task, the one first that has waited longest."""
    header = ["task", "coroutine", "stands at", "state", "since step", "age"]
    rows = [
        [
            task.name or "-",
            readable(task.coroutine),
            place(task) if task.place.file or task.state == WAITING else "-",
            "deadlock" if task.in_circle else _STATES.get(task.state, "active"),
            seconds(task.waited_s),
            seconds(task.age_s),
        ]
        for task in sorted(tasks, key=lambda task: -task.waited_s)
    ]
    return table(style, header, rows, names=3, indent=0)
