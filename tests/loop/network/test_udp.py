"""Datagram endpoints: UDP and unix."""

import asyncio
import errno
import os
import socket
import sys
import tempfile

import pytest

from tests.helpers.peers import DatagramPeer

UDP_MAX = 65507


class EchoDatagrams(DatagramPeer):
    def datagram_received(self, data, addr):
        super().datagram_received(data, addr)
        self.transport.sendto(data, addr)


def test_echo_connected_and_not(run):
    async def main(loop):
        server, echo = await loop.create_datagram_endpoint(EchoDatagrams, ("127.0.0.1", 0))
        address = server.get_extra_info("sockname")
        connected, one = await loop.create_datagram_endpoint(DatagramPeer, remote_addr=address)
        free, two = await loop.create_datagram_endpoint(DatagramPeer, ("127.0.0.1", 0))
        assert connected.get_extra_info("peername") == address
        assert free.get_extra_info("peername") is None
        for size in (1, 1000, UDP_MAX):
            connected.sendto(b"x" * size)
            free.sendto(bytearray(b"y" * size), address)
        received = await one.datagrams(3)
        assert [len(data) for data, _ in received] == [1, 1000, UDP_MAX]
        assert {addr for _, addr in received} == {address}
        assert [len(data) for data, _ in await two.datagrams(3)] == [1, 1000, UDP_MAX]
        with pytest.raises(ValueError, match="Invalid address"):
            connected.sendto(b"x", ("127.0.0.1", 1))
        with pytest.raises(TypeError):
            free.sendto("text", address)
        for transport, peer in ((server, echo), (connected, one), (free, two)):
            transport.close()
            assert await peer.lost() is None

    run(main)


def test_a_peer_without_a_name_needs_no_address(ours):
    """The ends of a socketpair are connected, but have no name: the standard transport passes None for an address."""

    async def main(loop):
        mine, other = socket.socketpair(type=socket.SOCK_DGRAM)
        other.setblocking(False)
        with other:
            transport, peer = await loop.create_datagram_endpoint(DatagramPeer, sock=mine)
            transport.sendto(b"there")
            assert await loop.sock_recv(other, 100) == b"there"
            other.send(b"back")
            assert await peer.datagrams(1) == [(b"back", None)]
            transport.close()
            assert await peer.lost() is None
            assert "error" not in peer.names()

    ours(main)


def test_no_address_and_no_peer(run):
    """The mistake of a program, which the standard loop reports and answers with the end of the transport."""

    async def main(loop):
        reported = []
        loop.set_exception_handler(lambda _, context: reported.append(context))
        transport, peer = await loop.create_datagram_endpoint(DatagramPeer, ("127.0.0.1", 0))
        transport.sendto(b"to nobody")
        assert isinstance(await peer.lost(), TypeError)
        assert [context["message"] for context in reported] == ["Fatal write error on datagram transport"]

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="empty datagrams are sent since 3.13")
def test_empty_datagrams(run):
    async def main(loop):
        server, peer = await loop.create_datagram_endpoint(DatagramPeer, ("127.0.0.1", 0))
        client, _ = await loop.create_datagram_endpoint(DatagramPeer, remote_addr=server.get_extra_info("sockname"))
        client.sendto(b"")
        ((data, _),) = await peer.datagrams(1)
        assert data == b""
        server.close()
        client.close()
        await peer.lost()

    run(main)


def test_errors_are_told_and_close_nothing(run):
    async def main(loop):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
            closed.bind(("127.0.0.1", 0))
            address = closed.getsockname()
        transport, peer = await loop.create_datagram_endpoint(DatagramPeer, remote_addr=address)
        transport.sendto(b"into the void")
        await peer.until(lambda notes: ("error", ConnectionRefusedError) in notes.events)
        assert not transport.is_closing()
        free, other = await loop.create_datagram_endpoint(DatagramPeer, ("127.0.0.1", 0))
        free.sendto(b"x" * (UDP_MAX + 1), address)
        assert other.events[-1][0] == "error"
        transport.abort()
        free.abort()
        await peer.lost(), await other.lost()

    run(main)


