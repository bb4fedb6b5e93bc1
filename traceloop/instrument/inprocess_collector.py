"""`--collector thread`: the collector as a thread of the program, begun with the program's first loop.

The choice where no process may be started. What it takes is imported at once, before the first loop runs, since
afterwards it would be the loop that waits for it; and with the exit in mind, where nothing can be imported.
"""

from __future__ import annotations

import os
from typing import Any

from .. import notices
from ..settings import Settings

_collector: Any = None
_report: Any = None
_pid = 0


def start(settings: Settings) -> None:
    """Starts it once in this process; called when a loop is about to run, in the loop's thread. Never raises."""
    global _collector, _report, _pid
    if _pid == os.getpid():
        return
    _pid = os.getpid()
    try:
        from ..collector.collector_thread import start_thread
        from ..exporters.text import report

        _report = report
        _collector = start_thread(settings)
    except Exception as error:
        notices.say(f"no metrics and no spans: {error}")
        return
    for notice in _collector.notices:
        notices.say(notice)
    if _collector.url and settings.metrics_port == 0:
        from ..collector.listening import addresses

        notices.say(addresses(_collector.url, settings.page))


def adopt(collector: Any) -> None:
    """Has `finish` end this collector, which the program started itself."""
    global _collector, _report, _pid
    from ..exporters.text import report

    _report, _collector, _pid = report, collector, os.getpid()


def finish(settings: Settings) -> None:
    """Reads and sends the rest, and sums the process up."""
    global _collector
    if _collector is None or _pid != os.getpid():
        return
    collector, _collector = _collector, None
    collector.stop(settings.exit_timeout)
    if settings.html is not None:
        notices.say(collector.write_page(settings.html))
    if settings.report:
        notices.say_report(_report.report(collector.statistics))
    else:
        notices.say(_report.summary(collector.statistics))
