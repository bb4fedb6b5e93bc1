"""What `pytest --traceloop` does: reads the record around each test, in-process, and fails what is over its limits.

Every loop that the tests make through asyncio is a traced one, from before the first test module is imported. No port
is opened and no process is started. Under pytest-xdist each worker does that, and the controller shows one table.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from operator import sub
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from .instrument import rebinding
from .parsing import SettingsError, parse_seconds
from .reading.budgets import net_seconds
from .reading.findings.model import place_of, short_path
from .reading.follower import PrivateFollower
from .reading.new_statistics import make_statistics
from .reading.stalls.parts import stalls_of
from .record.frames import Frame, called_by, culprit_frame, place
from .record.plumbing import readable
from .record.proc import schedule_of
from .record.sites import Site, site_of
from .recording import blocking_calls
from .recording.blocking_calls import Call
from .recording.process import current_process, existing_process
from .recording.tasks import destroyed_watchers
from .settings import Settings

if TYPE_CHECKING:
    from .reading.stalls.model import StallInfo

_SHOWN = 10
#: Slow callbacks, and leaked tasks, that a failure names one by one.
_NAMED = 5
_FRAMES = 12
#: Of a shorter run no stack is looked for, s.
_LEAST_WITH_STACK = 0.01
#: For how long the watchdog's last words about a slow run are waited for, s.
_PATIENCE = 0.5


class SlowTestRun(NamedTuple):
    """The longest run of one callback: seconds, `module.qualname`, and the test in which it ran.

    where: the culprit's line, as in `app/prices.py:31 in load_prices`; of a run without a stack that of the callback's
    `def`.
    """

    seconds: float
    callback: str
    test: str
    where: str


class Limits(NamedTuple):
    """What fails a test. slow: seconds that no callback may run for; None: as long as it likes. leaks: tasks left.
    blocking: calls that may block.
    """

    slow: float | None
    leaks: bool
    blocking: bool

    @classmethod
    def of(cls, item: pytest.Item, default: Limits) -> Limits:
        """The limits of a test: of its markers, the nearest counting most, and of the command line."""
        slow, leaks, blocking = default
        for mark in reversed(list(item.iter_markers("traceloop"))):
            unknown = mark.kwargs.keys() - set(cls._fields)
            if mark.args or unknown:
                raise pytest.UsageError(
                    f"{item.nodeid}: expected @pytest.mark.traceloop(slow=SECONDS, leaks=BOOL, blocking=BOOL)"
                )
            if "slow" in mark.kwargs:
                slow = None if mark.kwargs["slow"] is None else seconds_of(str(mark.kwargs["slow"]), item.nodeid)
            leaks = bool(mark.kwargs.get("leaks", leaks))
            blocking = bool(mark.kwargs.get("blocking", blocking))
        return cls(slow, leaks, blocking)


def seconds_of(text: str, whose: str) -> float:
    """A time above 0, in seconds if it has no unit; raises pytest.UsageError, which names the option or the test."""
    try:
        return parse_seconds(text)
    except SettingsError as error:
        raise pytest.UsageError(f"{whose}: {error}") from None


class Watch:
    """Reads the record around each test. `limits`: those of tests that have no marker of their own."""

    def __init__(self, config: pytest.Config, limits: Limits) -> None:
        self.config = config
        self.limits = limits
        self.longest: dict[str, SlowTestRun] = {}
        # Of the longest runs those whose stacks may come later, by label: ring and run.
        self._without_stack: dict[str, tuple[int, Any]] = {}
        self.callbacks = 0
        self.dropped = 0
        self.leaks = Leaks()
        rebinding.running_loop_watchers.append(self.leaks.loop_runs)
        destroyed_watchers.append(self.leaks.destroyed)
        self._untraced = rebinding.untraced
        self._follower: Any = None

    # -- around each test

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """The limit holds for loops that fixtures make, too: from it on the watchdog takes stacks."""
        limit = Limits.of(item, self.limits).slow
        with _threshold(limit):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """The test itself: what its fixtures ran is counted, but fails nothing."""
        limits = Limits.of(item, self.limits)
        self._read(item.nodeid)
        waited = _waited_for_processor()
        self.leaks.begin()
        calls = _BlockingCalls() if limits.blocking else None
        try:
            result = yield
        finally:
            left = self.leaks.end()
            slow = self._read(item.nodeid, limits.slow)
        failures = []
        if limits.slow is not None and slow:
            failures += self._too_slow(slow, limits.slow, waited)
        if limits.leaks and left:
            failures.append(_left_behind(left))
        if calls is not None and (made := calls.made()):
            failures.append(_may_block(made))
        if failures:
            pytest.fail("\n\n".join(failures), pytrace=False)
        return result

    def _too_slow(self, slow: list[tuple[int, Any, str]], limit: float, waited: float | None) -> list[str]:
        """A text for each slow run that stays one when what the machine owes it is taken off."""
        now = _waited_for_processor()
        # No run has waited for longer than its thread has during the whole test.
        most = max(0.0, now - waited) if now is not None and waited is not None else 0.0
        out = []
        for ring, run, callback in slow:
            info = self._info(ring, run)
            length = run[2] - run[1]
            seconds = net_seconds(length, info, most)
            if seconds > limit:
                out.append(_slow_text(length, length - seconds, callback, limit, info))
        if len(out) > _NAMED:
            out[_NAMED:] = [f"and {len(out) - _NAMED} more"]
        return out

    def _info(self, ring: int, run: Any, patience: float = _PATIENCE) -> StallInfo | None:
        """What the watchdog knows of a run; its last measurement may be a moment away."""
        deadline = time.monotonic() + patience
        while True:
            info: StallInfo | None = stalls_of(self._follower.statistics).index.lookup(ring, run[1], run[2])
            if (info is not None and info.complete) or time.monotonic() >= deadline:
                return info
            time.sleep(0.01)
            self._read("")

    def _read(self, test: str, limit: float | None = None) -> list[tuple[int, Any, str]]:
        """Takes in what was recorded since the last time; ring, run and label of those over the limit."""
        follower = self._follow()
        over: list[tuple[int, Any, str]] = []
        if follower is None:
            return over
        sites = follower.statistics.sites
        longest = 0.0
        for chunk in follower.read():
            self.dropped += chunk.decoded.dropped
            if chunk.loop is None:
                continue
            self.callbacks += len(chunk.decoded.runs)
            runs = chunk.decoded.runs
            for index, seconds in enumerate(map(sub, runs.ends, runs.starts)):
                # Most runs are short: those that cannot be in a table that is full need no name.
                if seconds < longest and seconds < 1e-4 and len(self.longest) >= _SHOWN:
                    continue
                longest = max(longest, seconds)
                run = runs[index]
                label = sites.label_of(run[3])
                if limit is not None and seconds > limit:
                    over.append((chunk.ring.reader.number, run, label))
                known = self.longest.get(label)
                if test and (known is None or seconds > known.seconds):
                    self.longest[label] = SlowTestRun(seconds, label, test, _defined(sites.site(site_of(run[3]))))
                    self._without_stack[label] = chunk.ring.reader.number, run
        return over

    def _slowest(self) -> list[SlowTestRun]:
        """The rows of the table, with the lines of their culprits."""
        for run in sorted(self.longest.values(), reverse=True)[:_SHOWN]:
            ring, found = self._without_stack.pop(run.callback, (0, None))
            if found is not None and run.seconds >= _LEAST_WITH_STACK:
                # Below the threshold there may be a stack by chance: it is not waited for.
                process = existing_process()
                is_slow = process is not None and run.seconds >= process.settings.slow_threshold
                culprit = _culprit(self._info(ring, found, _PATIENCE if is_slow else 0.0))
                if culprit is not None:
                    file, line, module, qualname = culprit
                    self.longest[run.callback] = run._replace(where=place_of(f"{module}.{qualname}", file, line))
        return sorted(self.longest.values(), reverse=True)[:_SHOWN]

    def _follow(self) -> Any:
        if self._follower is None:
            process = current_process()
            if process is not None:
                self._follower = PrivateFollower(make_statistics(Settings()), process)
        return self._follower

    # -- the table at the end

    def pytest_sessionfinish(self) -> None:
        """A worker of pytest-xdist hands over what it has."""
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            self._read("teardown")
            rows = [list(run) for run in self._slowest()]
            output["traceloop"] = [rows, self.callbacks, self.dropped, self._untraced]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """The controller of pytest-xdist takes it."""
        for row in (rows := getattr(node, "workeroutput", {}).get("traceloop", [[], 0, 0, {}]))[0]:
            run = SlowTestRun(*row)
            if run.callback not in self.longest or self.longest[run.callback] < run:
                self.longest[run.callback] = run
        self.callbacks += rows[1]
        self.dropped += rows[2]
        for name, times in rows[3].items():
            self._untraced[name] = self._untraced.get(name, 0) + times

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table."""
        self._read("teardown")
        terminalreporter.section("slowest callbacks (traceloop)")
        for run in self._slowest():
            where = f" ({run.where})" if run.where else ""
            terminalreporter.write_line(f"{run.seconds * 1e3:10.2f} ms  {readable(run.callback)}{where}  {run.test}")
        lost = f", {self.dropped} more were overwritten before they were read" if self.dropped else ""
        words = f"of {self.callbacks} callbacks{lost}" if self.callbacks else "no traced event loop ran"
        terminalreporter.write_line(words)
        if self._untraced:
            terminalreporter.write_line(f"loops that ran untraced: {', '.join(sorted(self._untraced))}")


