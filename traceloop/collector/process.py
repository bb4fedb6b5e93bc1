"""The collector's process, from its first import to its exit status."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import socket

from traceloop import notices
from traceloop.record import files
from traceloop.record.proc import process_start_ticks
from traceloop.settings import Settings

from ..exporters.span_pipeline_absent import may_export_spans
from . import expired_records
from .collector import Collector
from .files import keep_traceback, say, write_file
from .orders import STOP_SIGNAL

# Descriptors are needed for the rings and /proc files of many processes, and for the connections of scrapers.
_WANTED_DESCRIPTORS = 65536


def run_process(
    settings: Settings, root_pid: int, *, listen_descriptor: int, url: str | None, supervisor: int, ended_before: str
) -> int:
    """Follows the run in ``settings.run_dir`` to its end; returns the exit status, 1 where it failed.

    ``listen_descriptor``: of the socket that listens for scrapes at ``url``, -1 where there is none. ``supervisor``:
    the pipe to it. ``ended_before``: how the collector before this one ended, "" for the first.
    """
    assert settings.run_dir is not None
    try:
        notices.speak_for(root_pid)
        collector = Collector(settings, root_pid, supervisor)
        # A SIGTERM to a whole service reaches us too. The program goes on for a while, and its records must be read.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: collector.end_soon(root_too=number != signal.SIGHUP))
        signal.signal(STOP_SIGNAL, lambda *_: collector.stop())
        _raise_limit()
        if may_export_spans(settings, os.environ):
            _print_what_libraries_log()
        listener = socket.socket(fileno=os.dup(listen_descriptor)) if listen_descriptor >= 0 else None
        _run_until_finished(collector, listener, url, ended_before)
    except BaseException as error:
        traceback = keep_traceback(settings.run_dir)
        say(f"the collector failed: {error!r}; its traceback is in {traceback}, the record stays there")
        return 1
    return 0


def _run_until_finished(
    collector: Collector, listener: socket.socket | None, url: str | None, ended_before: str
) -> None:
    run_dir = collector.run_dir
    description = {"pid": os.getpid(), "start_ticks": process_start_ticks(), "url": url}
    write_file(os.path.join(run_dir, files.COLLECTOR), json.dumps(description))
    expired_records.hold(run_dir)  # until this process ends
    collector.open(listener, again=bool(ended_before))
    if ended_before:
        collector.lines.tell(f"the collector {ended_before} and was started again: it goes on from what the rings hold")
    expired_records.expire(run_dir)
    # Records are tuples by the hundred thousand, and none is part of a cycle. A search for cycles among them would cost
    # more than reading them.
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)
    collector.run()


def _print_what_libraries_log() -> None:
    """Makes the log lines of exporters, and what gRPC writes to stderr itself, begin as all our lines do."""
    import logging  # where no spans are sent, nothing needs it

    class OurLines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"{record.name}: {record.getMessage()}")

    logging.lastResort = OurLines(logging.WARNING)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def _raise_limit() -> None:
    """Allows as many descriptors as we may have: the application's limit may be low, and is not meant for us."""
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _WANTED_DESCRIPTORS)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        pass
