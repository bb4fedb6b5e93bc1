"""Lines for the user of a traced program: single lines on stderr that begin with `traceloop: `.

- A program may have closed its stderr, or have given descriptor 2 to something else; a byte of ours in a socket or a
  database file would be far worse than a lost notice. So a line is written only where descriptor 2 is what it was when
  the process started (a daemon that redirects it hears nothing).
- A process of the run whose stderr is not the root's has a parent that reads it, and that may take any line for a
  failure. Its lines go to the collector, which writes them to the root's stderr.
- stderr may be full, or a pipe without a reader: nothing here blocks for long, raises, or lets SIGPIPE end the program.
- stderr may be the terminal on which the program draws its screen (curses, textual, prompt_toolkit). A line of ours
  would garble it, so lines wait until the program gives the terminal back, or ends.
- The program may have written half a line. Where stderr is a file, ours then begins on a line of its own. A terminal or
  a pipe shows nobody what was written last, and a line break for nothing would be no better.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from collections import deque

from .record import files
from .record.proc import own_pid, stat_of
from .record.secrets import without_secrets
from .record.text import MAX_TEXT, printable
from .settings import NO_DIRECTORY, RUN_DIR, STDERR


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


# A None here means that the process was started without a stderr.
_at_start = _identity(2) if sys.__stderr__ is not None else None

#: Texts that wait for the terminal; more of them are counted only.
_MAX_HELD = 100
# Threads append while another takes from its other end: no lock, which a signal handler might find taken.
_held: deque[str] = deque()
_held_pid = 0
_held_too_many = 0
# Whether nothing waits any more: the process ends.
_ending = False
_program = 0

MAX_STALLS_A_MINUTE = 12
#: The same callback and culprit are reported again after so many s, with how often it happened meanwhile.
REPEAT_SECONDS = 30.0
_MAX_KINDS = 200


class StallLimit:
    """Which stalls of a process are reported: the first of each kind (callback and culprit), then one every
    ``REPEAT_SECONDS`` with how many there were meanwhile; at most ``MAX_STALLS_A_MINUTE`` in all. For one thread.
    """

    def __init__(self) -> None:
        self._reported: deque[float] = deque(maxlen=MAX_STALLS_A_MINUTE)
        self._left_out = 0
        # By kind: when one was reported last, and how many were left out since.
        self._kinds: dict[tuple[str, str], list[float]] = {}

    def take(self, callback: str, culprit: str, now: float) -> str | None:
        """None: leave this stall out. Else the end of its line: how many were left out, "" for none. ``now``: s."""
        kind = self._kinds.get((callback, culprit))
        if kind is not None and now - kind[0] < REPEAT_SECONDS:
            kind[1] += 1
            return None
        if len(self._reported) == MAX_STALLS_A_MINUTE and now - self._reported[0] < 60:
            self._left_out += 1
            return None
        self._reported.append(now)
        more = ""
        if kind is not None and kind[1]:
            more = f", {kind[1] + 1:.0f} times in the last {now - kind[0]:.0f} s"
        if len(self._kinds) >= _MAX_KINDS:
            self._kinds.clear()
        self._kinds[callback, culprit] = [now, 0]
        if self._left_out:
            more += f" ({self._left_out} more stalls were not logged)"
        self._left_out = 0
        return more


def say(line: str) -> None:
    """Writes `traceloop: LINE`, without control characters; from any thread, and at exit too. Never raises."""
    try:
        lines = [printable(without_secrets(part), MAX_TEXT) for part in line.rstrip("\n").split("\n")]
        if _is_somebody_elses():
            _hand_over(lines)
        else:
            write_text("".join(f"traceloop: {part}\n" for part in lines))
    except Exception:
        pass


def say_report(text: str) -> None:
    """Writes a report, which begins with `traceloop: ` and has escaped its names, as it stands. Never raises."""
    if _is_somebody_elses():
        say(text.removeprefix("traceloop: "))
    else:
        write_text(text)


def own_stderr() -> str:
    """Names what descriptor 2 of this process is, for the variable `STDERR` of the processes that it starts."""
    identity = _identity(2)
    return f"{identity[0]}:{identity[1]}" if identity is not None else ""


def _is_somebody_elses() -> bool:
    """Whether this process belongs to a run and has another stderr than the run's root."""
    given = os.environ.get(STDERR, "")
    return bool(given) and os.environ.get(RUN_DIR, NO_DIRECTORY) != NO_DIRECTORY and given != own_stderr()


def _hand_over(lines: list[str]) -> None:
    try:
        pipe = os.open(
            os.path.join(os.environ[RUN_DIR], files.WAKE), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
        )
    except OSError:
        return  # there is no collector
    try:
        for line in lines:
            # No more than a pipe takes in one piece: other processes write to it too.
            os.write(pipe, line.encode("utf-8", "backslashreplace")[: select.PIPE_BUF - 1] + b"\n")
    finally:
        os.close(pipe)


def speak_for(program: int) -> None:
    """This process, of a session of its own, writes to the terminal of this other one (its pid)."""
    global _program
    _program = program


def write_text(text: str) -> None:
    """Writes text of ours to stderr as it stands; later, where the program draws a screen there."""
    if not _ending and _has_a_screen():
        _hold(text)
        return
    release()
    _write(text)


