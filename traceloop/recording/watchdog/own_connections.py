"""Whether a blocked loop waits for a server that it serves itself: a connection from this process to its own socket.

The selector says which sockets of the loop are ready before the loop polls. Where one of them listens, or is the
server's end of a connection whose other end this process has too, ``/proc/net/tcp`` says so
(https://docs.kernel.org/networking/proc_net_tcp.html).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ...record.frames import Frame
from .thread_clocks import Sample

_TABLES: Final = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
_MAX_TABLE: Final = 1 << 20
_MAX_DESCRIPTORS: Final = 4096
_MAX_SOCKETS: Final = 100
# Bound here: tests that replace it mean the application's calls.
_open = open
_ESTABLISHED: Final = "01"
_NETWORK: Final = frozenset(("socket", "ssl", "http", "urllib3", "httpcore"))
# Functions of these modules that call no server: one serves itself, and what makes a TLS context reads certificates.
_NO_CALLS: Final = (
    "socket.accept",
    "SSLContext.",
    "create_default_context",
    "_create_unverified_context",
    "create_urllib3_context",
)


def waits_for_own_server(loop: Any) -> bool:
    """Whether this process is the client at the other end of a socket that ``loop`` has to read. Clients that a loop of
    the process polls do not count: they block nothing. False if that is not known (no Linux, no epoll, no TCP).
    """
    ports = _ready_ports(loop)
    if not ports:
        return False
    inodes = _inodes_without_polled()
    # The client's end is a socket of this process, connected to the port of a ready socket.
    return any(remote in ports and inode in inodes for _, remote, inode in _connections())


def is_network_call(frames: Sequence[Frame], samples: Sequence[Sample]) -> bool:
    """Whether a thread waits in a network call. ``frames``: its innermost ones, the innermost last. ``samples``: of its
    clocks, the latest last. A thread that computes in there, such as one that loads certificates, does not wait.
    """
    modules = [frame[2].partition(".")[0] for frame in frames]
    if not any(each in _NETWORK for each in modules) or frames[-1][3].startswith(_NO_CALLS):
        return False
    if len(samples) < 2 or min(samples[-2][1], samples[-1][1]) < 0.0:
        return True
    (since, cpu_before, _, waited_before, _), (now, cpu, _, waited, _) = samples[-2], samples[-1]
    # Time in which it waited for a processor says nothing about what the thread does.
    asleep = now - since - max(0.0, waited - waited_before) - (cpu - cpu_before)
    return asleep >= (now - since) / 2


def _ready_ports(loop: Any) -> set[int]:
    """The local ports of this loop's TCP sockets that are ready to be read."""
    selector = getattr(loop, "_selector", None)
    epoll = getattr(selector, "_selector", None)
    if epoll is None or type(epoll).__name__ != "epoll":
        return set()
    ports: set[int] = set()
    try:
        keys = getattr(selector, "_fd_to_key", {})
        for fd, _ in epoll.poll(0, _MAX_SOCKETS):
            if fd in keys and fd != getattr(loop._ssock, "fileno", int)():
                ports |= _port_of(fd)
    except Exception:
        return set()  # the selector was closed, or is not as the standard library makes it
    return ports


def _port_of(fd: int) -> set[int]:
    """The local port of a TCP socket. Its descriptor remains the loop's."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as copy:
        if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.type == socket.SOCK_STREAM:
            return {int(copy.getsockname()[1])}
    return set()


def _inodes_without_polled() -> set[str]:
    """The inodes of those sockets of this process that none of its loops polls."""
    sockets: dict[int, str] = {}
    polled: set[int] = set()
    with contextlib.suppress(OSError):
        for fd in map(int, os.listdir("/proc/self/fd")[:_MAX_DESCRIPTORS]):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/self/fd/{fd}")
                if target.startswith("socket:["):
                    sockets[fd] = target[8:-1]
                elif target == "anon_inode:[eventpoll]":
                    polled |= _polled_by(fd)
    return {inode for fd, inode in sockets.items() if fd not in polled}


def _polled_by(epoll: int) -> set[int]:
    """The descriptors that an epoll object has: ``tfd:`` of its fdinfo (proc_pid_fdinfo(5))."""
    with _open(f"/proc/self/fdinfo/{epoll}", encoding="ascii", errors="replace") as file:
        lines = [line.split() for line in file.read(_MAX_TABLE).splitlines()]
    # Where the table is cut off, its last line may end within the number.
    return {int(fields[1]) for fields in lines if len(fields) > 2 and fields[0] == "tfd:" and fields[1].isdecimal()}


def _connections() -> Iterator[tuple[int, int, str]]:
    """Established TCP connections of this network namespace: local port, remote port, inode of the socket."""
    for table in _TABLES:
        try:
            with _open(table, encoding="ascii", errors="replace") as file:
                lines = file.read(_MAX_TABLE).splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if len(fields) > 9 and fields[3] == _ESTABLISHED:
                with contextlib.suppress(ValueError):
                    local, remote = (int(each.rpartition(":")[2], 16) for each in fields[1:3])
                    yield local, remote, fields[9]
