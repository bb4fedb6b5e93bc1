"""One program on every way that a loop can go: the same callbacks in the same order, the same failures and record.

hypothesis draws the program: callbacks, timers (all of them due, since the order of others depends on the machine),
cancellations, tasks that end, fail or are cancelled, futures that are handed on, callables of every kind. The plain
iteration is the reference.
"""

from __future__ import annotations

import asyncio
import functools
import re
import sys
import time
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.helpers.cores import CORES
from tests.helpers.written_batches import note_batches
from traceloop.record import layout

KINDS = ("function", "method", "partial", "builtin", "object", "lambda")
ENDS = ("returns", "fails", "cancelled", "awaits")
# Who makes a task: create_task; the program itself, which starts it at once where there are such tasks.
MAKERS = ("loop", "class", "eager")

endings, makers = st.sampled_from(ENDS), st.sampled_from(MAKERS)
leaves = st.one_of(
    st.tuples(st.just("raise")),
    st.tuples(st.just("append"), st.integers(0, 9)),
    st.tuples(st.just("future"), st.integers(0, 2)),
    st.tuples(st.just("threadsafe"), st.integers(0, 9)),
)
# What the iteration in C leaves to the one in Python: debug mode, a list of timers that somebody keeps.
CHANGES = ("debug", "keep", "look")


def programs_of(*more: Any) -> Any:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            *[st.tuples(*each, st.lists(inner, max_size=2), st.lists(inner, max_size=2)) for each in more],
            st.tuples(st.just("soon"), st.sampled_from(KINDS), st.integers(0, 3), st.lists(inner, max_size=3)),
            st.tuples(st.just("timer"), st.integers(0, 3), st.lists(inner, max_size=3)),
            st.tuples(st.just("cancel"), st.sampled_from(("soon", "timer", "later")), st.lists(inner, max_size=2)),
            st.tuples(st.just("task"), endings, makers, st.integers(0, 3), st.lists(inner, max_size=3)),
        ),
        max_leaves=12,
    )


programs = programs_of()


class Failure(Exception):
    pass


