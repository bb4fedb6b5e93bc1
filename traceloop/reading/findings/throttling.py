"""How long a container's CPU limit has held a process: ``cpu.stat`` of its control group, read while it lives.

cgroup v2: https://docs.kernel.org/admin-guide/cgroup-v2.html (nr_throttled, throttled_usec).
cgroup v1: https://docs.kernel.org/scheduler/sched-bwc.html (nr_throttled, throttled_time in ns).

It is the limit of the whole group: what else runs in the container uses it up too. Nothing is known where there is no
limit, no Linux, or the process has gone.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from ..decoding.decoded import Decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..statistics.parts import Sample
    from ..statistics.process import ProcessStatistics
    from ..statistics.run import Statistics

_PAUSE_SECONDS: Final = 1.0
_ROOT: Final = "/sys/fs/cgroup"


class Throttled(NamedTuple):
    """Since the group was made: periods in which it was held, and for how long, s."""

    periods: int
    seconds: float


def parse_cpu_stat(text: str) -> Throttled | None:
    """What a ``cpu.stat`` says; None where it says nothing of a limit."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if number.isdecimal():
            values[name] = int(number)
    if "nr_throttled" not in values:
        return None
    if "throttled_usec" in values:
        return Throttled(values["nr_throttled"], values["throttled_usec"] / 1e6)
    return Throttled(values["nr_throttled"], values.get("throttled_time", 0) / 1e9)


def cpu_stat_paths(cgroup: str, root: str = _ROOT) -> Iterator[str]:
    """Where the ``cpu.stat`` of a process may be, given its /proc/PID/cgroup. In a container the path there may be the
    host's, while the mount shows the container's own group at the root.
    """
    for line in cgroup.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if ".." in path.split("/"):
            continue
        bases = [root] if not controllers else []
        if "cpu" in controllers.split(","):
            bases = [f"{root}/{controllers}", f"{root}/cpu"]
        for base in bases:
            yield os.path.join(base, path.lstrip("/"), "cpu.stat")
            yield os.path.join(base, "cpu.stat")


def throttled(pid: int) -> Throttled | None:
    """Of this process's group, now."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            cgroup = file.read(65536)
    except OSError:
        return None
    for path in cpu_stat_paths(cgroup):
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                found = parse_cpu_stat(file.read(65536))
        except OSError:
            continue
        if found is not None:
            return found
    return None


class Throttling:
    """A part of a process's statistics. periods, seconds: since it was first looked at, over all that had the slot."""

    def __init__(self, process: ProcessStatistics) -> None:
        self._process = process
        self._pid = 0
        self._looked = 0.0
        self._first: Throttled | None = None
        self._before = Throttled(0, 0.0)
        self._now = Throttled(0, 0.0)

    def feed(self, decoded: Decoded) -> None:
        """Looks, once a second at most."""
        self.look()

    def look(self) -> None:
        """Asks the kernel."""
        now = time.monotonic()
        process = self._process
        if (
            not process.attached
            or not process.pid
            or (process.pid == self._pid and now < self._looked + _PAUSE_SECONDS)
        ):
            return
        self._looked = now
        if process.pid != self._pid:
            self._pid = process.pid
            self._before = Throttled(self.periods, self.seconds)
            self._now = Throttled(0, 0.0)
            self._first = throttled(process.pid)
            return
        found = throttled(process.pid)
        if found is not None and self._first is not None:
            self._now = Throttled(
                max(0, found.periods - self._first.periods), max(0.0, found.seconds - self._first.seconds)
            )

    @property
    def periods(self) -> int:
        """Periods in which the limit held it."""
        return self._before.periods + self._now.periods

    @property
    def seconds(self) -> float:
        """Seconds for which it was held, over all its threads."""
        return self._before.seconds + self._now.seconds

    def metrics(self) -> Iterator[Sample]:
        """None: node and container exporters have these series."""
        return iter(())


def add_to(statistics: Statistics) -> None:
    """It becomes a part of these statistics; to be called before the first process is attached."""
    statistics.process_parts.append(Throttling)


def throttling_of(process: ProcessStatistics) -> Throttling | None:
    """The part of a process slot."""
    return next((part for part in process.parts if isinstance(part, Throttling)), None)
