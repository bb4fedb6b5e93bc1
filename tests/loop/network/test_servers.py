"""Servers: what they listen to, how they start, and how they end."""

import asyncio
import errno
import socket
import sys

import pytest

from tests.helpers.peers import EchoPeer, Peer

WAITS_FOR_CLIENTS = sys.version_info >= (3, 12)
HAS_CLIENTS = sys.version_info >= (3, 13)


async def connect(loop, server, protocol=Peer):
    return await loop.create_connection(protocol, *server.sockets[0].getsockname()[:2])


def test_a_server_is_an_asyncio_server(run):
    async def main(loop):
        server = await loop.create_server(Peer, "127.0.0.1", 0)
        assert isinstance(server, asyncio.Server)
        assert server.get_loop() is loop
        assert server.is_serving()
        text = repr(server)
        assert text.startswith("<Server sockets=(<asyncio.TransportSocket fd=")
        async with server as same:
            assert same is server
        assert not server.is_serving()
        assert server.sockets == ()
        assert repr(server) == "<Server sockets=()>"

    run(main)


def test_several_hosts_each_once(run):
    async def main(loop):
        server = await loop.create_server(Peer, ["127.0.0.1", "127.0.0.2", "127.0.0.1"], 0)
        hosts = sorted(sock.getsockname()[0] for sock in server.sockets)
        assert hosts == ["127.0.0.1", "127.0.0.2"]
        server.close()
        await server.wait_closed()
        for host in (None, ""):
            server = await loop.create_server(Peer, host, 0, family=socket.AF_INET)
            assert [sock.getsockname()[0] for sock in server.sockets] == ["0.0.0.0"]
            server.close()
            await server.wait_closed()

    run(main)


def test_options_of_sockets(run):
    async def main(loop):
        options = {"reuse_port": True}
        if HAS_CLIENTS:
            options["keep_alive"] = True
        server = await loop.create_server(Peer, "127.0.0.1", 0, **options)
        (sock,) = server.sockets
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is HAS_CLIENTS
        second = await loop.create_server(Peer, *sock.getsockname(), reuse_port=True)
        with pytest.raises(OSError, match="error while attempting to bind on address") as caught:
            await loop.create_server(Peer, *sock.getsockname())
        assert caught.value.errno == errno.EADDRINUSE
        for each in (server, second):
            each.close()
            await each.wait_closed()

    run(main)


def test_wrong_arguments(run):
    async def main(loop):
        for options, error, words in (
            ({}, ValueError, "Neither host/port nor sock"),
            ({"port": 0, "ssl": True}, TypeError, "must be an SSLContext or None"),
            ({"port": 0, "ssl_handshake_timeout": 1}, ValueError, "only meaningful with ssl"),
            ({"port": 0, "ssl_shutdown_timeout": 1}, ValueError, "only meaningful with ssl"),
            ({"port": 0, "sock": object()}, ValueError, "can not be specified at the same time"),
        ):
            with pytest.raises(error, match=words):
                await loop.create_server(Peer, **options)
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            with pytest.raises(ValueError, match="A Stream Socket was expected"):
                await loop.create_server(Peer, sock=sock)
            with pytest.raises(ValueError, match="A Stream Socket was expected"):
                await loop.connect_accepted_socket(Peer, sock)

    run(main)


def test_starting_later(run):
    async def main(loop):
        server = await loop.create_server(EchoPeer, "127.0.0.1", 0, start_serving=False)
        assert not server.is_serving()
        with pytest.raises(ConnectionRefusedError):
            await connect(loop, server)
        await server.start_serving()
        await server.start_serving()
        transport, peer = await connect(loop, server)
        transport.close()
        await peer.lost()
        server.close()
        await server.wait_closed()

    run(main)


def test_serving_for_ever_until_cancelled(run):
    async def main(loop):
        server = await loop.create_server(EchoPeer, "127.0.0.1", 0)
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="is already being awaited on"):
            await server.serve_forever()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not server.is_serving()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()
        with pytest.raises(TypeError):
            await server.start_serving()
        server = await loop.create_server(EchoPeer, "127.0.0.1", 0)
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await serving

    run(main)


