"""`traceloop run`: prepares the run, then becomes the program.

The user waits for everything up to the exec at every start, and imports take nearly all of that time. So this module
and those that it imports use only modules that the interpreter has loaded anyway. Rarely used modules are imported
where they are needed.
"""

from __future__ import annotations

import os
import sys

from traceloop import notices
from traceloop.instrument import run_directory
from traceloop.parsing import SettingsError
from traceloop.settings import (
    COLLECTOR_PID,
    CORE,
    DUMP_SIGNAL,
    METRICS_URL,
    PREFIX,
    ROOT_PID,
    RUN_DIR,
    STDERR,
    Settings,
    misspelt,
)
from traceloop.version import __version__, what_to_install

from . import options, programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

# `-c` has put the current folder first: it may hold a `traceloop` that is not this one. (-P is not known
# before 3.11, -I would leave out the user's own packages.)
_PROBE = """
import sys
if sys.path[:1] == [""]:
    del sys.path[0]
try:
    import traceloop.instrument.startup
except ImportError:
    sys.exit(3)
print("traceloop", traceloop.__version__, int(traceloop.instrument.startup.hook_ran))
"""


def say(line: str) -> None:
    """One line of ours on stderr, where that can be written."""
    notices.say(line)


def main(words: Sequence[str]) -> int:
    """Runs the program that the words (those after `run`) name; returns only where that is refused."""
    _fill_standard_descriptors()
    try:
        base = Settings.from_environ(os.environ)
        for line in misspelt(os.environ):
            say(line)
        settings, program_words = options.parse(words, base)
        if settings.report and settings.collector == "none":
            raise options.UsageError("--report: with --collector none the record is not read; use traceloop report")
        if not program_words:
            raise options.UsageError("what is to be run? For example: traceloop run app.py; see traceloop run --help")
        program = _resolve(program_words, settings)
        disabled = _sdk_disabled(os.environ)
        if disabled and (settings.report or settings.html or settings.record):
            say("OTEL_SDK_DISABLED is true: the program runs untraced, without a report or a record")
        if disabled or program.missing:
            return execute(program, os.environ)
        check_hook(program)
        return _run(settings, program)
    except (options.UsageError, programs.Refused, SettingsError) as error:
        say(str(error))
        return 2


def _resolve(words: Sequence[str], settings: Settings) -> programs.Program:
    try:
        return programs.resolve(words, os.environ, _own_options())
    except programs.Refused as error:
        if settings.profile and words[0].isdecimal():
            raise programs.Refused(f"{error}; if that is the rate: --profile={words[0]}") from None
        raise


def _fill_standard_descriptors() -> None:
    # The parent process may have closed them. What is opened here would get their numbers, and be taken for the
    # standard streams by the collector; what takes their place instead is gone again with the exec.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


def execute(program: programs.Program, environ: Mapping[str, str]) -> int:
    """Becomes the program."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            pass  # the other end is closed, or the disk is full: that is for the program to find out
    try:
        os.execve(program.executable, program.argv, dict(environ))
    except OSError as error:
        say(f"cannot run {program.executable}: {error.strerror}")
        return 2


def _sdk_disabled(environ: Mapping[str, str]) -> bool:
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _own_options() -> list[str]:
    """What stood between the interpreter and `-m traceloop`, for the program's interpreter."""
    words = sys.orig_argv[1:]
    given = programs.interpreter_options(words)
    return given if words[len(given) : len(given) + 1] == ["-m"] else []


# -- the startup hook of the interpreter that will run


def check_hook(program: programs.Program) -> None:
    if program.probe is None and _own_hook_is_installed():
        return
    import subprocess

    command = [program.executable, *(program.probe or ()), "-c", _PROBE]
    # Marks the process as one of a run, of which there is no directory: the hook runs, and does nothing else.
    environ = {**clean(os.environ), RUN_DIR: os.devnull}
    try:
        answer = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise programs.Refused(f"cannot run {program.executable}: {error}") from None
    words = answer.stdout.split()
    if answer.returncode == 3 or words[:1] != ["traceloop"]:
        if answer.returncode != 3 and answer.stderr.strip():
            raise programs.Refused(f"{program.executable}: {answer.stderr.strip().splitlines()[-1]}")
        raise programs.Refused(
            f"traceloop is not installed for {program.executable}, which would run this program: "
            f"{program.executable} -m pip install {what_to_install()}"
        )
    if words[1] != __version__:
        raise programs.Refused(
            f"{program.executable} has traceloop {words[1]}, this is {__version__}: "
            f"{program.executable} -m pip install {what_to_install()}"
        )
    if words[2] != "1" and program.probe:
        given = " ".join([program.executable, *program.probe])
        raise programs.Refused(f"{given} skips startup hooks, so nothing would be traced")
    if words[2] != "1":
        raise programs.Refused(
            f"{program.executable} finds traceloop but not its startup hook, so nothing would be traced: "
            f"{program.executable} -m pip install {what_to_install()}"
        )


def _own_hook_is_installed() -> bool:
    if sys.flags.no_site:
        return False
    return any(
        os.path.isfile(os.path.join(folder, "traceloop.pth"))
        for folder in sys.path
        if folder.endswith(("site-packages", "dist-packages"))
    )  # a hook elsewhere is found by asking the interpreter


# -- the run


def _run(settings: Settings, program: programs.Program) -> int:
    if settings.record is not None:
        settings = settings.replace(record=_make_record_directory(settings.record))
    settings = run_directory.make(settings, say)
    environ = {**clean(os.environ), **settings.to_environ(), ROOT_PID: str(os.getpid()), STDERR: notices.own_stderr()}
    if settings.run_dir is not None:
        run_directory.describe(settings, settings.run_dir, program.argv, say)
    if settings.collector == "process" and settings.run_dir is not None:
        collector = start_collector(settings)
        if collector is None:
            return 2
        for notice in collector.notices:
            say(notice)
        if collector.url and not any(collector.url in notice for notice in collector.notices):
            from traceloop.collector.listening import addresses

            say(addresses(collector.url, settings.page))
        environ[COLLECTOR_PID] = str(collector.pid)
        if collector.url:
            environ[METRICS_URL] = collector.url
    return execute(program, environ)


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Without the variables that `Settings.to_environ` writes, and those of a run around this one."""
    kept = (CORE, DUMP_SIGNAL)
    return {name: value for name, value in environ.items() if not name.startswith(PREFIX) or name in kept}


def start_collector(settings: Settings) -> Any:
    """Starts the collector's process; None, with a line said, where the run can't begin."""
    from traceloop.collector.errors import CollectorError
    from traceloop.collector.start_before_exec import start_before_exec

    try:
        return start_before_exec(settings)
    except CollectorError as error:  # the port that was asked for is taken, or no process starts
        say(str(error))
        run_directory.remove(settings.run_dir)
        return None


def _make_record_directory(path: str) -> str:
    path = os.path.abspath(path)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise options.UsageError(f"--record: cannot write to {path}: {error.strerror}") from None
    return path