def _slow_text(seconds: float, wait: float, callback: str, limit: float, info: StallInfo | None) -> str:
    less = f", {wait:.3f} s of which may be waiting for a processor," if wait >= 0.001 else ""
    out = [f"{callback} ran for {seconds:.3f} s{less} without giving the loop back (limit: {limit:g} s)"]
    stack = info.stack if info is not None else None
    if info is None or stack is None:
        return out[0] + "\n  (no stack: the run was over before one could be taken)"
    culprit = _culprit(info)
    if culprit is not None:
        called = called_by(stack.frames, culprit)
        out.append(f"  culprit: {place(culprit)}{f', in {place(called)}' if called is not None else ''}")
    if info.parts.cause:
        out.append(f"  cause: {info.parts.cause}{', probably' if info.parts.guess else ''}")
    lines = stack.text.splitlines()
    out += lines[:1] + (["  ..."] if len(lines) > _FRAMES else []) + lines[1:][-_FRAMES:]
    return "\n".join(out)


def _culprit(info: StallInfo | None) -> Frame | None:
    """The frame that held the loop longest, as far as stacks say."""
    stack = info.stack if info is not None else None
    return culprit_frame(stack.frames, stack.awaiting) if stack is not None else None


def _defined(site: Site | None) -> str:
    """Where a callback is defined, as in `app/prices.py:31`."""
    return f"{short_path(site.file)}:{site.line}" if site is not None and site.file else ""


