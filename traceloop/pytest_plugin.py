"""`pytest --traceloop`: the slowest callbacks of a test run, and a failure where one exceeds `--traceloop-slow`.

Every loop that the tests make through asyncio is a traced one, from before the first test module is imported. The
record is read in-process, after each test; no port is opened and no process or thread is started.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

import pytest

from .parsing import SettingsError, parse_seconds

_SHOWN = 10


class SlowRun(NamedTuple):
    """The longest run of one callback: seconds, `module.qualname`, and the test in which it ran."""

    seconds: float
    callback: str
    test: str


def _seconds(text: str) -> float:
    try:
        return parse_seconds(text)
    except SettingsError as error:
        raise pytest.UsageError(f"--traceloop-slow: {error}") from None


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("traceloop", "what the event loops of the tests do")
    group.addoption("--traceloop", action="store_true", help="Trace the tests' loops; show their slowest callbacks.")
    group.addoption(
        "--traceloop-slow",
        metavar="SECONDS",
        help="Fail a test in which a callback ran for longer than this. Implies --traceloop.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Puts the traced loop under asyncio, before any test module is imported."""
    text = config.getoption("--traceloop-slow")
    if text is None and not config.getoption("--traceloop"):
        return
    limit = _seconds(text) if text is not None else None
    from . import api

    api.install()
    config.pluginmanager.register(Watch(limit), "traceloop-watch")


class Watch:
    """Reads the record around each test. `limit`: seconds that no callback may exceed; None: no such limit."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.longest: dict[str, SlowRun] = {}
        self.callbacks = 0
        self.dropped = 0
        self._follower: Any = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """The test itself: what its fixtures ran is counted, but fails nothing."""
        self._read(item.nodeid)
        result = yield
        worst = self._read(item.nodeid)
        if self.limit is not None and worst is not None and worst.seconds > self.limit:
            pytest.fail(
                f"{worst.callback} ran for {worst.seconds:.3f} s without giving the loop back"
                f" (--traceloop-slow {self.limit:g})",
                pytrace=False,
            )
        return result

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table at the end."""
        self._read("teardown")
        terminalreporter.section("slowest callbacks (traceloop)")
        if not self.callbacks:
            terminalreporter.write_line("no traced event loop ran")
            return
        for run in sorted(self.longest.values(), reverse=True)[:_SHOWN]:
            terminalreporter.write_line(f"{run.seconds * 1e3:10.2f} ms  {run.callback}  {run.test}")
        lost = f", {self.dropped} more were overwritten before they were read" if self.dropped else ""
        terminalreporter.write_line(f"of {self.callbacks} callbacks{lost}")

    def _read(self, test: str) -> SlowRun | None:
        """Takes in what was recorded since the last time; returns the longest run among it."""
        from .record.layout import SITES

        follower = self._follow()
        worst: SlowRun | None = None
        if follower is None:
            return worst
        sites = follower.statistics.sites
        for stretch in follower.read():
            self.dropped += stretch.decoded.dropped
            if stretch.loop is None:
                continue
            self.callbacks += len(stretch.decoded.runs)
            for _, start, end, ident, *_ in stretch.decoded.runs:
                seconds = end - start
                # Most runs are short: those that cannot be in any table need no name.
                if worst is not None and seconds < worst.seconds and seconds < 1e-4:
                    continue
                run = SlowRun(seconds, sites.label(int(ident) % SITES), test)
                if worst is None or run.seconds > worst.seconds:
                    worst = run
                known = self.longest.get(run.callback)
                if known is None or run.seconds > known.seconds:
                    self.longest[run.callback] = run
        return worst

    def _follow(self) -> Any:
        if self._follower is None:
            from .reading.follower import PrivateFollower
            from .reading.statistics.run import Statistics
            from .recording.process import current_process

            process = current_process()
            if process is not None:
                self._follower = PrivateFollower(Statistics(), process)
        return self._follower
