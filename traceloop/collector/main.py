"""The first code of the collector's processes: arguments, detachment, descriptors, search path.

Only then the rest is imported: the application's modules on PYTHONPATH may have the names of standard modules.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_FLAGS = ("detach", "detached", "port-required")


def main(arguments: list[str] | None = None) -> None:
    """The process's first code: ``--run-dir DIR [--root-pid PID] [--ready-fd FD] [--detach]``. Does not return.

    ``--listen-fd FD --detached`` is how start_before_exec.py starts it: already apart, with the metrics port bound.
    """
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    if "detach" in options:
        if os.fork():
            os._exit(0)
        os.setsid()
    ready = int(options.get("ready-fd", "-1"))
    listen_descriptor = int(options.get("listen-fd", "-1"))
    _close_all_but(ready, listen_descriptor)
    _search_pythonpath_last()
    from .supervisor import Supervisor

    supervisor = Supervisor(
        options["run-dir"], int(options.get("root-pid", "0")), port_required="port-required" in options
    )
    status = 1
    try:
        status = supervisor.start(ready, listen_descriptor) or supervisor.run()
    finally:
        # No exit handlers, and no wait for threads: everything has been written.
        try:
            sys.stderr.flush()
        except Exception:
            pass
        os._exit(status)


def _parse(arguments: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.removeprefix("--").partition("=")
        if name not in ("run-dir", "root-pid", "ready-fd", "listen-fd", *_FLAGS) or not argument.startswith("--"):
            _refuse(f"the collector does not know {argument!r}")
        options[name] = value if equals or name in _FLAGS else next(rest, "")
    if not options.get("run-dir"):
        _refuse("the collector needs --run-dir DIR")
    return options


def _refuse(line: str) -> NoReturn:
    from traceloop import notices

    notices.say(line)
    sys.exit(2)


def _close_all_but(*kept: int) -> None:
    try:
        descriptors = [int(name) for name in os.listdir("/proc/self/fd")]
    except (OSError, ValueError):
        descriptors = list(range(3, 256))
    for descriptor in descriptors:
        if descriptor > 2 and descriptor not in kept:
            try:
                os.close(descriptor)
            except OSError:
                pass  # the one that listed them


def _search_pythonpath_last() -> None:
    # The application's modules may bear names of the standard library.
    own = [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if own:
        sys.path[:] = [entry for entry in sys.path if entry not in own] + own