def test_waiting_for_the_end(run):
    async def main(loop):
        server = await loop.create_server(EchoPeer, "127.0.0.1", 0)
        transport, peer = await connect(loop, server)
        transport.write(b"x")
        await peer.received(1)
        waiting = asyncio.create_task(server.wait_closed())
        await asyncio.sleep(0)
        assert not waiting.done()
        server.close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        late = asyncio.create_task(server.wait_closed())
        await asyncio.sleep(0)
        assert late.done() is not WAITS_FOR_CLIENTS
        # The connection goes on without its server.
        transport.write(b"y")
        assert await peer.received(2) == b"xy"
        transport.close()
        await waiting
        await late
        await peer.lost()

    run(main)


@pytest.mark.skipif(not HAS_CLIENTS, reason="since 3.13")
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
def test_ending_the_connections(run, method):
    async def main(loop):
        server = await loop.create_server(EchoPeer, "127.0.0.1", 0)
        peers = []
        for _ in range(3):
            transport, peer = await connect(loop, server)
            transport.write(b"x")
            await peer.received(1)
            peers.append(peer)
        server.close()
        getattr(server, method)()
        await server.wait_closed()
        for peer in peers:
            await peer.lost()

    run(main)


@pytest.mark.skipif(HAS_CLIENTS, reason="before 3.13 they are not there, and programs ask")
def test_no_more_than_the_version_has(run):
    async def main(loop):
        server = await loop.create_server(EchoPeer, "127.0.0.1", 0)
        assert not hasattr(server, "close_clients")
        server.close()
        await server.wait_closed()

    run(main)


def test_many_connections_at_once(run):
    async def main(loop):
        server = await loop.create_server(EchoPeer, "127.0.0.1", 0, backlog=256)
        connections = await asyncio.gather(*[connect(loop, server) for _ in range(200)])
        for number, (transport, _) in enumerate(connections):
            transport.write(b"%d" % number)
        for number, (_, peer) in enumerate(connections):
            text = b"%d" % number
            assert await peer.received(len(text)) == text
        for transport, _ in connections:
            transport.close()
        for _, peer in connections:
            await peer.lost()
        server.close()
        await server.wait_closed()

    run(main)


def test_a_factory_that_raises_loses_its_connection_only(run):
    async def main(loop):
        reports = []
        loop.set_exception_handler(lambda _, context: reports.append(context))
        loop.set_debug(True)
        protocols = [LookupError("no protocol"), None]

        def factory():
            error = protocols.pop(0)
            if error:
                raise error
            return EchoPeer()

        server = await loop.create_server(factory, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()):
            while not reports:
                await asyncio.sleep(0)
        transport, peer = await connect(loop, server)
        transport.write(b"x")
        await peer.received(1)
        (report,) = reports
        assert report["message"] == "Error on transport creation for incoming connection"
        assert isinstance(report["exception"], LookupError)
        transport.close()
        await peer.lost()
        server.close()
        await server.wait_closed()

    import gc
    import warnings

    with warnings.catch_warnings():
        # The standard loop leaves that connection's socket to the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        run(main)
        gc.collect()


@pytest.mark.skipif(sys.version_info < (3, 15), reason="since 3.15")
def test_connections_run_in_copies_of_the_servers_context(run):
    import contextvars

    variable = contextvars.ContextVar("variable", default="outside")

    class Tells(EchoPeer):
        def data_received(self, data):
            self.transport.write(variable.get().encode())
            variable.set("changed")

    async def main(loop):
        variable.set("server")
        server = await loop.create_server(Tells, "127.0.0.1", 0)
        variable.set("later")
        for _ in range(2):
            transport, peer = await connect(loop, server)
            transport.write(b"?")
            assert await peer.received(6) == b"server"
            transport.write(b"?")
            assert await peer.received(13) == b"serverchanged"
            transport.close()
            await peer.lost()
        server.close()
        await server.wait_closed()

    run(main)
