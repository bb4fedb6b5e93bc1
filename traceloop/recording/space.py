"""How much memory the rings of a run may take: the program's own needs come first.

A ring lies in shared memory, which is small in a container (64 MB in Docker) and counts against its memory limit. So
rings start small and ask here before they grow. Three things bound all rings of a run together:

* the file system of the run directory: at least half of what is free beside the rings stays the program's;
* the memory of the machine and of each control group that the process is in: an eighth of what is available;
* the address space, where it is limited (``RLIMIT_AS``): rings are mapped at their full size.

Each decision reads the kernel's files and the run directory anew. So there is no account that a killed process could
leave wrong, and no lock that a stopped process could hold. Two processes that ask at the same moment may both be
allowed the same bytes. That does no harm: steps are small, and rings stop growing at three eighths of the file system,
an eighth below the bound.
"""

from __future__ import annotations

import os

from . import failures

try:
    import resource
except ImportError:  # not built everywhere
    resource = None  # type: ignore[assignment]

# The share of the file system for rings that grow, and for the first bytes of a new one: a process that comes late
# still finds these.
_SHARE_GROWING = 3 / 8
_SHARE_FIRST = 1 / 2
_MEMORY_SHARE = 1 / 8
_ADDRESS_SHARE = 1 / 8
# Where the address space is limited, this much is left to the program, so that its small allocations do not fail
# because of ours. CPython itself does not survive such a failure everywhere (asyncio's tasks in C, 3.13).
_SPARE_ADDRESSES = 32 << 20
# What a thread may reserve: its stack, and an arena of the C library's.
_THREAD_ADDRESSES = 80 << 20
# A limit of this many bytes is none: control groups of version 1 write a number near 2**63.
_NO_LIMIT = 1 << 60

# Where control groups are mounted: version 2 alone, version 2 beside version 1, the memory controller of version 1.
_GROUPS = "/sys/fs/cgroup"


class Space:
    """What the rings of one run may take. ``run_dir``: None for rings in private memory. Safe to call in any thread."""

    def __init__(self, run_dir: str | None) -> None:
        self._run_dir = run_dir
        self._groups: list[_Group] | None = None

    def allows(self, size: int, more: int, own: int) -> bool:
        """Whether a ring may grow to ``size`` bytes by ``more``. ``own``: bytes that the rings of this process have.

        A ring may be half as large as what it leaves to the others. So later rings are smaller, and each gets some. For
        the first bytes of a ring (``size == more``) it is enough that they are free.
        """
        used = max(own, self._used())
        first = size == more
        total = min(self._in_file_system(used, _SHARE_FIRST if first else _SHARE_GROWING), self._in_memory(used))
        left = total - used - more
        return left >= 0 if first else size <= left / 2

    def mappable(self, wanted: int, mapped: int) -> int:
        """The size at which a ring can be mapped: ``wanted``, or less where the address space is limited.

        ``mapped``: bytes that the rings of this process have mapped.
        """
        limit = _address_limit()
        if limit is None:
            return wanted
        return min(wanted, max(0, int(limit * _ADDRESS_SHARE) - mapped) // 4)

    def has_addresses(self, *, for_thread: bool = False) -> bool:
        """Whether the address space has room for a small ring, or for a thread, besides what stays the program's."""
        limit = _address_limit()
        if limit is None:
            return True
        mapped = _read("/proc/self/statm").split()
        used = int(mapped[0]) * os.sysconf("SC_PAGE_SIZE") if mapped else 0
        return limit - used >= _SPARE_ADDRESSES + (_THREAD_ADDRESSES if for_thread else 0)

    def _used(self) -> int:
        """Bytes that the files of the run's processes take; 0 where they cannot be asked for."""
        if self._run_dir is None:
            return 0
        total = 0
        try:
            with os.scandir(self._run_dir) as folders:
                for folder in folders:
                    if folder.name.startswith("p-"):
                        total += _size_of(folder.path)
        except OSError as error:  # the user was changed, or the run is over
            failures.pass_on(error)
        return total

    def _in_file_system(self, used: int, share: float) -> float:
        if self._run_dir is None:
            return float("inf")
        try:
            status = os.statvfs(self._run_dir)
        except OSError as error:
            failures.pass_on(error)
            return float("inf")  # growing will fail where there is no room
        if not status.f_blocks:
            return float("inf")  # a tmpfs without a limit
        return share * (status.f_bavail * status.f_frsize + used)

    def _in_memory(self, used: int) -> float:
        if self._groups is None:
            self._groups = _groups()
        available = min((group.available() for group in self._groups), default=float("inf"))
        return _MEMORY_SHARE * (min(available, _machine_available()) + used)


def _address_limit() -> int | None:
    """Bytes of address space that the process may have; None where it is not limited."""
    if resource is None or not hasattr(resource, "RLIMIT_AS"):
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _size_of(folder: str) -> int:
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    except OSError as error:  # it was removed meanwhile
        failures.pass_on(error)
    return total


def _machine_available() -> float:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    return float("inf")


class _Group:
    """A control group that limits memory, by its folder and the names of its files."""

    def __init__(self, folder: str, limit: str, usage: str, prefix: str) -> None:
        self._folder = folder
        self._limit = limit
        self._usage = usage
        self._prefix = prefix

    def available(self) -> float:
        """Bytes that its processes may still take: pages of files on disk are given back first, and count as free."""
        limit = _number(os.path.join(self._folder, self._limit))
        if limit is None or limit >= _NO_LIMIT:
            return float("inf")
        usage = _number(os.path.join(self._folder, self._usage)) or 0
        reclaimable = 0
        wanted = (f"{self._prefix}inactive_file", f"{self._prefix}active_file")
        for line in _read(os.path.join(self._folder, "memory.stat")).splitlines():
            name, _, value = line.partition(" ")
            if name in wanted and value.isdigit():
                reclaimable += int(value)
        return max(0, limit - usage + reclaimable)


def _groups() -> list[_Group]:
    """The control groups with a memory limit file that this process is in, from its own up to the root's."""
    found: list[_Group] = []
    for line in _read("/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            places = [(root, "memory.max", "memory.current", "") for root in (_GROUPS, f"{_GROUPS}/unified")]
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
            places = [(f"{_GROUPS}/memory", *names)]
        else:
            continue
        for root, limit, usage, prefix in places:
            folder = path.rstrip("/")
            # Seen from inside a container the path may be that of the machine, and the mount the container's own.
            while True:
                if os.path.exists(f"{root}{folder}/{limit}"):
                    found.append(_Group(root + folder, limit, usage, prefix))
                if not folder:
                    break
                folder = folder.rpartition("/")[0]
    return found


def _number(path: str) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        failures.pass_on(error)
        return ""
    try:
        return os.read(descriptor, 65536).decode("ascii", "replace")
    except OSError as error:
        failures.pass_on(error)
        return ""
    finally:
        os.close(descriptor)
