"""The tasks of one loop: their numbers and names, who made them, how they ended. For the loop's thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from types import CodeType
from typing import Any

from ..core.buffer import Record
from ..core.identify import UNNAMED
from ..core.interface import Sites
from ..core.site_of import inner_coroutine, site_of_coroutine
from ..record import layout

_RESULT = layout.OUTCOME * layout.OUTCOME_RESULT
_EXCEPTION = layout.OUTCOME * layout.OUTCOME_EXCEPTION
_CANCELLED = layout.OUTCOME * layout.OUTCOME_CANCELLED

#: Called with each task that is destroyed while it is pending, in the thread in which the garbage collector runs.
destroyed_watchers: list[Callable[[Any], None]] = []


class Tasks:
    """``stamps`` is the recorder's: under the key 0 it says that there is something in ``created``."""

    __slots__ = (
        "_record",
        "_sites",
        "_stamps",
        "abandoned",
        "cancelled",
        "created",
        "failed",
        "finished",
        "fresh",
        "made",
        "next_number",
    )

    def __init__(
        self,
        record: Record,
        sites: Sites,
        stamps: dict[int, Any],
        next_number: Callable[[], float],
        fresh: Any,
    ) -> None:
        self._record = record
        self._sites = sites
        self._stamps = stamps
        self.next_number = next_number
        #: Tasks that ``create_task`` made, until their first step, in the order in which the first steps will run.
        self.fresh: deque[Any] = fresh
        #: Tasks that a task factory made in the present run, announced at its end.
        self.created: list[Any] = []
        self.made = 0  # besides those in ``fresh``
        self.finished = 0
        # Of ``finished``.
        self.failed = 0
        self.cancelled = 0
        # Destroyed while they were pending, or left at the loop's close.
        self.abandoned = 0

    def factory_made(self, task: Any) -> None:
        """A task factory made ``task``, which may have run, and ended, already."""
        try:
            if not task.done():
                self.created.append(task)
                self._stamps[0] = []
                return
        except Exception:  # what a task factory made need not be a task
            return
        self.made += 1
        self._ended_unseen(task)

    def _ended_unseen(self, task: Any) -> None:
        """Counts the end of ``task``, which did not end in a run of its own."""
        self.finished += 1
        self.outcome_of(task)

    def first_step_done(self, task: Any, ident: float) -> float:
        """Handles the first step of ``task`` in the cases that the loop does not handle itself: the task failed, was
        cancelled, or is not of the usual type. Returns what is added to the length of the queue in the run's record.
        """
        flags = layout.FIRST
        try:
            if not task.done():
                task._loop_ident = ident
            else:
                self.finished += 1
                flags += self.outcome_of(task)
        except Exception:  # something task-like that cannot carry a number
            flags = layout.FIRST
        self._record.add_text(_name_of(task))
        return flags

    def define_created(self, now: float) -> None:
        """Announces the tasks that a task factory made in the run that ended at ``now`` (s); by now they have their
        names.
        """
        made_by = -now if now > 0.0 else 1.0  # a test's clock may say anything
        for task in self.created:
            self.define(task, made_by)
        self.created.clear()
        self._stamps.pop(0, None)

    def define(self, task: Any, made_by: float = 0.0) -> float:
        """Gives ``task`` a number and announces it; called for those made directly at their first step."""
        if task in self.fresh:
            # Out of order: the program runs handles in an order of its own. Those before it may run later, or never.
            made_by = 2.0
            while True:
                other = self.fresh.popleft()
                if other is task:
                    break
                self._define(other, made_by)
        return self._define(task, made_by)

    def _define(self, task: Any, made_by: float) -> float:
        try:
            try:
                site = self._sites.by_code[id(task.get_coro().cr_code)]
            except (AttributeError, KeyError):
                site = self.coroutine_site(task)
            ident = self.next_number() + site
            task._loop_ident = ident
            self._record.add(ident, layout.R_TASK, made_by)
            self._record.add_text(_name_of(task))
            self.made += 1
            return ident
        except Exception:  # something task-like that cannot carry a number
            return UNNAMED

    def forget_ended(self) -> None:
        """Announces the tasks in ``fresh`` that a nested loop (nest_asyncio) has run to their end.

        If they stayed in ``fresh``, their results would be kept alive.
        """
        while self.fresh and self.fresh[0].done():
            task = self.fresh.popleft()
            self._define(task, 2.0)
            self._ended_unseen(task)

    def define_fresh(self) -> None:
        """Announces the tasks that will make no step, or no recorded one."""
        while self.fresh:
            self._define(self.fresh.popleft(), 2.0)

    def destroyed(self, task: Any) -> None:
        """``task`` was destroyed while it was pending, as the exception handler reports."""
        try:
            for watcher in destroyed_watchers:
                watcher(task)
            ident = getattr(task, "_loop_ident", 0.0)
            if isinstance(ident, float) and ident and not task.done():
                now = monotonic()
                self._record.add(ident, layout.R_ABANDONED, now if task.get_loop().is_running() else -now)
                self.abandoned += 1
        except Exception:  # something task-like, or not even that: a program calls the exception handler as it likes
            pass

    def count_lost(self) -> None:
        """Called when the loop closes: counts as abandoned the tasks that were freed unseen, because their maker asked
        that no warning be logged for them.
        """
        self.abandoned += max(0, self.pending)

    @property
    def pending(self) -> int:
        """How many of ``made`` have neither ended nor been abandoned, as far as the record knows."""
        return self.made - self.finished - self.abandoned

    def coroutine_site(self, task: Any) -> float:
        """The site of a task whose coroutine has no code object, or one that is met for the first time."""
        try:
            coro = task.get_coro()
            inner = inner_coroutine(coro)
            site = self._sites.number(site_of_coroutine(inner))
            code = getattr(coro, "cr_code", None)
            if isinstance(code, CodeType) and inner is coro:
                self._sites.remember(code, site)
            return site
        except Exception:
            return 0.0

    def outcome_of(self, task: Any) -> float:
        """The outcome of a task that has just ended, as a number that is added to the run's record.

        Called once a task, only where the outcome is not a result. It is also counted here.
        """
        try:
            # Not ``exception()``: that would mark it as retrieved.
            if task._exception is not None:
                self.failed += 1
                return _EXCEPTION
            if task.cancelled():
                self.cancelled += 1
                return _CANCELLED
        except Exception:  # something task-like
            pass
        return _RESULT


def _name_of(task: Any) -> Any:
    """What the record calls a task: never an empty string, which would leave its place to the next one's name."""
    try:
        return task.get_name() or " "
    except Exception:  # something task-like
        return " "
