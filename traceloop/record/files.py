"""The files of a run: their names, made and parsed here only, and how a reader opens them.

    RUN_DIR/                      one run
        run.json                  what was started, and with which settings (instrument/run_directory.py)
        p-PID-START[-N]/          one process: its pid, its start in clock ticks since boot, its Nth program (exec)
            process.json          what the process says of itself
            sites                 the site log: a line of JSON for each code site
            loop-N.ring           the record of a loop (layout.py); a closed loop's ring is used again
            process.ring          the record of the process's other threads
            dump, dump.json       stacks on demand by faulthandler, and how to ask for them
            crash                 stacks by faulthandler at a fatal signal
            exec                  written before an exec: how many records there were
            ended                 an orderly exit
            snapshot              in a copy that was made while the process ran
            usage                 by the collector: the most memory that the process had, bytes
            look, looking         a command asks for a look at all tasks at once; it is under way
        collector.json            the collector: pid, start, address
        counters                  by the collector: its counters, for one that is started in its place
        wake                      a pipe that wakes the collector
        held                      locked while the collector lives
        recorded                  a process was read to its end
        said-TOPIC                a notice was printed
        summary.txt, report.txt   what is printed at the end
        collector-traceback.txt   why the collector failed
        crashed                   the record was kept because a process crashed
        read-by-parent            the process that began the run reads the record itself, and removes it
        left                      the process that began the run lives on, and has left it
        over                      the process that began the run is about to end
        unheard                   it is settled who prints the summary: see ``settle_who_prints``
        stays                     the record could not be copied to the folder of `--record`, and a line said so

Readers open these files with ``open_file``. A record may come from another user, and one of its names may be a link
to a device or a pipe without a writer.
"""

from __future__ import annotations

import errno
import os
import stat

from . import signal_handlers

# ``typing`` is not imported when the program runs: this is read at its start, before anything of its own.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Final

# -- of a run

RUN: Final = "run.json"
COLLECTOR: Final = "collector.json"
COUNTERS: Final = "counters"
WAKE: Final = "wake"
LOCK: Final = "held"
SUMMARY: Final = "summary.txt"
REPORT: Final = "report.txt"
COLLECTOR_TRACEBACK: Final = "collector-traceback.txt"
CRASHED: Final = "crashed"
LEFT: Final = "left"
OVER: Final = "over"
UNHEARD: Final = "unheard"
#: Its content where the program's process has ended before the last records were read.
LATE: Final = "late"
#: The process that started the program reads the record while it runs, and prints the result.
READ_BY_PARENT: Final = "read-by-parent"
#: The record could not be copied to the folder of `--record`; a line has said that it stays.
STAYS: Final = "stays"
RECORDED: Final = "recorded"
SAID_PREFIX: Final = "said-"

# -- of a process

PROCESS: Final = "process.json"
SITES: Final = "sites"
PROCESS_RING: Final = "process.ring"
DUMP: Final = "dump"
DUMP_ADVERT: Final = "dump.json"
CRASH: Final = "crash"
EXEC: Final = "exec"
ENDED: Final = "ended"
USAGE: Final = "usage"
SNAPSHOT: Final = "snapshot"
LOOK: Final = "look"
LOOKING: Final = "looking"

_LOOP_PREFIX: Final = "loop-"
_RING_SUFFIX: Final = ".ring"
# More digits than any pid, start or number of a ring has.
_MAX_DIGITS: Final = 20


class ProcessName:
    """What the name of a process's folder says: its pid, its start (clock ticks since boot, 0: unknown), and the number
    of its program: 1, and one more after each exec.
    """

    __slots__ = ("generation", "pid", "start_ticks")

    def __init__(self, pid: int, start_ticks: int, generation: int = 1) -> None:
        self.pid = pid
        self.start_ticks = start_ticks
        self.generation = generation

    def __str__(self) -> str:
        name = f"p-{self.pid}-{self.start_ticks}"
        return name if self.generation == 1 else f"{name}-{self.generation}"


def parse_process_name(name: str) -> ProcessName | None:
    """The process whose folder is called ``name``; None if it is no process's folder."""
    prefix, *numbers = name.split("-")
    if prefix != "p" or len(numbers) not in (2, 3) or not all(map(_is_number, numbers)):
        return None
    return ProcessName(*map(int, numbers))


def loop_ring(number: int) -> str:
    """The name of the ring with this number."""
    return f"{_LOOP_PREFIX}{number}{_RING_SUFFIX}"


def ring_number(name: str) -> int | None:
    """The number of the ring that is called ``name``: -1 for the process ring, None if it is no ring's name."""
    if name == PROCESS_RING:
        return -1
    number = name.removeprefix(_LOOP_PREFIX).removesuffix(_RING_SUFFIX)
    return int(number) if _is_number(number) and name == loop_ring(int(number)) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


# -- waking the reader


def wake_reader(run_dir: str) -> None:
    """Wakes the collector: there is something to read. From any thread; does nothing if there is no collector. Raises
    only what a signal's handler has raised.
    """
    try:
        pipe = os.open(os.path.join(run_dir, WAKE), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(pipe, b"\n")
        finally:
            os.close(pipe)
    except Exception as error:  # none is there; it is full, and will wake; an audit hook of the program's forbids it
        if signal_handlers.has_raised(error):
            raise


# -- the end


def settle_who_prints(run_dir: str, why: str = "") -> bool:
    """Whether the caller is the first to ask, and so has to print the summary: it is printed once.

    The program's process asks when it gives up waiting for the summary, the collector when it is about to write it.
    Returns True if nothing can be written: the run's folder is gone, or its disk is full. ``why`` becomes the file's
    content.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    try:
        descriptor = os.open(os.path.join(run_dir, UNHEARD), flags, 0o600)
    except FileExistsError:
        return False
    except OSError:
        return True
    try:
        os.write(descriptor, why.encode())
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return True


# -- opening


def open_descriptor(path: str | os.PathLike[str]) -> int:
    """Opens a file of a record to be read; its descriptor. Never waits.

    Raises OSError if it is not there, or is no regular file: a link, a pipe, a device.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(f"{os.fspath(path)}: a symbolic link, not a regular file") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{os.fspath(path)}: not a regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_file(path: str | os.PathLike[str]) -> IO[bytes]:
    """The same as an unbuffered file."""
    return os.fdopen(open_descriptor(path), "rb", buffering=0)


def read_file(path: str | os.PathLike[str], limit: int) -> bytes:
    """The first ``limit`` bytes of a file of a record. Raises OSError as ``open_file`` does."""
    parts: list[bytes] = []
    with open_file(path) as file:
        while limit > 0:
            part = file.read(min(limit, 1 << 20))
            if not part:
                break
            parts.append(part)
            limit -= len(part)
    return b"".join(parts)


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a regular file, and no link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False
