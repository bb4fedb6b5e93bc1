"""Whether a loop waits for a server of its own: its own clients, which it looks after, block nobody."""

import asyncio
import concurrent.futures
import contextlib
import select
import socket
import sys
import threading

import pytest

from traceloop.loop.event_loop import EventLoop
from traceloop.recording.watchdog import own_connections
from traceloop.recording.watchdog.own_connections import is_network_call, waits_for_own_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc/net/tcp is Linux's")


def test_only_a_connection_that_the_loop_does_not_look_after_is_waited_for():
    async def main():
        ended = asyncio.Event()

        async def serve(reader, writer):
            await reader.read()
            writer.close()
            await writer.wait_closed()
            if not server.is_serving():
                ended.set()

        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        where = server.sockets[0].getsockname()
        _, writer = await asyncio.open_connection(*where)
        writer.write(b"x")  # the server's end is ready from now on, as the loop does not come to read it
        found = [waits_for_own_server(loop)]
        with socket.create_connection(where):
            found.append(waits_for_own_server(loop))
        server.close()
        writer.close()
        await writer.wait_closed()
        await ended.wait()
        return found

    loop = EventLoop()
    try:
        assert loop.run_until_complete(main()) == [False, True]
    finally:
        loop.close()


def test_a_client_that_another_loop_of_the_process_looks_after_blocks_nobody():
    """A test's client beside its server, each in a loop of its own: what computes in one of them does not wait."""

    async def answer(reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        writer.write(b"y")  # the client is ready from now on, as its loop does not come to read it
        answered.set()
        with contextlib.suppress(ConnectionError):  # closed with that byte unread
            await reader.read()
        writer.close()
        over.set()

    async def serve():
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        where.set_result(server.sockets[0].getsockname())
        await over.wait()
        server.close()

    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection(*await asyncio.wrap_future(where))
        await reader.readexactly(1)
        writer.write(b"x")
        answered.wait()
        found = waits_for_own_server(loop)
        writer.close()
        await writer.wait_closed()
        return found

    where, answered = concurrent.futures.Future(), threading.Event()
    loop, other, over = EventLoop(), EventLoop(), asyncio.Event()
    thread = threading.Thread(target=other.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert loop.run_until_complete(main()) is False
    finally:
        thread.join()
        loop.close()
        other.close()


CONNECTS = ("/lib/socket.py", 850, "socket", "create_connection")
READS = ("/lib/ssl.py", 1138, "ssl", "SSLSocket.read")
ACCEPTS = ("/lib/socket.py", 295, "socket", "socket.accept")
LOADS = ("/lib/ssl.py", 534, "ssl", "SSLContext.load_default_certs")


@pytest.mark.parametrize(
    ("frame", "samples", "expected"),
    [
        (READS, [], True),
        (CONNECTS, [(0.0, 0.0, 0.0, 0.0, 1), (0.1, 0.09, 0.0, 0.0, 9), (0.2, 0.09, 0.0, 0.0, 10)], True),
        (READS, [(0.1, 0.09, 0.0, 0.0, 1), (0.2, 0.1, 0.0, 0.085, 9)], False),  # it computed when it had a processor
        (READS, [(0.0, 0.0, 0.0, 0.0, 1), (0.1, 0.09, 0.0, 0.0, 9)], False),
        (READS, [(0.1, 0.09, 0.0, 0.0, 1), (0.2, 0.092, 0.0, 0.09, 9)], False),  # it has hardly had a processor
        (READS, [(0.0, -1.0, 0.0, -1.0, -1), (0.1, -1.0, 0.0, -1.0, -1)], True),  # nothing is known of its time
        (ACCEPTS, [], False),
        (LOADS, [], False),  # certificates of a client of the loop's own, which has connected and is not yet polled
        (("/srv/app.py", 3, "app", "read"), [], False),
    ],
)
def test_only_a_thread_that_waits_is_in_a_network_call(frame, samples, expected):
    assert is_network_call([frame], samples) is expected


def test_a_table_of_polled_descriptors_that_is_too_long_is_cut_off_within_any_line(monkeypatch):
    ends = socket.socketpair()
    with select.epoll() as poll, ends[0], ends[1]:
        for end in ends:
            poll.register(end, select.EPOLLIN)
        polled = own_connections._polled_by(poll.fileno())
        assert polled == {end.fileno() for end in ends}
        for length in range(400):
            monkeypatch.setattr(own_connections, "_MAX_TABLE", length)
            assert own_connections._polled_by(poll.fileno()) <= polled