def _left_behind(left: list[str]) -> str:
    what = "1 task was" if len(left) == 1 else f"{len(left)} tasks were"
    rest = [f"  and {len(left) - _NAMED} more"] if len(left) > _NAMED else []
    return "\n".join([f"{what} left behind, not done:", *("  " + text for text in left[:_NAMED]), *rest])


def _may_block(made: list[tuple[Call, int]]) -> str:
    lines = [f"  {call.call}: {place(call[1:])}{f', {times} times' if times > 1 else ''}" for call, times in made]
    rest = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join(["calls that may block, on the loop's thread:", *lines[:_SHOWN], *rest])


class _BlockingCalls:
    """The calls that may block, made from now on by what runs on a loop of this process."""

    def __init__(self) -> None:
        process = current_process()
        self._calls = blocking_calls.find_in(process) if process is not None else None
        self._before = self._counts()

    def _counts(self) -> dict[Call, int]:
        return {call: total.count for call, total in self._calls.totals.items()} if self._calls is not None else {}

    def made(self) -> list[tuple[Call, int]]:
        """Who called what, where, and how often."""
        now = self._counts()
        return [(call, now[call] - self._before.get(call, 0)) for call in now if now[call] > self._before.get(call, 0)]


def _waited_for_processor() -> float | None:
    """For how long this thread has waited for a processor, ever, s; None where the kernel does not say."""
    waited = schedule_of(threading.get_native_id()).waited_s
    return waited if waited >= 0.0 else None


