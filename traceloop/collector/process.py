"""The collector's process, from its answer to whoever started it to its exit status."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket

from traceloop.record import files
from traceloop.record.proc import process_start_ticks
from traceloop.settings import Settings

from . import expired_records
from .collector import Collector
from .errors import CollectorError
from .files import keep_traceback, say, write_file
from .listening import listen, url_of


def run_process(run_dir: str, root_pid: int, ready: int, *, port_required: bool, listen_descriptor: int = -1) -> int:
    """The collector process, from its first line to its exit status.

    ``ready``: the descriptor of start()'s pipe. ``listen_descriptor``: of a socket that listens already.
    """
    answers: list[str] = []
    settings = Settings.from_environ(os.environ, on_error=lambda line: answers.append(f"notice {line}")).replace(
        run_dir=run_dir, metrics_port_required=port_required
    )
    listener: socket.socket | None = None
    url: str | None = None
    try:
        if settings.metrics:
            if listen_descriptor >= 0:
                listener = socket.socket(fileno=listen_descriptor)
            else:
                bound, notice = listen(settings.metrics_host, settings.metrics_port, required=port_required)
                listener = socket.socket(fileno=bound.detach())
                if notice:
                    answers.append(f"notice {notice}")
            url = url_of(listener, settings.metrics_host)
            answers.append(f"url {url}")
        collector = Collector(settings, root_pid)
    except (CollectorError, OSError) as error:
        _answer(ready, [f"error {error}"])
        return 2
    signal.signal(signal.SIGTERM, lambda *_: collector.stop())
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    _answer(ready, [f"pid {os.getpid()}", *answers, "ready"])
    try:
        _run_until_finished(collector, listener, url)
    except BaseException as error:
        say(f"the collector failed: {error!r}; its traceback is in {keep_traceback(run_dir)}, the record stays there")
        return 1
    return 0


def _run_until_finished(collector: Collector, listener: socket.socket | None, url: str | None) -> None:
    run_dir = collector.run_dir
    description = {"pid": os.getpid(), "start_ticks": process_start_ticks(), "url": url}
    write_file(os.path.join(run_dir, files.COLLECTOR), json.dumps(description))
    expired_records.hold(run_dir)  # until this process ends
    collector.open(listener)
    expired_records.expire(run_dir)
    # Records are tuples by the hundred thousand, and none is part of a cycle: looking for some would cost more than
    # reading them.
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)
    collector.run()


def _answer(ready: int, lines: list[str]) -> None:
    if ready < 0:
        return
    try:
        os.write(ready, "".join(line.replace("\n", " ") + "\n" for line in lines).encode("utf-8", "backslashreplace"))
        os.close(ready)
    except OSError:
        pass  # whoever started us is gone
