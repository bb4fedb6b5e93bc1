"""How a traced process ends: its last records are published, and the run's summary stands on stderr before it
is gone.

`prepare` runs before the program's first line, `arm` when asyncio was imported: only then is anything of the
interpreter replaced. Everything used here is imported beforehand, since an import during exit can fail, and
after an uncaught KeyboardInterrupt it would change the exit status.

Records lie in shared memory and outlive the process, so SIGKILL and a crash need nothing from us. What needs help
is what is still in a loop's own batch: at exit, at `os._exit` (which forked children of multiprocessing end by),
before an exec, and at SIGTERM and SIGHUP, whose default action runs no Python at all.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import atexit
import os
import sys
import time

from .. import notices
from ..record import files
from ..record.proc import own_pid
from ..settings import COLLECTOR_PID, Settings, choose
from . import run_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Libraries that run a loop of their own, which traceloop cannot trace.
_OTHER_LOOPS = ("curio", "gevent", "trio")

# Bound here: tests that replace it mean the application's.
_kill = os.kill

#: Signals whose default action ends a process without a line of Python.
_GUARDED = (_signal.SIGTERM, _signal.SIGHUP)

#: For how long a signal is held back that came in the middle of the recording's work, which takes milliseconds.
_POSTPONE_SECONDS = 1.0

_settings: Settings | None = None
_root_pid = 0
_collector_pid = 0
#: Ends the collector's thread, where there is one.
finish_thread: Callable[[Settings], None] | None = None
_armed = False
_prepared = False
#: Whether the run was begun by `traceloop.start`.
_is_library_run = False
_ended_pid = 0
#: `traceloop.recording.at_exit`, once a loop may have run.
_recording: Any = None
_untraced: dict[str, int] = {}
_postpone_until = 0.0
#: What the kernel calls for a signal whose handler is in Python.
_our_action = 0


def prepare(settings: Settings, is_root: bool, *, is_library_run: bool = False) -> None:
    """Takes note of who this process is; called before the program begins, and by each `traceloop.start`."""
    global _settings, _root_pid, _collector_pid, _is_library_run, _prepared
    _settings = settings
    _is_library_run = is_library_run
    if is_root:
        _root_pid = own_pid()
    text = os.environ.get(COLLECTOR_PID, "")
    _collector_pid = int(text) if text.isdigit() else 0
    if not _prepared:
        _prepared = True
        # Registered first, so called last: the program's own exit handlers may still run a loop.
        atexit.register(_end)


def arm(running_loop_watchers: list[Any], untraced: dict[str, int], restore: Callable[[], None]) -> None:
    """From now on a loop may run in this process; called after asyncio was imported, in its importer's
    thread."""
    global _armed, _prepared, _recording, _untraced
    if _armed:
        return
    _armed = True
    if not _prepared:
        _prepared = True
        atexit.register(_end)
    _untraced = untraced
    from ..recording import at_exit
    from ..recording.before import Before

    _recording = at_exit
    running_loop_watchers.append(_guard_signals)
    os._exit = Before(os._exit, _end)
    os.execv = Before(os.execv, at_exit.hand_over)
    os.execve = Before(os.execve, at_exit.hand_over)
    for name in ("setuid", "seteuid", "setreuid", "setresuid"):
        if hasattr(os, name):
            setattr(os, name, Before(getattr(os, name), at_exit.change_user))
    for name in ("unshare", "setns"):  # from 3.12 on; for some spaces the kernel wants a process of one thread
        if hasattr(os, name):
            setattr(os, name, Before(getattr(os, name), at_exit.alone))

    def after_fork() -> None:
        for number in _GUARDED:
            _unguard(number)
        _untraced.clear()
        if _settings is not None and not _settings.children:
            choose(Settings())  # its loops, if the program made them ours itself, keep no record
            restore()

    os.register_at_fork(after_in_child=after_fork)


def _flush_and_wait() -> None:
    """Ends the recording of this process; the root process waits until the collector has read it all."""
    notices.release(ending=True)
    if finish_thread is not None and _settings is not None:
        if _recording is not None:
            _recording.flush()
        finish_thread(_settings)
    elif _settings is not None and _settings.collector == "thread" and own_pid() == _root_pid:
        notices.say(_why_nothing_was_recorded())
    if _recording is not None:
        _recording.close()
    if _settings is not None and _settings.run_dir is not None:
        files.wake_reader(_settings.run_dir)
        if own_pid() == _root_pid:
            run_end.finish_run(_settings, _settings.run_dir, _collector_pid, _why_nothing_was_recorded)


def leave_run(settings: Settings) -> None:
    """The run that `traceloop.start` began is over, the process goes on; does what its end would do for the run.

    Waits until the collector has read what is left, `exit_timeout` at most. In the thread that stops the run.
    """
    global _settings, _root_pid, _collector_pid, finish_thread
    try:
        if finish_thread is not None:
            if _recording is not None:
                _recording.flush()
            finish_thread(settings)
        if _recording is not None:
            _recording.leave()
        if settings.run_dir is not None:
            files.wake_reader(settings.run_dir)
            run_end.finish_run(settings, settings.run_dir, _collector_pid, _why_nothing_was_recorded)
            run_end.tell_left(settings.run_dir)
    finally:
        _settings, finish_thread = None, None
        _root_pid = _collector_pid = 0


def _end() -> None:
    """The process is about to end, however; once."""
    global _ended_pid
    if _ended_pid == own_pid():
        return
    _ended_pid = own_pid()
    try:
        if _untraced:
            names = ", ".join(sorted(_untraced))
            run_dir = _settings.run_dir if _settings is not None else None
            notices.say_once(run_dir, "untraced", f"loops that ran untraced: {names}")
        _flush_and_wait()
    except Exception as error:
        if _recording is not None and _recording.is_handlers(error):
            _recording.close()  # the handler may have come before its end
            raise
        notices.say(f"the end of the record may be missing: {error!r}")
    except KeyboardInterrupt:
        pass  # who presses Ctrl-C again does not want to wait


def _why_nothing_was_recorded() -> str:
    others = sorted(library for library in _OTHER_LOOPS if library in sys.modules)
    if _is_library_run:
        return (
            "no traced event loop ran, so nothing was recorded: traceloop.start() records the loops of traceloop.run() "
            "and traceloop.new_event_loop(), and all that asyncio makes after traceloop.install()"
        )
    if _recording is not None and _recording.has_no_room():
        return "nothing was recorded that others can read: there was no room for the record"
    if _untraced:
        return "nothing was recorded: every event loop of the program ran untraced"
    if others and "asyncio" not in sys.modules:
        return f"nothing was recorded: traceloop traces asyncio, and the program has imported {', '.join(others)} only"
    if others:
        return f"no asyncio event loop ran, so nothing was recorded ({', '.join(others)} is not traced)"
    if "asyncio" not in sys.modules:
        return "nothing was recorded: the program never imported asyncio"
    return "nothing was recorded: the program imported asyncio and ran no event loop"


# -- SIGTERM, SIGHUP


def _guard_signals(loop: Any) -> None:
    """A loop begins to run in this thread, or (None) one has ended."""
    global _our_action
    if not _in_main_thread():
        return
    for number in _GUARDED:
        if loop is None:
            _unguard(number)
        # The kernel ignores a default action of process 1: there, they do nothing, and so it shall be. Python does not
        # know of a handler that C code has set (faulthandler.register, a Java machine), which stays.
        elif _signal.getsignal(number) == _signal.SIG_DFL and own_pid() != 1 and not _recording.signal_action(number):
            _signal.signal(number, _on_signal)
            _our_action = _recording.signal_action(number)


def _unguard(number: int) -> None:
    # C code may have set a handler of its own in place of ours.
    if _signal.getsignal(number) is _on_signal and _recording.signal_action(number) == _our_action:
        _signal.signal(number, _signal.SIG_DFL)


def _in_main_thread() -> bool:
    threading = sys.modules.get("threading")
    return threading is not None and threading.current_thread() is threading.main_thread()


def _on_signal(number: int, frame: Any) -> None:
    if _postponed(number, frame):
        return
    _signal.signal(number, _signal.SIG_DFL)
    try:
        _end()
    finally:  # another signal's handler may raise
        _kill(own_pid(), number)


def _postponed(number: int, frame: Any) -> bool:
    """Whether the signal will come again: now it interrupts the recording, whose locks this thread may hold, and whose
    lists may be half written.
    """
    global _postpone_until
    if _recording is None or not _recording.is_interrupted(frame):
        return False
    now = time.monotonic()
    if not _postpone_until:
        _postpone_until = now + _POSTPONE_SECONDS
    if now >= _postpone_until:
        return False
    try:
        _recording.start_without_signals(lambda: _recording.start_new_thread(_send_again, (number,)))
    except RuntimeError:  # no more threads, or the interpreter is going down
        return False
    return True


def _send_again(number: int) -> None:
    _recording.sleep(0.001)
    _kill(own_pid(), number)
