"""TLS: connections, upgrades and endings, with a certificate made for these tests alone."""

import asyncio
import socket
import ssl

import pytest

from tests.helpers.paths import CERTIFICATE
from tests.helpers.peers import BufferedPeer, EchoPeer, Peer

DATA = bytes(range(256)) * 256


def contexts():
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    client = ssl.create_default_context(cafile=CERTIFICATE)
    return client, server


async def serve(loop, factory, **options):
    server = await loop.create_server(factory, "127.0.0.1", 0, **options)
    return server, server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("protocol", [Peer, lambda: BufferedPeer(1000)], ids=["plain", "buffered"])
def test_echo(run, protocol):
    async def main(loop):
        client_context, server_context = contexts()
        server, port = await serve(loop, EchoPeer, ssl=server_context)
        transport, peer = await loop.create_connection(
            protocol, "127.0.0.1", port, ssl=client_context, server_hostname="localhost"
        )
        transport.write(DATA)
        transport.writelines([b"and", bytearray(b" the"), memoryview(b" rest")])
        assert await peer.received(len(DATA) + 12) == DATA + b"and the rest"
        assert transport.get_extra_info("cipher")
        assert transport.get_extra_info("peercert")["subject"]
        assert transport.get_extra_info("peername")[1] == port
        assert not transport.can_write_eof()
        transport.close()
        assert await peer.lost() is None
        server.close()
        await server.wait_closed()

    run(main)


def test_an_unknown_certificate_is_refused(run):
    async def main(loop):
        _, server_context = contexts()
        server, port = await serve(loop, Peer, ssl=server_context)
        for hostname, context in (
            ("localhost", ssl.create_default_context()),
            ("elsewhere.example", contexts()[0]),
        ):
            with pytest.raises(ssl.SSLCertVerificationError):
                await loop.create_connection(Peer, "127.0.0.1", port, ssl=context, server_hostname=hostname)
        server.close()
        await server.wait_closed()

    run(main)


def test_a_handshake_that_does_not_come_is_not_waited_for(run):
    async def main(loop):
        _, server_context = contexts()

        class Never(Peer):
            def connection_made(self, transport):
                raise AssertionError("no handshake, no connection")

        server, port = await serve(loop, Never, ssl=server_context, ssl_handshake_timeout=0.05)
        silent = socket.create_connection(("127.0.0.1", port))
        silent.setblocking(False)
        assert await loop.sock_recv(silent, 10) == b""
        silent.close()
        server.close()
        await server.wait_closed()

        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            pytest.raises(ConnectionAbortedError, match="handshake"),
        ):
            await loop.create_connection(
                Peer,
                *listener.getsockname(),
                ssl=contexts()[0],
                server_hostname="localhost",
                ssl_handshake_timeout=0.05,
            )

    run(main)


def test_a_peer_that_speaks_no_tls(run):
    async def main(loop):
        server, port = await serve(loop, lambda: Greeter())
        with pytest.raises(ssl.SSLError):
            await loop.create_connection(Peer, "127.0.0.1", port, ssl=contexts()[0], server_hostname="localhost")
        server.close()
        await server.wait_closed()

    class Greeter(Peer):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"220 mail.example ready\r\n")

    run(main)


def test_start_tls_in_the_middle_of_a_connection(run):
    async def main(loop):
        client_context, server_context = contexts()

        async def handle(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"go\n")
            await writer.drain()
            await writer.start_tls(server_context)
            while line := await reader.readline():
                writer.write(line.upper())
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go\n"
        await writer.start_tls(client_context, server_hostname="localhost")
        assert writer.get_extra_info("cipher")
        for _ in range(3):
            writer.write(b"secret\n")
            assert await reader.readline() == b"SECRET\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(main)


def test_start_tls_does_not_lose_a_hello_that_came_early(ours):
    """CPython issue 142352: the handshake's first message, read by the stream reader together with the command."""

    async def main(loop):
        client_context, server_context = contexts()
        outcome = loop.create_future()

        async def handle(reader, writer):
            assert await reader.readline() == b"STARTTLS\n"
            while not reader._buffer:
                await asyncio.sleep(0)
            await writer.start_tls(server_context)
            outcome.set_result(await reader.readline())
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"STARTTLS\n")
        await writer.start_tls(client_context, server_hostname="localhost")
        writer.write(b"hello\n")
        assert await outcome == b"hello\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    ours(main)


def test_what_start_tls_refuses(run):
    async def main(loop):
        one, two = socket.socketpair()
        transport, peer = await loop.create_connection(Peer, sock=one)
        with pytest.raises(TypeError, match="sslcontext is expected"):
            await loop.start_tls(transport, peer, None)
        with pytest.raises(TypeError, match="is not supported by start_tls"):
            await loop.start_tls(object(), peer, contexts()[0])
        transport.close()
        await peer.lost()
        two.close()

    run(main)


def test_tls_counts_as_tls(ours):
    async def main(loop):
        client_context, server_context = contexts()
        server, port = await serve(loop, EchoPeer, ssl=server_context)
        transport, peer = await loop.create_connection(
            Peer, "127.0.0.1", port, ssl=client_context, server_hostname="localhost"
        )
        transport.write(b"hello")
        await peer.received(5)
        assert (loop._io_counters.tls, loop._io_counters.stream) == (2, 0)
        assert loop._io_counters.accepted == 1
        assert loop._io_counters.bytes_in == loop._io_counters.bytes_out > 1000
        transport.close()
        await peer.lost()
        server.close()
        await server.wait_closed()
        while loop._io_counters.tls:
            await asyncio.sleep(0)

        one, two = socket.socketpair()
        transport, peer = await loop.create_connection(Peer, sock=one)
        other, other_peer = await loop.connect_accepted_socket(Peer, two)
        assert (loop._io_counters.tls, loop._io_counters.stream) == (0, 2)
        await asyncio.gather(
            loop.start_tls(transport, peer, client_context, server_hostname="localhost"),
            loop.start_tls(other, other_peer, server_context, server_side=True),
        )
        assert (loop._io_counters.tls, loop._io_counters.stream) == (2, 0)
        transport.abort()
        other.abort()
        await peer.lost(), await other_peer.lost()
        await asyncio.sleep(0)
        assert loop._io_counters.open_transports == 0

    ours(main)
