"""The collector: starts the process that reads a run's rings, serves its metrics and exports its spans.

What that process does is in main.py and collector.py. Here is only how it is started, so that the command that starts
it imports nothing heavy and waits for no more than the port to be bound. collector_thread.py does the same work in a
thread of the application.

How the process is made:

* ``posix_spawn``, so that a program with threads can start it, then one fork as its first statement: the process that
  stays is no child of the application, whose ``os.wait()`` must not meet it.
* It begins a session of its own: Ctrl-C and a closed terminal end the application, and the collector reads what the
  application still has to say.
* No descriptor of the application's stays open in it but stderr, on which a crash is reported: a process that reads the
  application's output must see its end. A stderr that is a pipe is let go with the application's own end.
* Answers come back on a private pipe, as lines ``key value``.
"""

from __future__ import annotations

import os
import select
import sys
import time

from .errors import CollectorError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from traceloop.settings import Settings

READY_TIMEOUT_SECONDS = 20.0
_PYTHON_VARIABLES_KEPT = frozenset(
    ("PYTHONHOME", "PYTHONPATH", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE",
     "PYTHONUTF8")
)  # fmt: skip
#: Standard descriptors that the collector must not hold: a process that reads the program's output waits for their end.
_NOT_KEPT = (0, 1)


class CollectorHandle:
    """A collector process that has been started.

    ``pid``: its supervisor's process, no child of ours. ``url``: of its metrics, None where none are served.
    ``notices``: lines for the user.
    """

    def __init__(self, pid: int, url: str | None, notices: list[str]) -> None:
        self.pid = pid
        self.url = url
        self.notices = notices

    def stop(self) -> None:
        """Asks it to read what there is and to end. It ends by itself when the run is over."""
        from .orders import STOP_SIGNAL

        try:
            os.kill(self.pid, STOP_SIGNAL)
        except ProcessLookupError:
            pass


def start(settings: Settings, environ: Mapping[str, str] | None = None) -> CollectorHandle:
    """Starts the collector of the run in ``settings.run_dir`` for this process and those it will start.

    Returns once the metrics port is bound. Raises ``CollectorError`` where the port that was asked for is taken, or no
    process could be started. From any thread.
    """
    if settings.run_dir is None:
        raise CollectorError("a collector process needs a run directory")
    read_end, write_end = os.pipe()
    try:
        try:
            child = _spawn(settings, os.environ if environ is None else environ, write_end)
        except OSError as error:
            raise CollectorError(f"the collector could not be started: {error}") from None
        finally:
            os.close(write_end)
        answer = _read_answer(read_end)
    finally:
        os.close(read_end)
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        pass  # the program itself waits for all children
    return _handle_of(answer)


def _spawn(settings: Settings, environ: Mapping[str, str], write_end: int) -> int:
    ready = 3 if write_end != 3 else 4
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_RDWR, 0) for descriptor in _NOT_KEPT
    ]
    actions.append((os.POSIX_SPAWN_DUP2, write_end, ready))
    assert settings.run_dir is not None
    arguments = ["--run-dir", settings.run_dir, "--root-pid", str(os.getpid()), "--ready-fd", str(ready), "--detach"]
    if settings.metrics_port_required:
        arguments.append("--port-required")
    code = "from traceloop.collector.main import main; main()"
    command = [sys.executable, "-P", "-c", code, *arguments]
    return os.posix_spawn(sys.executable, command, _environment(settings, environ), file_actions=actions, setsigmask=())


def _environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    from traceloop.settings import RUN_DIR

    out = {
        name: value
        for name, value in environ.items()
        if not name.startswith("PYTHON") or name in _PYTHON_VARIABLES_KEPT
    }
    out.update(settings.to_environ())
    # Without it the startup hook sleeps: the collector does not trace itself.
    out.pop(RUN_DIR, None)
    root = os.path.dirname(os.path.dirname(os.path.abspath(sys.modules["traceloop"].__file__ or "")))
    path = out.get("PYTHONPATH", "")
    if root not in sys.path or os.path.isfile(os.path.join(root, "pyproject.toml")):
        out["PYTHONPATH"] = f"{path}{os.pathsep}{root}" if path else root
    return out


def _read_answer(read_end: int) -> list[tuple[str, str]]:
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    poll = select.poll()
    poll.register(read_end, select.POLLIN)
    data = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise CollectorError(f"the collector did not answer within {READY_TIMEOUT_SECONDS:g} s")
        part = os.read(read_end, 65536)
        if not part:
            break
        data += part
    lines = (line.partition(" ") for line in data.decode("utf-8", "replace").splitlines())
    return [(key, value) for key, _, value in lines]


def _handle_of(answer: list[tuple[str, str]]) -> CollectorHandle:
    pid, url, notices, ready = 0, None, [], False
    for key, value in answer:
        if key == "error":
            raise CollectorError(value)
        if key == "pid":
            pid = int(value)
        elif key == "url":
            url = value
        elif key == "notice":
            notices.append(value)
        elif key == "ready":
            ready = True
    if not ready:
        raise CollectorError("the collector ended before it was ready")
    return CollectorHandle(pid, url, notices)