class Program:
    """Carries out what was drawn, and notes what happened. apart: seconds between timers that would be due at once."""

    def __init__(self, loop: Any, apart: float = 0.0) -> None:
        self.loop = loop
        self.apart = apart
        self.log: list[Any] = []
        self.failures: list[Any] = []
        self.numbers = 0
        self.kept: list[Any] = []
        self.base = loop.time()
        self.tasks: set[Any] = set()
        loop.set_exception_handler(self.failed)

    def failed(self, loop: Any, context: dict[str, Any]) -> None:
        self.failures.append((re.sub(" at .*", "", context["message"]), type(context.get("exception")).__name__))

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def carry_out(self, ops: list[Any]) -> None:
        for op in ops:
            getattr(self, f"do_{op[0]}")(*op[1:])

    def ran(self, number: int, ops: list[Any], *args: Any) -> None:
        self.log.append(("ran", number, args))
        self.carry_out(ops)

    def __call__(self, number: int, ops: list[Any], *args: Any) -> None:
        self.ran(number, ops, "object", *args)

    def do_raise(self) -> None:
        number = self.number()

        def failing() -> None:
            self.log.append(("fails", number))
            raise Failure(number)

        self.loop.call_soon(failing)

    def do_append(self, value: int) -> None:
        self.loop.call_soon(self.log.append, value)

    def do_change(self, what: str, ops: list[Any], ops_then: list[Any]) -> None:
        """There, and back two iterations later: the iteration in C is asked for after a flush."""
        self.carry_out(ops)
        if what == "debug":
            self.loop.set_debug(True)
        else:
            self.kept.append(self.loop._scheduled if what == "keep" else len(self.loop._scheduled))
        self.loop.call_soon(lambda: self.loop.call_soon(self.change_back, ops_then))

    def change_back(self, ops: list[Any]) -> None:
        self.carry_out(ops)
        self.loop.set_debug(False)
        self.kept.clear()
        time.sleep(0.021)

    def do_threadsafe(self, value: int) -> None:
        self.loop.call_soon_threadsafe(self.log.append, ("threadsafe", value))

    def do_future(self, waiters: int) -> None:
        future, number = self.loop.create_future(), self.number()
        for waiter in range(waiters):
            future.add_done_callback(lambda done, waiter=waiter: self.log.append((number, waiter, done.result())))
        self.loop.call_soon(future.set_result, number)

    def do_soon(self, kind: str, extra: int, ops: list[Any]) -> None:
        def function(number: int, ops: list[Any], *args: Any) -> None:
            self.ran(number, ops, "function", *args)

        callbacks: dict[str, Any] = {
            "function": function,
            "method": self.ran,
            "partial": functools.partial(function),
            "builtin": functools.partial(getattr, None),
            "object": self,
            "lambda": lambda number, ops, *args: self.ran(number, ops, "lambda", *args),
        }
        if kind == "builtin":
            self.loop.call_soon(self.log.extend, [self.number(), extra])
        else:
            self.loop.call_soon(callbacks[kind], self.number(), ops, *range(extra))

    def do_timer(self, before: int, ops: list[Any]) -> None:
        number = self.number()
        self.loop.call_at(self.base - before - number * self.apart, self.ran, number, ops, "timer")

    def do_cancel(self, what: str, ops: list[Any]) -> None:
        number = self.number()
        if what == "timer":
            self.loop.call_at(self.base - 1, self.ran, number, []).cancel()
        else:
            handle = self.loop.call_soon(self.ran, number, [])
            if what == "soon":
                handle.cancel()
            else:
                self.loop.call_soon(handle.cancel)
        self.carry_out(ops)

    def do_task(self, end: str, maker: str, steps: int, ops: list[Any]) -> None:
        number = self.number()
        future = self.loop.create_future()

        async def steps_of() -> None:
            self.log.append(("task", number))
            for step in range(steps):
                await asyncio.sleep(0)
                self.log.append(("step", number, step))
            self.carry_out(ops)
            if end == "awaits":
                self.log.append(await future)
            if end == "fails":
                raise Failure(number)
            self.log.append(("task ends", number))

        name = f"task {number}"
        if maker == "loop":
            task = self.loop.create_task(steps_of(), name=name)
        else:
            eager = {"eager_start": True} if maker == "eager" and sys.version_info >= (3, 12) else {}
            task = asyncio.Task(steps_of(), loop=self.loop, name=name, **eager)
        self.tasks.add(task)
        task.add_done_callback(self.task_done)
        if end == "cancelled":
            self.loop.call_soon(task.cancel)
        if end == "awaits":
            self.loop.call_soon(future.set_result, number)

    def task_done(self, task: Any) -> None:
        self.tasks.discard(task)
        how = "cancelled" if task.cancelled() else repr(task.exception())
        self.log.append((task.get_name(), how))

    async def run(self, ops: list[Any]) -> None:
        self.carry_out(ops)
        quiet = 0
        # Until nothing has come for three iterations; the depth of what is drawn bounds it.
        while quiet < 3:
            before = len(self.log)
            await asyncio.sleep(0)
            quiet = 0 if len(self.log) > before or self.tasks else quiet + 1


def outcome(
    make: Any, ops: list[Any], *, debug: bool = False, once: bool = False, apart: float = 0.0
) -> tuple[Any, Any, Any]:
    """The log, the failures and the record (None without a recorder) of a program on a loop."""
    written: list[tuple[list[float], list[str]]] = []

    def note(ring: Any, records: list[float], text: list[str]) -> None:
        if ring is recorder.ring:
            written.append((records, text))

    with pytest.MonkeyPatch.context() as patch:
        loop = make()
        try:
            loop.set_debug(debug)
            loop.slow_callback_duration = 10.0
            recorder = loop._recorder
            program = Program(loop, apart)
            if recorder is not None:
                loop.run_until_complete(asyncio.sleep(0))  # the loop has its ring now
                note_batches(patch, note)
                start = 3 * recorder.ring.records
            if once:  # as code that drives the loop itself does
                loop._run_once = functools.partial(type(loop)._run_once, loop)
            loop.run_until_complete(program.run(ops))
            record = None
            if recorder is not None:
                record = told(written, recorder, program.base, start)
                assert recorder.tasks.finished == recorder.tasks.made + len(recorder.tasks.fresh)
        finally:
            loop.close()
    return program.log, program.failures, record


