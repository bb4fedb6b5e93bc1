"""A program that draws a screen on the terminal of its stderr: our lines wait until it gives the terminal back."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.leftovers import remove_runs_of
from tests.helpers.traced import Traced

#: curses asks for the alternate screen at the start, and leaves it at the end.
CURSES = """
import asyncio, curses, time

async def hold():
    time.sleep(0.6)

def draw(screen):
    screen.addstr(0, 0, "drawn")
    screen.refresh()
    asyncio.run(hold())
    screen.addstr(1, 0, "drawn again")
    screen.refresh()

curses.wrapper(draw)
{after}
"""
HOLDS = """
import asyncio, time

async def hold():
    time.sleep(0.6)

asyncio.run(hold())
"""
GOES_ON = """
async def wait():
    print("terminal is back", flush=True)
    while True:
        await asyncio.sleep(0.05)

asyncio.run(wait())
"""
#: As getpass, and as a shell that has its own line editing.
TERMINAL = """
import asyncio, termios, time
old = termios.tcgetattr(2)
new = termios.tcgetattr(2)
new[3] &= ~({flags})
termios.tcsetattr(2, termios.TCSADRAIN, new)

async def hold():
    time.sleep(0.6)

asyncio.run(hold())
print("the terminal is set back", flush=True)
termios.tcsetattr(2, termios.TCSADRAIN, old)
"""
HELD = "traceloop: held back while the program had the terminal for itself:"
_PATIENCE = 120.0


class Terminal:
    """What was written to a terminal, read as it comes."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.text = ""

    def read_until(self, wanted: str | None) -> str:
        """Everything up to now, once ``wanted`` is in it; None: once nobody has the terminal open any more."""
        deadline = time.monotonic() + _PATIENCE
        while wanted is None or wanted not in self.text:
            ready, _, _ = select.select([self.descriptor], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, self.text
            try:
                data = os.read(self.descriptor, 65536)
            except OSError:  # EIO: the last one has closed it
                data = b""
            if not data:
                assert wanted is None, self.text
                break
            self.text += data.decode()
        return self.text


@contextmanager
def on_terminal(traced: Traced, folder: Path, program: str) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    (folder / "app.py").write_text(program)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*traced.command, "--no-metrics", "app.py"],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(ours), process
    finally:
        process.terminate()
        process.wait()
        os.close(ours)


def test_nothing_is_written_over_a_screen_and_all_of_it_afterwards(traced: Traced, tmp_path: Path) -> None:
    pytest.importorskip("curses")
    with on_terminal(traced, tmp_path, CURSES.format(after="")) as (terminal, process):
        text = terminal.read_until(None)
        assert process.wait() == 0, text
    _, drawn = text.split("\x1b[?1049h")
    screen, after = drawn.split("\x1b[?1049l")
    assert "drawn" in screen and "traceloop:" not in screen
    lines = after.replace("\r", "").splitlines()
    (held,) = [number for number, line in enumerate(lines) if line.endswith(HELD)]
    assert lines[held + 1].startswith("traceloop: stall: __main__.hold (") and "app.py:5" in lines[held + 1]
    assert lines[held + 2].startswith("traceloop: stall over: __main__.hold blocked the loop")
    assert text.count("traceloop: stall: ") == 1 and "1 slow" in lines[-1]


def test_a_program_that_goes_on_is_told_when_the_terminal_is_back(traced: Traced, tmp_path: Path) -> None:
    pytest.importorskip("curses")
    with on_terminal(traced, tmp_path, CURSES.format(after=GOES_ON)) as (terminal, process):
        text = terminal.read_until("stall over: ")
        assert process.poll() is None
        assert text.index("\x1b[?1049l") < text.index(HELD) < text.index("traceloop: stall: ")
        process.terminate()
        assert "1 slow" in terminal.read_until(None)
    # curses has a handler of its own for SIGTERM, in C: it sets the terminal back, and ends the process without a word.
    assert process.wait() == 1
    remove_runs_of(tmp_path, 1)


#: A terminal that is set back only by the program that takes this one's place.
EXECS = """
import os, sys
code = "import sys, termios; old = eval(sys.argv[1]); termios.tcsetattr(2, termios.TCSADRAIN, old); print('after exec')"
os.execv(sys.executable, [sys.executable, "-c", code, repr(old)])
"""


def test_what_was_held_back_is_said_after_an_exec(traced: Traced, tmp_path: Path) -> None:
    program = TERMINAL.format(flags="termios.ICANON | termios.ECHO")
    with on_terminal(traced, tmp_path, program.partition("print(")[0] + EXECS) as (terminal, process):
        text = terminal.read_until(None)
        assert process.wait() == 0, text
    assert text.index("after exec") < text.index("traceloop: stall: ")


@pytest.mark.parametrize(
    ("flags", "at_once"),
    [("termios.ECHO", True), ("termios.ICANON | termios.ECHO", False)],
    ids=["a password is asked for", "keys are read one by one"],
)
def test_only_a_terminal_that_a_program_has_for_itself_counts(
    flags: str, at_once: bool, traced: Traced, tmp_path: Path
) -> None:
    with on_terminal(traced, tmp_path, TERMINAL.format(flags=flags)) as (terminal, process):
        text = terminal.read_until(None)
        assert process.wait() == 0, text
    assert (text.index("traceloop: stall: ") < text.index("the terminal is set back")) is at_once
    assert (HELD in text) is not at_once


#: A shell: it has the terminal for its own line editing while the program runs in the background.
SHELL = """
import os, signal, subprocess, sys, termios
new = termios.tcgetattr(0)
new[3] &= ~(termios.ICANON | termios.ECHO)
termios.tcsetattr(0, termios.TCSADRAIN, new)
program = subprocess.Popen(sys.argv[1:], process_group=0)
signal.signal(signal.SIGTERM, lambda *_: program.terminate())
program.wait()
"""


#: The collector tells of this, which has a session of its own.
DEADLOCK = """
import asyncio

async def wait_for(name):
    await asyncio.sleep(0)
    await tasks[name]

async def main():
    tasks["a"] = asyncio.create_task(wait_for("b"))
    tasks["b"] = asyncio.create_task(wait_for("a"))
    await asyncio.sleep(600)

tasks = {}
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("program", "said"),
    [(HOLDS + GOES_ON, "stall over: "), (DEADLOCK, "traceloop: deadlock: ")],
    ids=["own", "collector"],
)
# Beside the thread of pytest-rerunfailures, 3.15 raises it. The child only executes another program.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_program_in_the_background_has_no_screen(program: str, said: str, traced: Traced, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(program)
    shell, descriptor = pty.fork()
    if not shell:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-c", SHELL, *traced.command, "--no-metrics", "app.py"])
    try:
        assert HELD not in Terminal(descriptor).read_until(said)
    finally:
        os.kill(shell, signal.SIGTERM)
        os.waitpid(shell, 0)
        os.close(descriptor)
