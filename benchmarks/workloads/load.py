"""The client of the network workloads, a process of its own: ``load.py KIND PORT OPERATIONS``.

It connects, prints ``ready``, waits for a line on stdin, works, prints how many operations it did, and ends. One
thread on epoll without asyncio: it needs a fraction of what a server spends on the same requests.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys

_REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n"
_WRK_SECONDS = 1  # the least that it knows

#: Kind -> sizes of the messages on each of its connections.
ECHO_CONNECTIONS = {
    "echo_1k": [1024] * 50,
    "echo_64k": [64 * 1024] * 50,
    "mixed": [128] * 100 + [1024] * 60 + [16 * 1024] * 30 + [64 * 1024] * 10,
}


class Connection:
    """One connection with one message under way at a time."""

    def __init__(self, port: int, message: bytes, answer_size: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.message = message
        self.answer_size = answer_size
        self.unsent = memoryview(b"")
        self.missing = 0

    def start(self) -> None:
        self.missing = self.answer_size
        self.unsent = memoryview(self.message)
        self.write()

    def write(self) -> None:
        try:
            self.unsent = self.unsent[self.socket.send(self.unsent) :]
        except BlockingIOError:
            pass


def ping_pong(connections: list[Connection], operations: int) -> int:
    """Sends each connection's message again whenever its answer is complete; returns the number of answers."""
    epoll = select.epoll()
    by_fd = {connection.socket.fileno(): connection for connection in connections}
    for connection in connections:
        connection.socket.setblocking(False)
        epoll.register(connection.socket, select.EPOLLIN)
    begun = len(connections)
    done = 0
    writing = set()
    for connection in connections:
        connection.start()
    while done < begun:
        for connection in connections if not done else list(writing):
            fd = connection.socket.fileno()
            if connection.unsent and connection not in writing:
                epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
                writing.add(connection)
        for fd, event in epoll.poll():
            connection = by_fd[fd]
            if event & select.EPOLLOUT and connection.unsent:
                connection.write()
                if not connection.unsent:
                    epoll.modify(fd, select.EPOLLIN)
                    writing.discard(connection)
            if event & ~select.EPOLLOUT:
                data = connection.socket.recv(1 << 20)
                if not data:
                    sys.exit("the server closed a connection")
                connection.missing -= len(data)
                if connection.missing <= 0:
                    done += 1
                    if begun < operations:
                        begun += 1
                        connection.start()
                        if connection.unsent and connection not in writing:
                            epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
                            writing.add(connection)
    return done


def answer_size(port: int) -> int:
    """Bytes of the server's HTTP answer, headers included: all are of one size."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(_REQUEST)
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(1 << 16)
        head, _, _ = data.partition(b"\r\n\r\n")
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                return len(head) + 4 + int(line.partition(b":")[2])
    sys.exit("the server's answer has no length")


def wrk(command: str, port: int) -> int:
    text = subprocess.run(
        [command, "-t1", "-c50", f"-d{_WRK_SECONDS}s", f"http://127.0.0.1:{port}/"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for line in text.splitlines():
        if "requests in" in line:
            return int(line.split()[0])
    sys.exit(f"wrk said: {text}")


def main() -> None:
    kind, port, operations = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    connections = []
    if kind in ECHO_CONNECTIONS:
        connections = [Connection(port, b"x" * size, size) for size in ECHO_CONNECTIONS[kind]]
    elif kind == "http":
        size = answer_size(port)
        connections = [Connection(port, _REQUEST, size) for _ in range(50)]
    print("ready", flush=True)
    sys.stdin.readline()
    print(ping_pong(connections, operations) if connections else wrk(kind, port), flush=True)


if __name__ == "__main__":
    main()
