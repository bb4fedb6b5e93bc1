"""A run that a program begins itself: `traceloop.start()`.

The same run directory and the same collector as under `traceloop run`, and the same variables, by which processes
that the program starts from then on belong to the run too. `Run.stop` takes all of it back.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

from .. import notices
from ..collector.errors import CollectorError
from ..collector.listening import addresses
from ..settings import COLLECTOR_PID, METRICS_URL, PREFIX, ROOT_PID, RUN_DIR, STDERR, Settings, choose, chosen
from . import inprocess_collector, process_end, rebinding, run_directory


class Run:
    """A run of this process, from `traceloop.start()` to `stop()`; a context manager that stops it.

    settings: what was chosen, with the environment's values for the rest. Every method may be called from any thread.
    """

    def __init__(
        self, settings: Settings, collector: Any = None, before: Mapping[str, str | None] | None = None
    ) -> None:
        """`before`: what the variables that the run has set were before; None where other code has begun the run."""
        self.settings = settings
        self._before = before
        self._pid = os.getpid()
        self._url: str | None = collector.url if collector is not None else None
        if before is None:
            self._url = os.environ.get(METRICS_URL)

    @property
    def active(self) -> bool:
        """Whether the run is under way, in this process: a child of a fork does not own its parent's run."""
        return _current is self and self._pid == os.getpid()

    @property
    def metrics_url(self) -> str | None:
        """The address of the metrics; None where none are served, and after `stop()`."""
        return self._url if self.active else None

    def stop(self) -> None:
        """Ends the run: its last records are read, its spans sent, its summary (or the report) goes to stderr.

        Waits for that, `exit_timeout` seconds at most. A loop that still runs records into memory that is no
        longer read; one in another thread may lose its last 20 ms. Does nothing the second time, in the child of a
        fork, and under `traceloop run`, whose run ends with the program. A run that is never stopped
        ends with the process.
        """
        global _current
        with _lock:
            if not self.active:
                return
            _current = None
            if self._before is None:
                return
            for name, value in self._before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            choose(None)
            process_end.leave_run(self.settings)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"metrics at {self.metrics_url}" if self.metrics_url else "active"
        return f"<traceloop run, {state if self.active else 'stopped'}>"


_current: Run | None = None
_lock = threading.RLock()


def start_run(choices: dict[str, Any]) -> Run:
    """See `traceloop.start`."""
    with _lock:
        return _start(choices)


def _start(choices: dict[str, Any]) -> Run:
    global _current
    provider = choices.pop("tracer_provider", None)
    settings = _chosen(choices, provider)
    if _current is not None and _current.active:
        _refuse_other_choices(_current, choices, provider)
        return _current
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        _current = Run(settings)
        return _current
    if os.environ.get(RUN_DIR):
        if provider is not None:
            notices.say("this is a run already, whose collector exports the spans: the tracer provider gets none")
        _current = Run(chosen(notices.say))
        return _current
    if settings.record is not None:
        settings = settings.replace(record=run_directory.make_record_directory(settings.record))
    missed = _leave_what_was_recorded(settings)
    settings = run_directory.make(settings, notices.say)
    if settings.run_dir is not None:
        run_directory.describe(settings, settings.run_dir, getattr(sys, "orig_argv", sys.argv), notices.say)
    collector: Any = None
    choose(settings)  # the collector's thread begins the recording
    try:
        if settings.collector == "process":
            from ..collector.start import start

            collector = start(settings)
        elif settings.collector == "thread":
            from ..collector.collector_thread import start_thread

            collector = start_thread(settings, provider)
    except BaseException as error:
        choose(None)
        run_directory.remove(settings.run_dir)
        if isinstance(error, CollectorError):
            raise OSError(str(error)) from None
        raise
    variables = _variables(settings, collector)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    process_end.prepare(settings, is_root=True, is_library_run=True)
    if settings.collector == "thread":
        inprocess_collector.adopt(collector)
        process_end.finish_thread = inprocess_collector.finish
    rebinding.watch_running_loops()
    # Which of its loops are traced is this program's own choice: nothing is said of the others.
    process_end.arm(rebinding.running_loop_watchers, {}, rebinding.restore)
    for notice in collector.notices if collector is not None else ():
        notices.say(notice)
    if collector is not None and collector.url:
        notices.say(addresses(collector.url, settings.page))
    if missed:
        loops = "1 loop that was" if missed == 1 else f"{missed} loops that were"
        notices.say(f"{loops} made before traceloop.start() will not be in the run: start it first")
    _current = Run(settings, collector, before)
    return _current


def _chosen(choices: dict[str, Any], provider: object) -> Settings:
    """The settings that the choices make of the environment's; raises ValueError for one that cannot be used."""
    if provider is not None and choices.setdefault("collector", "thread") != "thread":
        raise ValueError("a tracer provider is reached from its own process only: expected collector='thread'")
    for name in _NOT_CHOSEN & choices.keys():
        raise ValueError(f"{name}: no such setting")
    settings = Settings.from_environ(os.environ).with_choices(choices)
    if "metrics_port" in choices:
        settings = settings.replace(metrics_port_required=True)
    if "spans" in choices:
        settings = settings.replace(spans_chosen=True)
    if settings.report and settings.collector == "none":
        raise ValueError("report: with collector='none' there is no process that reads the record")
    return settings


#: Fields of the settings that are found out and not chosen.
_NOT_CHOSEN = frozenset(("run_dir", "metrics_port_required", "spans_chosen"))
#: Fields that the start itself may have changed.
_SETTLED = frozenset(("ring_size", "record"))


def _refuse_other_choices(run: Run, choices: dict[str, Any], provider: object) -> None:
    """A second `start()` gets the run that is under way; raises RuntimeError where it wants another one."""
    if run._before is None:
        return  # the command, or the environment, has decided
    wanted, present = run.settings.with_choices(choices), run.settings
    # A folder's size decides on the ring's, and a relative path was made absolute.
    other = [name for name in choices if name not in _SETTLED and getattr(wanted, name) != getattr(present, name)]
    if provider is not None:
        other.append("tracer_provider")
    if other:
        names = ", ".join(other)
        raise RuntimeError(f"a run with other choices is under way ({names}): stop() it first")


def _leave_what_was_recorded(settings: Settings) -> int:
    """Loops made so far record into private memory. Returns how many of them live, and will be missing from the run."""
    # Imported here: a program that only stops a run, or is refused, needs no loop.
    from ..recording import at_exit, process

    known = process.existing_process()
    if known is None or settings.collector == "thread":
        return 0  # a thread reads private memory too
    alive = sum(not loop.is_closed() for loop in list(known.loops))
    at_exit.leave()
    return alive


def _variables(settings: Settings, collector: Any) -> dict[str, str]:
    """The variables that make the processes that this one starts part of the run."""
    if settings.run_dir is None:
        return {}
    out = {**settings.to_environ(), ROOT_PID: str(os.getpid()), STDERR: notices.own_stderr()}
    if collector is not None:
        out[COLLECTOR_PID] = str(collector.pid)
        if collector.url:
            out[METRICS_URL] = collector.url
    return out


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held it
    # The variables are read by this process alone; a copy of the environment for children is the program's to make.
    if _current is not None and _current._before is not None and not _current.settings.children:
        choose(Settings())
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            del os.environ[name]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
