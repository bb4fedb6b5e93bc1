"""What the decoder makes of a record: plain values, one list for each sort."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from .runs import Iteration as Iteration
from .runs import IterationRows, Iterations, RunRows, Runs
from .runs import Run as Run
from .task_rows import NewTask as NewTask
from .task_rows import Rows, TaskEnd

TASK: Final = "task"
SOON: Final = "soon"
TIMER: Final = "timer"
READER: Final = "reader"
WRITER: Final = "writer"
SIGNAL: Final = "signal"
THREADSAFE: Final = "threadsafe"
KINDS: Final = (TASK, SOON, TIMER, READER, WRITER, SIGNAL, THREADSAFE)
#: Handles that no run of the loop put into its queue.
OUTSIDE: Final = frozenset((READER, WRITER, TIMER, THREADSAFE, SIGNAL))

#: Seconds that no clock reaches: a time, or a duration, beyond is damage.
LATEST: Final = 2.0**33


class State:
    """What a loop's thread is doing, as far as its record has been read."""

    STOPPED: Final = 0
    ACTIVE: Final = 1
    IDLE: Final = 2
    UNKNOWN: Final = 3


class LoopInfo(NamedTuple):
    """The loop that owns a ring for a while: its number in its process, its thread's name, since when."""

    number: int
    thread: str
    since: float


class SpanContext(NamedTuple):
    """An application's span that runs refer to by number; ids in hexadecimal."""

    number: int
    trace_id: str
    span_id: str
    flags: int
    trace_state: str


class Collection(NamedTuple):
    """One garbage collection; seconds. called: whether the program called ``gc.collect()``.

    number, longest: of short ones of one generation that were too many for a record each, how many there were from
    ``start`` on, and how long the longest was (0: all were alike). ``duration`` and the others are their sums.
    """

    start: float
    duration: float
    generation: int
    collected: int
    uncollectable: int
    called: bool = False
    number: int = 1
    longest: float = 0.0


class OffloadStep(NamedTuple):
    """One step of an offload: ``step`` is submit, start, finish or deliver. What a step does not tell is 0.

    submit: executor, ident of the function, the run that submitted it (0 where it was no run of this ring), number of
    the span current then. start: number of the worker (see WorkerThread). finish: outcome. deliver: the run.
    """

    step: str
    when: float
    number: int
    executor: int = 0
    ident: float = 0.0
    run: int = 0
    context: int = 0
    worker: int = 0
    outcome: int = 0


class WorkerThread(NamedTuple):
    """A worker of an executor; said before its first start of an offload, and now and then again."""

    number: int
    thread_id: int
    name: str


class Executor(NamedTuple):
    """An executor: said when it was first seen, and now and then again. ``max_workers`` 0: unknown."""

    number: int
    label: str
    max_workers: int


class Workers(NamedTuple):
    """Threads (or processes) that an executor has started; -1 when the executor has gone."""

    executor: int
    started: int


class Standing(NamedTuple):
    """A look found this task (``ident``) suspended at ``when`` (monotonic s), at the place that its ``chain`` says."""

    when: float
    ident: float
    chain: int


class Event(NamedTuple):
    """Anything rare: ``data`` is the JSON object that the recorder wrote."""

    when: float
    number: int
    data: dict[str, Any]


_SAY_NOTHING: Final = frozenset(("end", "longest_s", "loop", "records"))


class StackNode(NamedTuple):
    """A frame of the profile's stacks. parent: number of the node that called it, 0 for none. site: of the line.
    awaits: whether it does not run, but awaits what is below it.
    """

    number: int
    parent: int
    site: int
    awaits: bool


class StackSample(NamedTuple):
    """One sample of the profile: in which run, at which node, and the time that it stands for. ring: of the loop, -1
    for a worker thread.
    """

    when: float
    seconds: float
    ident: float
    node: int
    ring: int


class Decoded:
    """What a chunk of one ring says, in the order of the record within each list.

    loop: whose it is (None in a process ring, or where its beginning was lost); one Decoded never spans two loops.
    runs, iterations, tasks, spans, collections, offloads, executors, workers, threads, events: see the types.
    standing: tasks that were found suspended. awaited: (when, ident of a task, ident of one that it waits
    for).
    requests: (number of a run, site of the function that handles the request which that run answers, or whose name is
    the request's). request_spans: (number of such a run, number of the request's server span in the application).
    chains: (number, text) of chains of coroutines. look_period: time between two looks at one task, s; 0: no look.
    tasks, finished: tasks that begin and tasks that end, see task_rows.py. abandoned: (ident, when). left: idents of
    those among them whose loop did not run then.
    memory: (when, allocated blocks). timers: (when, ring, timers that wait). nodes, samples: of the profile.
    profile_rate: its samples a second; 0: not known.
    active_s, idle_s: time running and polling. Polls that could not wait (timeout 0) count as running.
    last_words: values of layout.COUNTER_WORDS that the loop had when it was closed, by index.
    longest_s: of its runs, once the statistics have seen them; until then it is not known, and infinite.
    dropped: records lost in or before this chunk. records: read. closed: the loop was closed at its end, at ``end``.
    """

    __slots__ = (
        "abandoned",
        "active_s",
        "awaited",
        "chains",
        "closed",
        "collections",
        "dropped",
        "end",
        "events",
        "executors",
        "finished",
        "idle_s",
        "iterations",
        "last_words",
        "left",
        "longest_s",
        "look_period",
        "loop",
        "memory",
        "nodes",
        "offloads",
        "profile_rate",
        "records",
        "request_spans",
        "requests",
        "runs",
        "samples",
        "spans",
        "standing",
        "tasks",
        "threads",
        "timers",
        "workers",
    )

    def __init__(self, loop: LoopInfo | None) -> None:
        self.loop = loop
        self.runs: Runs = RunRows()
        self.iterations: Iterations = IterationRows()
        self.tasks: Rows[NewTask] = []
        self.finished: Rows[TaskEnd] = []
        self.abandoned: list[tuple[float, float]] = []
        self.left: list[float] = []
        self.spans: Rows[SpanContext] = []
        self.collections: list[Collection] = []
        self.offloads: list[OffloadStep] = []
        self.executors: list[Executor] = []
        self.workers: list[Workers] = []
        self.threads: list[WorkerThread] = []
        self.events: list[Event] = []
        self.memory: list[tuple[float, int]] = []
        self.timers: list[tuple[float, int, int]] = []
        self.chains: list[tuple[int, str]] = []
        self.standing: list[Standing] = []
        self.awaited: list[tuple[float, float, float]] = []
        self.requests: Rows[tuple[int, int]] = []
        self.request_spans: list[tuple[int, int]] = []
        self.nodes: list[StackNode] = []
        self.samples: list[StackSample] = []
        self.profile_rate = 0.0
        self.look_period = 0.0
        self.last_words: dict[int, float] = {}
        self.longest_s = float("inf")
        self.active_s = 0.0
        self.idle_s = 0.0
        self.dropped = 0
        self.records = 0
        self.closed = False
        self.end = 0.0

    @property
    def empty(self) -> bool:
        """Whether it says nothing at all."""
        return not any(getattr(self, name) for name in self.__slots__ if name not in _SAY_NOTHING)
