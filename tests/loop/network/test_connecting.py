"""create_connection: which address is connected to, from which one, and what fails on the way."""

import asyncio
import socket
import sys

import pytest

from tests.helpers.peers import EchoPeer, Peer

DATA = bytes(range(256)) * 64


def test_addresses_are_tried_in_turn(run):
    async def main(loop):
        with socket.create_server(("127.0.0.1", 0)) as closed:
            dead = closed.getsockname()[1]
        server = await loop.create_server(EchoPeer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def getaddrinfo(host, _, **kwargs):
            tcp = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            ports = {"good": [dead, port], "bad": [dead, dead], "mixed": [dead]}[host]
            infos = [(*tcp, ("127.0.0.1", each)) for each in ports]
            if host == "mixed":
                infos.append((socket.AF_INET6, *tcp[1:], ("::1", dead, 0, 0)))
            return infos

        loop.getaddrinfo = getaddrinfo
        for options in ({}, {"happy_eyeballs_delay": 0.01}, {"interleave": 1}):
            transport, peer = await loop.create_connection(Peer, "good", 1, **options)
            transport.write(b"hello")
            assert await peer.received(5) == b"hello"
            transport.close()
            await peer.lost()
            with pytest.raises(ConnectionRefusedError):
                await loop.create_connection(Peer, "bad", 1, **options)
            with pytest.raises(OSError, match=r"^Multiple exceptions: "):
                await loop.create_connection(Peer, "mixed", 1, **options)
        if sys.version_info >= (3, 12):
            with pytest.raises(ExceptionGroup) as caught:
                await loop.create_connection(Peer, "bad", 1, all_errors=True)
            assert [type(exc) for exc in caught.value.exceptions] == [ConnectionRefusedError] * 2
        server.close()
        await server.wait_closed()

    run(main)


def test_happy_eyeballs_does_not_wait_for_a_silent_address(run):
    async def main(loop):
        # A listener whose queue is full answers nothing.
        silent = socket.socket()
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        filling = []
        for _ in range(3):
            sock = socket.socket()
            sock.setblocking(False)
            filling.append(sock)
            sock.connect_ex(silent.getsockname())
        server = await loop.create_server(EchoPeer, "127.0.0.1", 0)

        async def getaddrinfo(host, port, **kwargs):
            tcp = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [(*tcp, silent.getsockname()), (*tcp, server.sockets[0].getsockname())]

        loop.getaddrinfo = getaddrinfo
        transport, peer = await loop.create_connection(Peer, "host", 1, happy_eyeballs_delay=0.05)
        assert transport.get_extra_info("peername") == server.sockets[0].getsockname()
        transport.close()
        await peer.lost()
        server.close()
        for sock in (silent, *filling):
            sock.close()

    run(main)


def test_local_address(run):
    async def main(loop):
        server = await loop.create_server(EchoPeer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport, peer = await loop.create_connection(Peer, "127.0.0.1", port, local_addr=("127.0.0.2", 0))
        assert transport.get_extra_info("sockname")[0] == "127.0.0.2"
        transport.close()
        await peer.lost()
        with pytest.raises(OSError, match="error while attempting to bind on address"):
            await loop.create_connection(Peer, "127.0.0.1", port, local_addr=("192.0.2.1", 0))
        with pytest.raises(OSError, match="no matching local address with family"):
            await loop.create_connection(Peer, "127.0.0.1", port, local_addr=("::1", 0), family=0)
        server.close()
        await server.wait_closed()

    run(main)


def test_a_protocol_factory_that_raises(ours):
    async def main(loop):
        def fail():
            raise LookupError

        one, two = socket.socketpair()
        with pytest.raises(LookupError):
            await loop.create_connection(fail, sock=one)
        assert one.fileno() == -1
        two.close()

    ours(main)


def test_bare_sockets(run):
    async def main(loop):
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        client = socket.socket()
        client.setblocking(False)
        accepting = asyncio.create_task(loop.sock_accept(listener))
        await loop.sock_connect(client, ("localhost", listener.getsockname()[1]))
        server, address = await accepting
        assert address == client.getsockname() and server.gettimeout() == 0

        sending = asyncio.create_task(loop.sock_sendall(client, DATA * 300))
        received = bytearray()
        buffer = bytearray(100_000)
        while len(received) < len(DATA) * 300:
            if len(received) % 2:
                received += await loop.sock_recv(server, 100_001)
            else:
                received += buffer[: await loop.sock_recv_into(server, buffer)]
        await sending
        assert received == DATA * 300

        # What a cancelled read did not take is there for the next.
        reading = asyncio.create_task(loop.sock_recv(server, 100))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await loop.sock_sendall(client, b"kept")
        assert await loop.sock_recv(server, 100) == b"kept"
        client.close()
        assert await loop.sock_recv(server, 100) == b""
        server.close()
        listener.close()

        refused = socket.socket()
        refused.setblocking(False)
        with pytest.raises(ConnectionRefusedError):
            await loop.sock_connect(refused, server_address)
        refused.close()
        loop.set_debug(True)
        blocking, other = socket.socketpair()
        for call in (
            loop.sock_recv(blocking, 1),
            loop.sock_sendall(blocking, b"x"),
            loop.sock_accept(blocking),
            loop.sock_connect(blocking, "x"),
        ):
            with pytest.raises(ValueError, match="non-blocking"):
                await call
        blocking.close()
        other.close()

    with socket.create_server(("127.0.0.1", 0)) as closed:
        server_address = closed.getsockname()
    run(main)
