"""Starts the collector from a process that is about to exec: `traceloop run`, whose user waits for it.

`collector.start` waits until the new process has bound the metrics port, which takes as long as an interpreter takes
to start. Here the caller binds the port and hands it on, so that nothing is waited for. It takes two forks: the
process that stays is no child of the program's, whose `os.wait()` must not meet it. Forking is safe in a process that
has one thread and runs no code of anybody else's; a program takes `collector.start`.
"""

from __future__ import annotations

import os
import sys

from .errors import CollectorError
from .listening import listen, url_of
from .start import _NOT_KEPT, CollectorHandle, _environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from traceloop.settings import Settings


def start_before_exec(settings: Settings) -> CollectorHandle:
    """Starts the collector of the run in `settings.run_dir`, for this process and what it becomes.

    Raises `CollectorError` where the port that was asked for is taken, or no process can be started.
    """
    notices: list[str] = []
    url: str | None = None
    descriptor = -1
    if settings.metrics:
        try:
            listener, notice = listen(
                settings.metrics_host,
                settings.metrics_port,
                required=settings.metrics_port_required,
                page=settings.page,
            )
        except OSError as error:
            raise CollectorError(f"cannot listen on {settings.metrics_host}: {error.strerror or error}") from None
        if notice:
            notices.append(notice)
        url = url_of(listener, settings.metrics_host)
        descriptor = listener.detach()
    read_end, write_end = os.pipe()
    root_pid = os.getpid()
    try:
        child = os.fork()
    except OSError as error:
        raise CollectorError(f"the collector could not be started: {error}") from None
    if child == 0:
        try:
            os.setsid()
            collector = os.fork()
            if collector:
                os.write(write_end, str(collector).encode("ascii"))
            else:
                _become_collector(settings, root_pid, descriptor)
        finally:
            os._exit(1)
    os.close(write_end)
    answer = os.read(read_end, 32)
    os.close(read_end)
    os.waitpid(child, 0)
    if descriptor >= 0:
        os.close(descriptor)
    if not answer.isdigit():
        raise CollectorError("the collector could not be started")
    return CollectorHandle(int(answer), url, notices)


def _become_collector(settings: Settings, root_pid: int, listen_descriptor: int) -> None:
    assert settings.run_dir is not None
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in _NOT_KEPT:
        os.dup2(null, descriptor)
    arguments = ["--run-dir", settings.run_dir, "--root-pid", str(root_pid), "--detached"]
    if listen_descriptor >= 0:
        os.set_inheritable(listen_descriptor, True)
        arguments += ["--listen-fd", str(listen_descriptor)]
    code = "from traceloop.collector.main import main; main()"
    os.execve(sys.executable, [sys.executable, "-P", "-c", code, *arguments], _environment(settings, os.environ))
