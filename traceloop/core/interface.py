"""What the core asks of its surroundings, and what it offers them.

The core runs handles and records that it did. It imports nothing but ``traceloop.record``: what it needs of the
recording and of the loop is handed in, and stated here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from types import CodeType
from typing import Any, Final, NamedTuple, Protocol

from ..record.sites import Site
from .buffer import Record

#: The loop's own work, for ``Recorder.own_work``: moving timers that fell due to the ready queue, removing cancelled
#: ones from the heap, queueing what a poll has found.
DUE_TIMERS: Final = 0
CANCELLED_TIMERS: Final = 1
POLL_RESULTS: Final = 2
#: Own work of this length (s) and more is reported.
LONG_SECONDS: Final = 0.01


class Sites(Protocol):
    """The site log, as far as the core needs it."""

    by_code: dict[int, float]

    def number(self, site: Site) -> float:
        """The number of ``site``, 0 where there is no room for another."""
        ...

    def remember(self, code: CodeType, number: float) -> None:
        """Lets ``by_code`` find ``number`` under the code object's id as long as that lives."""
        ...


class Spans(Protocol):
    """The application's own spans."""

    variable: ContextVar[Any] | None

    def refresh(self) -> ContextVar[Any] | None:
        """Looks whether the application has spans by now; returns ``variable``."""
        ...

    def changed(self, otel_context: Any) -> None:
        """The next handle's context holds another value of ``variable`` than the one before it."""
        ...


class Tasks(Protocol):
    """Numbers, names and outcomes of tasks."""

    #: Tasks that ``create_task`` made, until their first step: in the order in which these will be run.
    fresh: deque[Any]
    #: Tasks that a task factory made in the run under way.
    created: list[Any]
    #: Tasks ever made, besides those in ``fresh``; and those ever finished.
    made: int
    finished: int
    #: A new task's number, times ``layout.SITE_LIMIT``.
    next_number: Callable[[], float]

    def define(self, task: Any) -> float:
        """Gives ``task`` a number and announces it; returns its ident."""
        ...

    def define_created(self, now: float) -> None:
        """Announces the tasks in ``created``. ``now``: the end of the run in which they were made, s."""
        ...

    def first_step_done(self, task: Any, ident: float) -> float:
        """``task`` has made its first step. Returns what is added to the run's record for that."""
        ...

    def outcome_of(self, task: Any) -> float:
        """What is added to the run's record for the way in which ``task`` has just ended."""
        ...

    def coroutine_site(self, task: Any) -> float:
        """The site of the task's coroutine."""
        ...


class Recorder(Protocol):
    """The recorder, as the recorded iteration sees it. For the loop's thread."""

    record: Record
    #: The ring's words (``layout.W_*``).
    words: memoryview[float]
    #: By the id of a handle in the ready queue: when another thread or a signal put it in. There is also an entry while
    #: ``tasks.created`` is not empty, so that the iteration has to look at one thing only before each run.
    stamps: dict[int, Any]
    external: Any
    is_running: bool
    #: Whether the record goes by the program's own clock.
    has_own_clock: bool

    @property
    def tasks(self) -> Tasks:
        """The loop's tasks."""
        ...

    @property
    def spans(self) -> Spans:
        """The application's spans."""
        ...

    @property
    def sites(self) -> dict[int, float]:
        """Sites by the id of a code object."""
        ...

    @property
    def builtin_sites(self) -> dict[type, dict[str, float]]:
        """Idents of C methods by their owner's type and their name."""
        ...

    def identify(self, callback: Any) -> float:
        """The ident of a callback; never 0."""
        ...

    def now(self, loop: Any) -> float:
        """The record's time, s."""
        ...

    def external_iteration(self, loop: Any) -> None:
        """An iteration was requested from outside ``run_forever``."""
        ...

    def stamped(self, handle: Any) -> None:
        """``handle``, which has an entry in ``stamps``, runs next."""
        ...

    def own_work_ident(self, which: int) -> float:
        """The ident of the loop's own work (``DUE_TIMERS``, ...), to be shown while it lasts."""
        ...

    def own_work(self, which: int, count: int, start: float, end: float) -> None:
        """The loop has worked for itself for ``LONG_SECONDS`` or more: on ``count`` timers or descriptors."""
        ...

    def out_of_memory(self) -> None:
        """There is no memory for records. Those that wait are dropped."""
        ...

    def flush(self, loop: Any, now: float) -> None:
        """Writes the waiting records into the ring, and the loop's gauges into its words."""
        ...

    def write(self, now: float) -> None:
        """Writes the waiting records into the ring."""
        ...


class Running(NamedTuple):
    """The handle run under way: its start (s of the loop's clock, equal to the start in its record), its ident, and
    the handle; None while what a finished run held is being released.
    """

    start: float
    ident: float
    handle: Any
