"""The folders of processes that have ended. They are removed, or kept for a while after a crash."""

from __future__ import annotations

import gc
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..reading.follower import RunFollower

# After this many ended processes their garbage is collected; each leaves 15 KB.
_COLLECTED_AFTER = 100


class EndedProcesses:
    """The ended processes of a run. Called under the statistics' lock.

    A service may have thousands of workers in its life, so nothing here grows with their number. names: of the
    processes that were read to their end and still have a folder.
    """

    def __init__(self, follower: RunFollower, run_dir: str, *, all_kept: bool) -> None:
        """``all_kept``: the whole record was asked for, and no folder is removed."""
        self.names: set[str] = set()
        self._follower = follower
        self._run_dir = run_dir
        self._all_kept = all_kept
        self._crashed: list[str] = []  # whose records are kept, the oldest first
        self._to_remove: dict[str, str] = {}  # paths by name
        self._freed = 0

    def let_go(self, name: str) -> None:
        """Frees what a process has left."""
        process = None if self._all_kept else self._follower.processes.pop(name, None)
        if process is None:
            return
        process.rings.clear()
        self._to_remove[name] = process.folder.path
        self.remove_leftovers()
        self._freed += 1
        if self._freed % _COLLECTED_AFTER == 0:
            gc.collect()  # what is left of them in cycles; by itself that comes rarely here (see process.py)

    def keep_crash(self, name: str) -> None:
        """Keeps the record of a crash while the run goes on, the newest always; but workers may crash for ever."""
        self._crashed.append(name)
        if self._all_kept:
            return
        from .expired_records import expire, share_of, size_of

        expire(self._run_dir)
        limit = share_of(self._run_dir)
        while len(self._crashed) > 1:
            folders = [self._follower.processes[name].folder.path for name in self._crashed]
            if sum(map(size_of, folders)) <= limit:
                return
            self.let_go(self._crashed.pop(0))

    def remove_leftovers(self) -> None:
        """Removes the folders that are due. One in which a file appears meanwhile is left for the next time."""
        if not self._to_remove:
            return
        from shutil import rmtree

        for name, path in list(self._to_remove.items()):
            rmtree(path, ignore_errors=True)
            self._follower.directory._folders.pop(name, None)
            if not os.path.exists(path):  # a folder that is still there would be found again
                del self._to_remove[name]
                for names in (self._follower.ended, self._follower.crashed, self.names):
                    names.discard(name)