def told(written: list[Any], recorder: Any, base: float, start: int) -> list[Any]:
    """The record without what depends on time, or on what ran before in this process."""
    out: list[Any] = []
    texts: list[str] = []
    tasks: dict[int, int] = {}
    sites = recorder.process.site_log.sites

    def ident(value: float) -> Any:
        number = int(value) // layout.SITE_LIMIT
        return sites[int(value) % layout.SITE_LIMIT].label, tasks.setdefault(number, len(tasks)) if number else None

    for doubles, text in written:
        for a, kind, b in zip(doubles[::3], doubles[1::3], doubles[2::3], strict=True):
            if kind > 0:
                out.append((ident(kind), b))
            elif kind == layout.R_TIMER:
                out.append(("timer", round(a - base), b - start if b > 0 else 0))
            elif kind in (layout.R_TASK, layout.R_ABANDONED):
                out.append((kind, ident(a), max(b, -1.0) if kind == layout.R_TASK else 0))
            elif kind in (layout.R_DUE, layout.R_WRITER):
                out.append((kind, a, b))
            elif kind == layout.R_SPIN or kind <= layout.R_FOUND:
                out.append((kind,))
            elif kind not in (layout.R_WORD, layout.R_EVENT):  # the loop's own work is told where the machine is slow
                out.append((kind, b if kind != layout.R_MEMORY else 0))
        texts += [re.sub(r"Task-\d+", "Task", each) for each in text if not each.startswith("{")]
    # Apart, since where a batch ends depends on time.
    return out + texts


def ways(ops: list[Any]) -> dict[str, tuple[Any, Any, Any]]:
    python = CORES["python"]
    found = {
        "plain": outcome(functools.partial(python, recorder=False), ops),
        "recorded": outcome(python, ops),
        "debug": outcome(python, ops, debug=True),
        "one at a time": outcome(python, ops, once=True),
    }
    if "c" in CORES:
        found["c"] = outcome(CORES["c"], ops)
        found["c, debug"] = outcome(CORES["c"], ops, debug=True)
        found["c, one at a time"] = outcome(CORES["c"], ops, once=True)
    return found


def check(ops: list[Any]) -> tuple[Any, Any, Any]:
    """Compares all ways. Returns what the plain loop did, and the record."""
    found = ways(ops)
    log, failures, _ = found["plain"]
    record = found["recorded"][2]
    for way, (its_log, its_failures, its_record) in found.items():
        assert its_log == log, way
        assert its_failures == failures, way
        # Whose runs they are. Where runs go through handles tasks are announced in another way (R_TASK).
        if its_record is not None:
            assert runs(its_record) == runs(record), way
    for python, native in (("recorded", "c"), ("debug", "c, debug"), ("one at a time", "c, one at a time")):
        if native in found:
            assert found[native][2] == found[python][2], native
    return log, failures, record


def runs(record: list[Any]) -> list[str]:
    return [each[0][0] for each in record if isinstance(each, tuple) and isinstance(each[0], tuple)]


@hypothesis.settings(max_examples=25, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(st.lists(programs, min_size=1, max_size=6))
def test_all_ways_run_the_same_and_record_the_same(ops):
    check(ops)


@hypothesis.settings(max_examples=15, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(st.lists(programs_of((st.just("change"), st.sampled_from(CHANGES))), min_size=1, max_size=6))
def test_a_loop_that_changes_over_meanwhile_runs_the_same(ops):
    # A list of handles, as others have it, says nothing of who was first where two are due at once.
    plain = outcome(functools.partial(CORES["python"], recorder=False), ops, apart=1e-6)
    whose: list[list[str]] = []
    for core in CORES:
        log, failures, record = outcome(CORES[core], ops, apart=1e-6)
        assert (log, failures) == plain[:2], core
        whose.append(runs(record))
    assert whose[-1] == whose[0]


def test_the_programs_are_not_empty():
    """What is compared above: one program with everything in it."""
    ops: list[Any] = [
        ("soon", kind, 2, [("raise",), ("timer", 2, [("append", 1)]), ("timer", 1, [("future", 2)])]) for kind in KINDS
    ]
    ops += [
        ("task", end, maker, 2, [("cancel", "later", [("soon", "lambda", 0, [])])]) for end in ENDS for maker in MAKERS
    ]
    ops += [("cancel", what, [("threadsafe", 3)]) for what in ("soon", "timer", "later")]
    log, failures, record = check(ops)
    assert len(log) > 60 and len(failures) == 5 and len(record) > 100
