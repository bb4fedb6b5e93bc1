"""Runs a program as `traceloop run` does, as a child of this process, which reads its record itself."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from traceloop import notices
from traceloop.instrument import run_directory
from traceloop.record import files
from traceloop.settings import ROOT_PID, STDERR

from . import programs, run

if TYPE_CHECKING:
    from traceloop.reading.follower import RunFollower
    from traceloop.settings import Settings

_TURN_SECONDS = 0.05


class RecordedProgram:
    """A program that runs, or has run. follower: reads its record. status: its exit status, as a shell has it; -1 while
    it runs.
    """

    def __init__(self, settings: Settings, words: Sequence[str]) -> None:
        """Starts it. Raises ``programs.Refused`` for what cannot be run."""
        from traceloop.reading.follower import RunFollower
        from traceloop.reading.new_statistics import make_statistics

        program = programs.resolve(words, os.environ, [])
        if not program.missing:
            run.check_hook(program)
        settings = run_directory.make(settings.replace(collector="none"), run.say)
        if settings.run_dir is None:
            raise programs.Refused("no folder for the record can be made")
        self.folder = settings.run_dir
        self.follower: RunFollower = RunFollower(self.folder, make_statistics(settings))
        self.status = -1
        run_directory.describe(settings, self.folder, program.argv, run.say)
        with open(os.path.join(self.folder, files.READ_BY_PARENT), "x"):
            pass
        environ = {**run.clean(os.environ), **settings.to_environ(), STDERR: notices.own_stderr()}
        # This process has one thread, and the child becomes the program at once.
        self.pid = os.fork()
        if not self.pid:
            try:
                os._exit(run.execute(program, {**environ, ROOT_PID: str(os.getpid())}))
            finally:
                os._exit(127)

    def wait(self) -> None:
        """Reads the record until the program has ended, and then to its end.

        Ctrl-C is left to the program; SIGTERM is passed on to it.
        """
        with self._signals():
            while self.status < 0:
                time.sleep(_TURN_SECONDS)
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                # Asked before the read, so that a read after the program's end gets everything.
                self.follower.poll()
                if pid:
                    code = os.waitstatus_to_exitcode(status)
                    self.status = code if code >= 0 else 128 - code
        self.follower.poll()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        passed_on = signal.signal(signal.SIGTERM, lambda number, frame: os.kill(self.pid, number))
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            signal.signal(signal.SIGTERM, passed_on)

    def remove(self) -> None:
        """Removes the record."""
        shutil.rmtree(self.folder, ignore_errors=True)
