"""What a program puts in the place of a stream transport's parts is used, on each core.

The C one does the usual case of reading and writing by itself, and has to see where a case is not that.
"""

from __future__ import annotations

import array
import asyncio
import errno
import gc
import os
import socket
import struct
import sys

import pytest

from tests.helpers.cores import CORES
from tests.helpers.peers import BufferedPeer, EchoPeer, Peer, pair
from tests.helpers.written_batches import note_batches
from traceloop.record import layout

BOTH = pytest.mark.parametrize("peer", [Peer, BufferedPeer])


class Wrapped:
    """A socket's stand-in, as recorders of traffic use them."""

    def __init__(self, sock, calls):
        self._sock = sock
        self._calls = calls

    def __getattr__(self, name):
        if name in ("recv", "recv_into", "send"):
            self._calls.append(name)
        return getattr(self._sock, name)


@BOTH
def test_an_object_in_the_place_of_the_socket_is_asked(run, peer):
    async def main(loop):
        client, server = await pair(loop, peer, EchoPeer)
        calls = []
        client.transport._sock = Wrapped(client.transport._sock, calls)
        client.transport.write(b"question")
        assert await client.received(8) == b"question"
        assert calls == ["send", "recv" if peer is Peer else "recv_into"]
        client.transport.close()
        await client.lost(), await server.lost()

    run(main)


@BOTH
def test_methods_put_into_the_socket_class_are_called(run, peer, monkeypatch):
    async def main(loop):
        client, server = await pair(loop, peer, EchoPeer)
        client.transport.write(b"1")
        await client.received(1)
        calls = []
        for name in ("recv", "recv_into", "send"):
            original = getattr(socket.socket, name)

            def replaced(sock, *args, name=name, original=original):
                calls.append(name)
                return original(sock, *args)

            monkeypatch.setattr(socket.socket, name, replaced)
        client.transport.write(b"2")
        await client.received(2)
        monkeypatch.undo()
        assert sorted(set(calls)) == sorted({"recv", "send", "recv" if peer is Peer else "recv_into"})
        seen = len(calls)
        client.transport.write(b"3")
        assert await client.received(3) == b"123"
        assert len(calls) == seen
        client.transport.close()
        await client.lost(), await server.lost()

    run(main)


def test_methods_of_the_transport_may_be_replaced(run):
    async def main(loop):
        client, server = await pair(loop, Peer, EchoPeer)
        transport, calls = client.transport, []
        kind = type(transport)
        write, read = transport.write, transport._read_ready
        transport.write = lambda data: (calls.append("own write"), write(data))
        transport.write(b"1")
        transport.pause_reading()
        transport._read_ready = lambda: (calls.append("own read"), read())
        transport.resume_reading()
        await client.received(1)
        assert calls == ["own write", "own read"]
        del transport.write, transport._read_ready

        class Louder(kind):
            def write(self, data):
                super().write(data.upper())

        transport.__class__ = Louder
        transport.write(b"word")
        assert await client.received(5) == b"1WORD"
        transport.__class__ = kind
        client.transport.close()
        await client.lost(), await server.lost()

    run(main)


@pytest.mark.parametrize("size", [1, 100, 300_000])
def test_how_much_is_read_at_a_time_may_be_set(run, size):
    async def main(loop):
        client, server = await pair(loop, EchoPeer, Peer)
        pieces = []
        client.data_received = pieces.append
        client.transport.max_size = size
        server.transport.write(b"x" * 2500)
        while sum(map(len, pieces)) < 2500:
            await asyncio.sleep(0)
        assert max(map(len, pieces)) <= size
        if size == 1:
            assert len(pieces) == 2500
        client.transport.close()
        await client.lost(), await server.lost()

    run(main)


def test_what_is_read_takes_memory_of_its_own_size(run):
    """Also a short message after long ones, which are read where they stay."""

    async def main(loop):
        client, server = await pair(loop, Peer, Peer)
        pieces = []
        client.data_received = pieces.append
        for size in (10, 60_000, 10, 60_000, 70_000, 3, 3):
            server.transport.write(b"y" * size)
            pieces.clear()
            while sum(map(len, pieces)) < size:
                await asyncio.sleep(0)
            assert b"".join(pieces) == b"y" * size
            assert all(sys.getsizeof(piece) == sys.getsizeof(b"") + len(piece) for piece in pieces)
        client.transport.close()
        await client.lost(), await server.lost()

    run(main)


@BOTH
@pytest.mark.parametrize("by", ["write", "read"])
def test_an_error_of_the_socket_ends_the_connection(run, peer, by):
    async def main(loop):
        client, server = await pair(loop, peer, Peer, socket.AF_INET)
        sock = server.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if by == "write":
            client.transport.pause_reading()
        server.transport.abort()
        await server.lost()
        if by == "write":
            while not client.transport.is_closing():
                client.transport.write(b"z")
                await asyncio.sleep(0)
        error = await client.lost()
        assert isinstance(error, ConnectionError) and error.errno in (errno.ECONNRESET, errno.EPIPE), error
        assert error.__context__ is None

    run(main)


@BOTH
def test_a_socket_closed_under_its_transport(run, peer):
    """Its descriptor may be another file's by then."""

    async def main(loop):
        client, server = await pair(loop, peer, Peer)
        client.transport._sock.close()
        client.transport.write(b"lost")
        error = await client.lost()
        assert isinstance(error, OSError) and error.errno == errno.EBADF
        server.transport.abort()
        await server.lost()

    run(main)


