"""From rings to statistics: of a run that is under way, that has ended, or that crashed; or of this process's loops."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .statistics.run import Statistics


def read_run(path: str | os.PathLike[str], statistics: Statistics | None = None) -> Statistics:
    """The statistics of a whole record: a run directory, live, ended or crashed.

    Raises FileNotFoundError where ``path`` is no directory that holds one.
    """
    from .follower import RunFollower
    from .new_statistics import new_statistics

    follower = RunFollower(path, statistics if statistics is not None else new_statistics())
    if not follower.directory.processes():
        raise FileNotFoundError(f"{os.fspath(path)}: no record of a run there")
    with follower.statistics.lock:
        for _ in follower.chunks(last=True):
            pass
    return follower.statistics


def read_loop(loop: Any, statistics: Statistics | None = None) -> Statistics:
    """The statistics of the process of ``loop``, read from its rings within this process.

    Records that the loop has not flushed yet (20 ms of work at most) are not in it. A loop that records into a run
    directory is read as well, beside its collector.
    """
    from .follower import PrivateFollower
    from .new_statistics import new_statistics

    recorder = getattr(loop, "_recorder", None)
    if recorder is None:
        raise ValueError("this loop does not record")
    statistics = statistics if statistics is not None else new_statistics()
    with statistics.lock:
        follower = PrivateFollower(statistics, recorder.process)
        while follower.read():
            pass
    return statistics
