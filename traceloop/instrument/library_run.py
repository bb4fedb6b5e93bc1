"""A run that a program begins itself: `traceloop.start()`.

The same run directory and the same collector as under `traceloop run`, and the same variables, by which processes
that the program starts from then on belong to the run too.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from .. import notices
from ..settings import COLLECTOR_PID, METRICS_URL, PREFIX, ROOT_PID, RUN_DIR, Settings, choose, chosen
from . import inprocess_collector as thread_collector
from . import process_end as ending
from . import rebinding, run_directory


class Run:
    """A run of this process. `metrics_url`: where its metrics are, None where none are served."""

    def __init__(self, settings: Settings, collector: Any) -> None:
        self.settings = settings
        self._collector = collector

    @property
    def metrics_url(self) -> str | None:
        """The address of the metrics."""
        if self._collector is not None:
            url: str | None = self._collector.url
            return url
        return os.environ.get(METRICS_URL)

    def stop(self) -> None:
        """Ends the collector. It ends by itself with the process; from any thread."""
        if self._collector is not None:
            self._collector.stop()


_current: Run | None = None


def start_run(choices: dict[str, Any]) -> Run:
    """See `traceloop.start`."""
    global _current
    if _current is not None:
        return _current
    settings = chosen(notices.say)
    provider = choices.pop("tracer_provider", None)
    if provider is not None and choices.setdefault("collector", "thread") != "thread":
        raise ValueError("a tracer provider is reached from its own process only: expected collector='thread'")
    if os.environ.get(RUN_DIR):
        if provider is not None:
            notices.say("this is a run already, whose collector exports the spans: the tracer provider gets none")
        _current = Run(settings, None)
        return _current
    if "metrics_port" in choices:
        choices = {"metrics_port_required": True, **choices}
    settings = settings.with_choices(choices)
    # By name: what runs inside the application does not depend on the exporters, it starts them.
    collectors = importlib.import_module("traceloop.collector.start")
    if settings.collector == "process":
        settings = run_directory.make(settings, notices.say)
    if settings.run_dir is not None:
        run_directory.describe(settings, settings.run_dir, getattr(sys, "orig_argv", sys.argv), notices.say)
    collector = None
    choose(settings)  # the collector's thread begins the recording
    try:
        if settings.collector == "process":
            collector = collectors.start(settings)
        elif settings.collector == "thread":
            collector = collectors.start_thread(settings, provider)
    except collectors.CollectorError as error:
        choose(None)
        run_directory.remove(settings.run_dir)
        raise OSError(str(error)) from None
    if settings.run_dir is not None:
        os.environ.update(settings.to_environ())
        os.environ[ROOT_PID] = str(os.getpid())
        if collector is not None:
            os.environ[COLLECTOR_PID] = str(collector.pid)
        if not settings.children:
            # Read by this process alone; a copy of the environment for children is the program's to make.
            os.register_at_fork(after_in_child=_leave)
    if settings.collector == "thread":
        thread_collector.adopt(collector)
        ending.finish_thread = thread_collector.finish
    if settings.collector != "none":
        ending.prepare(settings, is_root=True)
        rebinding.watch_running_loops()
        # Which of its loops are traced is this program's own choice: nothing is said of the others.
        ending.arm(rebinding.running_loop_watchers, {}, rebinding.restore)
    for notice in collector.notices if collector is not None else ():
        notices.say(notice)
    _current = Run(settings, collector)
    return _current


def _leave() -> None:
    choose(Settings())
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
