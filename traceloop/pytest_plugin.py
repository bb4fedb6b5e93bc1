"""`pytest --traceloop`: the slowest callbacks of a test run; with further options, failures for what blocks or leaks.

pytest loads this module in every project whose environment has traceloop: so it holds the options alone, and what they
ask for is in pytest_watch.py.
"""

from __future__ import annotations

import pytest

_MARKER = (
    "traceloop(slow=SECONDS, leaks=True|False, blocking=True|False): limits for this test under `pytest --traceloop`; "
    "slow=None: none"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("traceloop", "what the event loops of the tests do")
    group.addoption("--traceloop", action="store_true", help="Trace the tests' loops; show their slowest callbacks.")
    group.addoption(
        "--traceloop-slow",
        metavar="SECONDS",
        help="Fail a test in which a callback ran for longer than this (0.2, 50ms), not counting time for which it "
        "waited for a processor. Implies --traceloop. For one test: @pytest.mark.traceloop(slow=SECONDS).",
    )
    group.addoption(
        "--traceloop-leaks",
        action="store_true",
        help="Fail a test that leaves tasks behind which are not done. Implies --traceloop.",
    )
    group.addoption(
        "--traceloop-blocking",
        action="store_true",
        help="Fail a test whose code, on a loop's thread, opens files, connects, looks names up, imports, starts a "
        "process or sleeps, however quick that is. Implies --traceloop.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Puts the traced loop under asyncio, before any test module is imported."""
    config.addinivalue_line("markers", _MARKER)
    text = config.getoption("--traceloop-slow")
    leaks = bool(config.getoption("--traceloop-leaks"))
    blocking = bool(config.getoption("--traceloop-blocking"))
    if text is None and not (leaks or blocking or config.getoption("--traceloop")):
        return
    from . import api
    from .pytest_watch import Limits, Watch, seconds_of

    limit = seconds_of(text, "--traceloop-slow") if text is not None else None
    api.install()
    config.pluginmanager.register(Watch(config, Limits(limit, leaks, blocking)), "traceloop-watch")