@contextlib.contextmanager
def _threshold(seconds: float | None) -> Iterator[None]:
    """While it lasts, runs from so many seconds on are slow for the watchdog: in loops that exist, and in new ones."""
    if seconds is None:
        yield
        return
    before = _exchange_threshold(seconds)
    try:
        yield
    finally:
        _exchange_threshold(before)


def _exchange_threshold(seconds: float) -> float:
    process = current_process()
    if process is None:
        return seconds
    before = process.settings.slow_threshold
    process.settings = process.settings.replace(slow_threshold=seconds)
    for loop in list(process.loops):
        if loop._recorder is not None:
            loop._recorder.general_threshold = seconds
    return before


class Leaks:
    """Tasks that a test has made and left behind: of a loop that is open or closed by now, cancelled by
    `asyncio.Runner`, or collected by the garbage collector before they were done.

    `asyncio.run` cancels what is left before anybody else can look, in a run of the loop of its own: `loop_runs` sees
    it begin. `begin` and `end` are called around the test.
    """

    def __init__(self) -> None:
        self._left: list[str] = []

    def begin(self) -> None:
        """The test begins: what is there by now is its fixtures', or an earlier test's."""
        self._add(self._pending())
        self._left = []

    def end(self) -> list[str]:
        """The test is over: what it left, a line for each."""
        self._add(self._pending())
        left, self._left = self._left, []
        return left

    def loop_runs(self, loop: Any) -> None:
        """A loop begins to run in this thread (None: has ended)."""
        if loop is not None and _is_below("_cancel_all_tasks"):
            self._add(asyncio.all_tasks(loop))

    def destroyed(self, task: Any) -> None:
        """An error is reported with this task: mostly, that it is destroyed while it is pending."""
        try:
            if not task.done():
                self._add((task,))
        except Exception:  # the program may report anything as a task
            pass

    def _add(self, tasks: Iterable[Any]) -> None:
        self._left += [_describe(task) for task in tasks if _is_new(task)]

    @staticmethod
    def _pending() -> Iterator[Any]:
        process = existing_process()
        for loop in list(process.loops) if process is not None else ():
            yield from asyncio.all_tasks(loop)


def _is_new(task: Any) -> bool:
    """Whether the task is seen for the first time. The mark is on the task itself: another may get its address, and the
    garbage collector clears weak references before it destroys a task.
    """
    if getattr(task, "_traceloop_seen", False):
        return False
    try:
        task._traceloop_seen = True
    except AttributeError:  # something task-like
        return False
    return True


def _is_below(function: str) -> bool:
    frame = sys._getframe()
    for _ in range(_FRAMES):
        if frame.f_back is None:
            return False
        frame = frame.f_back
        if frame.f_code.co_name == function:
            return True
    return False


def _describe(task: Any) -> str:
    """`NAME: module.qualname, at FILE:LINE`; the line is where the task's own coroutine stands. Of one that has been
    closed, `NAME: qualname, of FILE:LINE`, where it is defined.
    """
    coroutine = task.get_coro()
    frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
    name = getattr(coroutine, "__qualname__", type(coroutine).__name__)
    if frame is None:
        code = getattr(coroutine, "cr_code", None) or getattr(coroutine, "gi_code", None)
        return f"{task.get_name()}: {name}" + (f", of {code.co_filename}:{code.co_firstlineno}" if code else "")
    module = frame.f_globals.get("__name__", "")
    return f"{task.get_name()}: {module}.{name}, at {frame.f_code.co_filename}:{frame.f_lineno}"