def test_what_does_not_fit_waits_and_counts(ours):
    async def main(loop):
        with tempfile.TemporaryDirectory() as folder:
            # Unix datagrams block when the reader's queue is full, as UDP does not.
            path = os.path.join(folder, "socket")
            server, reader = await loop.create_datagram_endpoint(DatagramPeer, path, family=socket.AF_UNIX)
            client, writer = await loop.create_datagram_endpoint(DatagramPeer, remote_addr=path, family=socket.AF_UNIX)
            client.set_write_buffer_limits(high=1000, low=100)
            writer.pause_writing = lambda: writer.note("pause")
            writer.resume_writing = lambda: writer.note("resume")
            server.pause_reading()
            sent = 0
            while "pause" not in writer.names():
                client.sendto(b"%0100d" % sent)
                sent += 1
            waiting = client.get_write_buffer_size()
            header = 8 if sys.version_info >= (3, 13) else 0
            assert waiting > 1000 and waiting % (100 + header) == 0
            client.close()
            server.resume_reading()
            received = await reader.datagrams(sent)
            assert [int(data) for data, _ in received] == list(range(sent))
            assert client.get_write_buffer_size() == 0
            assert "resume" in writer.names()
            await writer.lost()
            server.close()
            await reader.lost()

    ours(main)


def test_a_stale_unix_socket_is_replaced_and_a_file_is_not(run):
    async def main(loop):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "socket")
            for _ in range(2):
                transport, peer = await loop.create_datagram_endpoint(DatagramPeer, path, family=socket.AF_UNIX)
                transport.close()
                await peer.lost()
            os.remove(path)
            with open(path, "w"):
                pass
            with pytest.raises(OSError) as caught:
                await loop.create_datagram_endpoint(DatagramPeer, path, family=socket.AF_UNIX)
            assert caught.value.errno == errno.EADDRINUSE

    run(main)


def test_wrong_arguments(run):
    async def main(loop):
        endpoint = loop.create_datagram_endpoint
        with pytest.raises(ValueError, match="unexpected address family"):
            await endpoint(DatagramPeer)
        with pytest.raises(TypeError, match="2-tuple is expected"):
            await endpoint(DatagramPeer, "127.0.0.1")
        with pytest.raises(TypeError, match="string is expected"):
            await endpoint(DatagramPeer, ("x", 1), family=socket.AF_UNIX)
        with pytest.raises(ValueError, match="can not get address information"):
            await endpoint(DatagramPeer, ("127.0.0.1", 0), ("::1", 1))
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            with pytest.raises(ValueError, match="was expected, got"):
                await endpoint(DatagramPeer, sock=stream)
            with pytest.raises(ValueError, match=r"\(local_addr=.*, proto=3, allow_broadcast=True\)"):
                await endpoint(DatagramPeer, ("x", 1), proto=3, allow_broadcast=True, sock=datagram)

    run(main)


def test_bare_datagram_sockets(run):
    async def main(loop):
        with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
            for sock in (one, two):
                sock.setblocking(False)
                sock.bind(("127.0.0.1", 0))
            receiving = asyncio.create_task(loop.sock_recvfrom(two, 100))
            await asyncio.sleep(0)
            assert await loop.sock_sendto(one, b"first", two.getsockname()) == 5
            assert await receiving == (b"first", one.getsockname())
            buffer = bytearray(100)
            receiving = asyncio.create_task(loop.sock_recvfrom_into(two, buffer))
            await asyncio.sleep(0)
            await loop.sock_sendto(one, b"second", two.getsockname())
            assert await receiving == (6, one.getsockname())
            assert buffer[:6] == b"second"
            await loop.sock_sendto(one, b"third", two.getsockname())
            assert await loop.sock_recvfrom_into(two, buffer, 3) == (3, one.getsockname())

    run(main)


def test_options(run):
    async def main(loop):
        first, one = await loop.create_datagram_endpoint(
            DatagramPeer, ("127.0.0.1", 0), reuse_port=True, allow_broadcast=True
        )
        sock = first.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        second, two = await loop.create_datagram_endpoint(DatagramPeer, sock.getsockname(), reuse_port=True)
        assert second.get_extra_info("sockname") == sock.getsockname()
        for transport, peer in ((first, one), (second, two)):
            transport.close()
            await peer.lost()

    run(main)


def test_a_large_unix_datagram_arrives_whole(run, tmp_path):
    """What comes over IP fits into 64 KiB; other families take more, and what is not read of a datagram is lost."""

    async def main(loop):
        path = os.fspath(tmp_path / "socket")
        server, received = await loop.create_datagram_endpoint(DatagramPeer, path, family=socket.AF_UNIX)
        client, peer = await loop.create_datagram_endpoint(DatagramPeer, None, path, family=socket.AF_UNIX)
        sizes = []
        for size in (64 * 1024, 64 * 1024 + 1, 120_000):
            client.sendto(b"x" * size)
            sizes = [len(data) for data, _ in await received.datagrams(len(sizes) + 1)]
            assert sizes[-1] == size
        for transport, each in ((server, received), (client, peer)):
            transport.close()
            await each.lost()

    run(main)
