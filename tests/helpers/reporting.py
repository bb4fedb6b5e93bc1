"""What a long test run says while it goes on, and how many tests it had to run again."""

from __future__ import annotations

import math
import threading
import time

import pytest

#: Seconds of silence after which the tests under way are named.
SILENCE = 5.0
#: So many tests may be run again in a whole session; more, and the session fails.
MOST_RERUNS = 4
# Of why a test was run again: the end of its failure, which names the line and what was wrong.
_LINES_OF_A_RERUN = 15


class Progress:
    """Names the tests that are under way where no test has ended for a while. For xdist's controlling process.

    Only there: it needs a thread, and tests fork.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._running: dict[str, float] = {}
        # At once: a busy machine may have taken long to come here, and takes longer until the first worker is there.
        self._last = -math.inf
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def pytest_sessionfinish(self) -> None:
        self._over.set()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._running[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._running.pop(nodeid, None)
        self._last = time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            reporter = self._config.pluginmanager.get_plugin("terminalreporter")
            now = time.monotonic()
            if now - self._last < SILENCE or reporter is None:
                continue
            self._last = now
            names = ", ".join(
                f"{nodeid.rpartition('::')[2]} ({now - since:.0f} s)" for nodeid, since in list(self._running.items())
            )
            reporter.ensure_newline()
            reporter.write_line(f"  still running: {names or 'starting'}")


class Reruns:
    """Names tests that are run again, at once and with the failure at the end, and fails the session where they are
    too many.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.outcome == "rerun" and reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(f"  run again: {report.nodeid}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        again = terminalreporter.stats.get("rerun", [])
        if again or terminalreporter.config.getoption("reruns", None):
            terminalreporter.write_line(f"{len(again)} run again for want of time; {MOST_RERUNS} may be")
            for report in again:
                terminalreporter.write_line(f"  run again: {report.nodeid}")
                for line in report.longreprtext.splitlines()[-_LINES_OF_A_RERUN:]:
                    terminalreporter.write_line(f"    {line}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and len(reporter.stats.get("rerun", [])) > MOST_RERUNS:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