@pytest.mark.parametrize(
    "data", [b"bytes", bytearray(b"array"), memoryview(b"view"), memoryview(array.array("i", [1, 2]))]
)
def test_each_kind_of_buffer_is_sent(ours, data):
    async def main(loop):
        client, server = await pair(loop, Peer, Peer)
        client.transport.write(data=data)
        client.transport.write(data)
        size = memoryview(data).nbytes
        assert await server.received(2 * size) == bytes(data) * 2
        client.transport.abort()
        await client.lost(), await server.lost()

    ours(main)


class Longer(bytes):
    """Says that it has one byte more than it has."""

    def __len__(self):
        return super().__len__() + 1


def test_data_with_a_length_of_its_own_leaves_nothing_behind(ours):
    async def main(loop):
        client, server = await pair(loop, Peer, Peer)
        client.transport.write(Longer(b"abc"))
        assert not client.transport._buffer
        client.transport.close()
        await client.lost(), await server.lost()
        assert server.data == b"abc"

    ours(main)


def test_a_view_with_gaps_is_refused(run):
    async def main(loop):
        loop.set_exception_handler(lambda *_: None)
        client, server = await pair(loop, Peer, Peer)
        client.transport.write(memoryview(b"g.a.p.s.")[::2])
        assert isinstance(await client.lost(), BufferError)
        await server.lost()
        assert server.data == b""

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="it has a length of 1")
def test_a_view_without_a_length_is_refused(run):
    async def main(loop):
        client, server = await pair(loop, Peer, Peer)
        with pytest.raises(TypeError):
            client.transport.write(memoryview(b"a").cast("B", []))
        client.transport.close()
        await client.lost(), await server.lost()
        assert server.data == b""

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="buffers are not written in Python")
def test_a_buffer_that_closes_the_socket_reads_from_no_other(run):
    """Its descriptor is another file's by then."""

    class Closing:
        def __init__(self, sock):
            self.sock = sock

        def __len__(self):
            return 8

        def __buffer__(self, flags):
            if self.sock.fileno() >= 0:
                number = self.sock.fileno()
                self.sock.close()
                os.dup2(other.fileno(), number)
                taken.append(number)
            return memoryview(bytearray(8))

    class Reader(BufferedPeer):
        def get_buffer(self, size_hint):
            return Closing(self.transport._sock)

    taken = []

    async def main(loop):
        client, server = await pair(loop, Peer, Reader)
        client.transport.write(b"data")
        error = await server.lost()
        assert isinstance(error, OSError) and error.errno == errno.EBADF
        assert other.recv(8) == b"kept"
        client.transport.abort()
        await client.lost()

    other, writing = socket.socketpair()
    with other, writing:
        writing.send(b"kept")
        other.setblocking(False)
        try:
            run(main)
        finally:
            for number in taken:
                os.close(number)


def test_exits_raised_by_a_protocol_end_the_loop(loop_factory):
    class Quits(Peer):
        def data_received(self, data):
            raise SystemExit(7)

    loop = loop_factory()

    async def main():
        client, server = await pair(loop, Quits, Peer)
        server.transport.write(b"go")
        await client.lost()

    with pytest.raises(SystemExit):
        loop.run_until_complete(main())
    for task in asyncio.all_tasks(loop):
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    for transport in list(loop._transports.values()):
        transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.mark.parametrize("core", list(CORES))
def test_the_record_knows_reads_by_the_transport_on_each_core(core, monkeypatch):
    loop = CORES[core]()
    records = []
    note_batches(monkeypatch, lambda ring, doubles, text: records.extend(doubles))

    async def main():
        client, server = await pair(loop, Peer, EchoPeer)
        client.transport.write(b"x")
        await client.received(1)
        client.transport.close()
        await client.lost(), await server.lost()

    loop.run_until_complete(main())
    sites = loop._recorder.process.site_log.sites
    loop.close()
    names = {
        (site.module, site.qualname, site.line > 0)
        for site in (sites[int(kind) % layout.SITE_LIMIT] for kind in records[1::3] if kind > 0)
    }
    wanted = "traceloop.loop.network.transports.stream", "_SelectorSocketTransport._read_ready", True
    assert wanted in names, names


def test_a_protocol_that_is_exchanged_while_it_reads_is_let_go(run):
    async def main(loop):
        client, server = await pair(loop, Peer, Peer)
        second = Peer()
        second.transport = client.transport

        class First(Peer):
            def data_received(self, data):
                second.note("first", data)
                client.transport.set_protocol(second)

        client.transport.set_protocol(First())
        server.transport.write(b"1")
        await second.until(lambda notes: notes.events)
        gc.collect()
        assert not any(type(each) is First for each in gc.get_objects())
        server.transport.write(b"2")
        assert await second.received(1) == b"2"
        client.transport.close()
        await second.lost(), await server.lost()

    run(main)


@pytest.mark.parametrize("pieces", [[b"some", b" pieces"], [b"L" * 9000, b"ong"] * 9])
def test_writelines_calls_a_replaced_write_where_the_standard_one_does(run, pieces):
    """That is before 3.12. A program that counts what both send would count it twice, or not at all."""

    async def main(loop):
        client, server = await pair(loop)
        seen = []
        write = client.transport.write

        def counted(data):
            seen.append(len(data))
            write(data)

        client.transport.write = counted
        size = len(b"".join(pieces))
        client.transport.writelines(piece for piece in pieces)
        client.transport.writelines(pieces)
        assert await server.received(2 * size) == b"".join(pieces) * 2
        assert seen == ([size, size] if sys.version_info < (3, 12) else [])
        client.transport.close()
        await client.lost(), await server.lost()

    run(main)