def release(*, ending: bool = False) -> None:
    """Writes what was held back, if the terminal is free. ``ending``: in any case, and nothing is held from now on."""
    global _ending
    _ending = _ending or ending
    if not _held or not (_ending or not _has_a_screen()):
        return
    texts, more = _take_held()
    if texts:
        _write("traceloop: held back while the program had the terminal for itself:\n" + "".join(texts))
    if more:
        _write(f"traceloop: and {more:,} more lines, which were not kept\n")


def hand_over_held() -> None:
    """Before an exec, which ends what is held here: the collector has it from now on. Never raises."""
    try:
        texts, more = _take_held()
        lines = [line.removeprefix("traceloop: ") for text in texts for line in text.splitlines()]
        _hand_over([*lines, f"and {more:,} more lines, which were not kept"] if more else lines)
    except Exception:
        pass


def _take_held() -> tuple[list[str], int]:
    """What was held back, and how many lines more; nothing of a parent's, which says it itself."""
    global _held_too_many
    texts: list[str] = []
    while _held:
        try:
            texts.append(_held.popleft())
        except IndexError:  # another thread has taken the last one
            break
    more, _held_too_many = _held_too_many, 0
    return (texts, more) if _held_pid == own_pid() else ([], 0)


def _hold(text: str) -> None:
    global _held_pid, _held_too_many
    if _held_pid != own_pid():
        _held_pid, _held_too_many = own_pid(), 0
        _held.clear()
    if len(_held) < _MAX_HELD:
        _held.append(text)
    else:
        _held_too_many += text.count("\n")


def _has_a_screen() -> bool:
    """Whether stderr is a terminal that a program has taken for itself: what is typed there is not echoed, and comes
    key by key (cbreak, raw) or with line ends as they are (curses before cbreak). A prompt for a password has neither.

    A program in the background has no screen: the terminal is then as the shell that edits its prompt wants it.
    """
    try:
        descriptor = _usable_descriptor()
        if descriptor is None or not os.isatty(descriptor):
            return False
        import termios

        _, output, _, local, *_ = termios.tcgetattr(descriptor)
        by_lines = local & termios.ICANON and output & termios.OPOST and output & termios.ONLCR
        return not local & termios.ECHO and not by_lines and not _is_in_background(descriptor)
    except Exception:  # no terminals here, or the interpreter is going down
        return False


def _is_in_background(descriptor: int) -> bool:
    try:
        return os.tcgetpgrp(descriptor) != os.getpgrp()
    except OSError:  # not the terminal of this process's session: the collector has a session of its own
        program = stat_of(_program) if _program else None
        return program is not None and program.in_background


def _write(text: str) -> None:
    try:
        descriptor = _usable_descriptor()
        if descriptor is None:
            return
        data = text.encode("utf-8", "backslashreplace")
        stream = sys.__stderr__
        if stream is not None and stream is sys.stderr:
            stream.flush()
        if _is_within_a_line(descriptor):
            data = b"\n" + data
        while data:
            if not _writable(descriptor):
                return
            # No more than what a pipe that is ready to be written takes without blocking.
            data = data[os.write(descriptor, data[: select.PIPE_BUF]) :]
    except Exception:
        pass  # there is nowhere to write to


def _is_within_a_line(descriptor: int) -> bool:
    """Whether the last line of stderr is unfinished; False where that cannot be known."""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return False
        with open(f"/proc/self/fdinfo/{descriptor}", "rb", buffering=0) as info:
            if b"lock:" in info.read(4096):
                return False  # the program's: it would be released where the file is opened and closed here
        import fcntl

        appends = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
        end = status.st_size if appends else os.lseek(descriptor, 0, os.SEEK_CUR)
        # It is open for writing only.
        reader = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return end > 0 and os.pread(reader, 1, end - 1) not in (b"", b"\n")
        finally:
            os.close(reader)
    except Exception:  # an audit hook of the program's may raise anything
        return False


def usable() -> bool:
    """Whether descriptor 2 still is what it was when this process started."""
    return _usable_descriptor() is not None


def is_pipe() -> bool:
    """Whether stderr is a pipe or a socket, whose reader may wait for its end."""
    try:
        mode = os.fstat(2).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _usable_descriptor() -> int | None:
    return 2 if _at_start is not None and _identity(2) == _at_start else None


def _writable(descriptor: int, timeout_ms: int = 1000) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    # Nothing is written to a pipe without a reader: where the program has chosen so, SIGPIPE would end it.
    return any(not events & (select.POLLERR | select.POLLNVAL) for _, events in poll.poll(timeout_ms))


def say_once(run_dir: str | None, topic: str, line: str) -> None:
    """Says it once for the whole run: several workers would each have said the same."""
    if run_dir is not None:
        marker = os.path.join(run_dir, files.SAID_PREFIX + topic)
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return
        except OSError:
            # No inode is left for a marker, or the folder is not ours to write: better said twice than never.
            if _was_marked(run_dir):
                return
    elif topic in _printed_topics:
        return
    _printed_topics.add(topic)
    say(line)


def _was_marked(run_dir: str) -> bool:
    """Whether a process of the run has been here before: the folder's sticky bit, which means nothing else, says so."""
    try:
        mode = stat.S_IMODE(os.stat(run_dir).st_mode)
        if mode & stat.S_ISVTX:
            return True
        os.chmod(run_dir, mode | stat.S_ISVTX)
    except OSError:
        pass
    return False


_printed_topics: set[str] = set()
