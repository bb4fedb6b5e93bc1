"""A root that is gone, recorded nothing and could not say why: it was killed, or went on as another interpreter.

An exec runs nothing of ours any more. A pex that has a virtual environment of its own, or a launcher that chooses an
interpreter, leads to one without traceloop's startup hook: the program runs as it should, untraced.
"""

from __future__ import annotations

import os

from traceloop.record import files
from traceloop.record.text import printable
from traceloop.version import what_to_install

from .traced_processes import Root, processes_of_run

_SAID_BY_ROOT = (files.OVER, files.LEFT, files.RECORDED)
_LONGEST = 4096


class Unrecorded:
    """``look`` while the root lives and has recorded nothing; ``line`` once, when it is gone."""

    def __init__(self, run_dir: str, root: Root) -> None:
        self._run_dir = run_dir
        self._root = root
        self._seen_as = ""
        self._reported = False

    def look(self) -> None:
        """Notes as what the root runs. Costs 20 us."""
        try:
            with open(f"/proc/{self._root.pid}/cmdline", "rb") as file:
                word = file.read(_LONGEST).partition(b"\0")[0]
        except OSError:
            return
        self._seen_as = printable(os.fsdecode(word), _LONGEST) or self._seen_as

    def line(self) -> str:
        """What is to be said, "" for nothing: the root has said it itself, or others of the run live."""
        if self._reported or self._root.pid == 0:
            return ""
        self._reported = True
        if any(os.path.exists(os.path.join(self._run_dir, name)) for name in _SAID_BY_ROOT):
            return ""
        if processes_of_run(self._run_dir, ()) or _is_full(self._run_dir):
            return ""
        seen = f" (last seen as {self._seen_as})" if self._seen_as else ""
        python = self._seen_as if "python" in os.path.basename(self._seen_as) else "PYTHON"
        return (
            f"nothing was recorded: the program{seen} was killed or left by os._exit, or went on by exec in an "
            f"interpreter without traceloop; `{python} -m pip install {what_to_install()}` puts it there"
        )


def _is_full(run_dir: str) -> bool:
    """Whether there is no inode left: the root could neither record there nor make a file that says so. File systems
    that have no fixed number of inodes (btrfs) count none at all.
    """
    try:
        found = os.statvfs(run_dir)
    except OSError:
        return True
    return found.f_files > 0 and found.f_favail == 0
