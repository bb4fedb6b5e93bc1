"""How long the CPU limit of this process's container has held it: ``cpu.stat`` of its own control group.

cgroup v2: https://docs.kernel.org/admin-guide/cgroup-v2.html (nr_throttled, throttled_usec).
cgroup v1: https://docs.kernel.org/scheduler/sched-bwc.html (nr_throttled, throttled_time in ns).

The limit is the whole group's: everything else in the container uses it up, too. The kernel adds up the time of all
processors on which it held the group, so that the sum can be longer than the time that passed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from ...record.throttles import Held, throttled_during

_ROOT: Final = "/sys/fs/cgroup"
# The time between two looks (s), and between two records of what they found.
_LOOK_SECONDS: Final = 0.09
_WRITE_SECONDS: Final = 1.0
# If there is no limit, or it cannot be read, the group is looked for again after so long (s): limits change.
_SEARCH_SECONDS: Final = 30.0
_MAX_HELD: Final = 64
# Bound here: tests that replace it mean the application's calls.
_open = open


class Throttled(NamedTuple):
    """How often the group was held since it was made (periods), and for how long (s)."""

    periods: int
    seconds: float


class Throttling:
    """The throttling of one process. For the watchdog's thread, or the holder of its ``_looking``."""

    def __init__(self, report: Callable[[dict[str, Any], float], bool], root: str = _ROOT) -> None:
        """``report(event, now)`` writes an event, if there may be one more. root: where the groups are mounted."""
        self._report = report
        self._root = root
        self._path = ""
        self._searched = 0.0
        self._last: tuple[float, Throttled] | None = None
        self._unwritten: list[Held] = []
        self._written = 0.0
        self._recent: deque[Held] = deque(maxlen=_MAX_HELD)

    def poll(self, now: float) -> None:
        """Called once a turn: looks, if the group has a limit."""
        if not self._path:
            if now - self._searched < _SEARCH_SECONDS and self._searched:
                return
            self._searched = now
            self._path = limited_group(self._root)
            self.look(now)  # what comes next is compared with this; the next whole turn may be far (quiet_turns.py)
        elif self._last is None or now - self._last[0] >= _LOOK_SECONDS:
            self.look(now)

    def look(self, now: float) -> None:
        """Asks the kernel, if there is a limit. Takes 10 us."""
        if not self._path:
            return
        found = _read(self._path)
        if found is None:
            self._path, self._last = "", None
            return
        if self._last is not None:
            before, (periods, seconds) = self._last
            held = Held(before, now, found.periods - periods, found.seconds - seconds)
            if held.periods > 0 or held.seconds > 0.0:
                self._recent.append(held)
                self._unwritten.append(held)
        self._last = now, found
        if self._unwritten and now - self._written >= _WRITE_SECONDS:
            self.write(now)

    def known(self) -> tuple[str, int]:
        """The file to ask ("": none), and how often the group had been held when it was asked last."""
        return (self._path, self._last[1].periods) if self._path and self._last is not None else ("", 0)

    def unchanged(self, at: float) -> None:
        """The group has not been held by the moment ``at``, either: somebody else has looked (quiet_turns.py)."""
        if self._last is not None:
            self._last = at, self._last[1]

    def write(self, now: float) -> None:
        """Records what was found since the last time. What the budget does not allow now waits."""
        if self._unwritten:
            self._written = now
            del self._unwritten[:-_MAX_HELD]
            if self._report({"kind": "throttled", "held": self._unwritten}, now):
                self._unwritten = []

    def during(self, start: float, end: float) -> float:
        """For how long (s) the process was held between two moments, as far as the looks show."""
        return throttled_during(start, end, self._recent)


def limited_group(root: str = _ROOT, cgroup: str = "/proc/self/cgroup") -> str:
    """The path of the ``cpu.stat`` of this process's group; "" if there is none, or it has no limit."""
    try:
        with _open(cgroup, encoding="utf-8", errors="replace") as file:
            text = file.read(65536)
    except OSError:
        return ""
    return next((path for path in cpu_stat_paths(text, root) if _read(path) is not None), "")


def cpu_stat_paths(cgroup: str, root: str = _ROOT) -> Iterator[str]:
    """The paths at which the ``cpu.stat`` of a process may be, from the text of its /proc/PID/cgroup. In a container
    that text may have the host's path, while the mount shows the container's own group at its root.
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


def parse_cpu_stat(text: str) -> Throttled | None:
    """What a ``cpu.stat`` says; None if it says nothing about a limit."""
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


def _read(path: str) -> Throttled | None:
    try:
        # This gives the GIL away. It may take long: the kernel adds up a group's statistics under a lock of the whole
        # machine.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return parse_cpu_stat(os.read(descriptor, 4096).decode("ascii", "replace"))
        finally:
            os.close(descriptor)
    except OSError:
        return None
