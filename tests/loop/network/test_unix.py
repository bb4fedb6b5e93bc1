"""Unix stream sockets: servers, connections, and what happens to the file."""

import asyncio
import errno
import os
import socket
import stat
import sys

import pytest

from tests.helpers.peers import EchoPeer, Peer

CLEANED_UP = sys.version_info >= (3, 13)


@pytest.fixture
def path(tmp_path_factory):
    # The system allows 107 bytes.
    folder = tmp_path_factory.mktemp("u")
    return str(folder / "s")


def test_echo_and_the_file_afterwards(run, path):
    async def main(loop):
        server = await loop.create_unix_server(EchoPeer, path)
        assert stat.S_ISSOCK(os.stat(path).st_mode)
        transport, peer = await loop.create_unix_connection(Peer, path)
        transport.write(b"hello")
        assert await peer.received(5) == b"hello"
        assert transport.get_extra_info("peername") == path
        transport.close()
        await peer.lost()
        server.close()
        await server.wait_closed()
        assert os.path.exists(path) is not CLEANED_UP
        # A file left behind is no hindrance.
        server = await loop.create_unix_server(EchoPeer, path)
        server.close()
        await server.wait_closed()

    run(main)


@pytest.mark.skipif(not CLEANED_UP, reason="servers remove their file since 3.13")
def test_when_the_file_is_not_removed(run, path):
    async def main(loop):
        server = await loop.create_unix_server(EchoPeer, path, cleanup_socket=False)
        server.close()
        await server.wait_closed()
        assert os.path.exists(path)
        # Another server's file under the same name is not ours to remove.
        first = await loop.create_unix_server(EchoPeer, path)
        second = await loop.create_unix_server(EchoPeer, path)
        first.close()
        assert os.path.exists(path)
        second.close()
        assert not os.path.exists(path)
        # Nor does it matter that it is gone already.
        third = await loop.create_unix_server(EchoPeer, path)
        os.remove(path)
        third.close()
        for server in (first, second, third):
            await server.wait_closed()

    run(main)


def test_a_name_in_use(run, path):
    async def main(loop):
        with open(path, "w"):
            pass
        with pytest.raises(OSError, match="is already in use") as caught:
            await loop.create_unix_server(EchoPeer, path)
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError):
            await loop.create_unix_connection(Peer, path)
        with pytest.raises(FileNotFoundError):
            await loop.create_unix_connection(Peer, path + "x")

    run(main)


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's")
def test_abstract_names(run):
    async def main(loop):
        name = f"\0traceloop-test-{os.getpid()}"
        server = await loop.create_unix_server(EchoPeer, name)
        transport, peer = await loop.create_unix_connection(Peer, name.encode())
        transport.write(b"hello")
        assert await peer.received(5) == b"hello"
        transport.close()
        await peer.lost()
        server.close()
        await server.wait_closed()

    run(main)


def test_sockets_of_ones_own(run, path):
    async def main(loop):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        server = await loop.create_unix_server(EchoPeer, sock=listener)
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        await loop.sock_connect(client, path)
        transport, peer = await loop.create_unix_connection(Peer, sock=client)
        transport.write(b"hello")
        assert await peer.received(5) == b"hello"
        transport.close()
        await peer.lost()
        server.close()
        await server.wait_closed()

    run(main)


def test_wrong_arguments(run, path):
    async def main(loop):
        for function, words in (
            (loop.create_unix_server, "path was not specified"),
            (loop.create_unix_connection, "no path and sock"),
        ):
            with pytest.raises(ValueError, match=words):
                await function(Peer)
            with socket.socket() as tcp, pytest.raises(ValueError, match="A UNIX Domain Stream Socket"):
                await function(Peer, sock=tcp)
            with pytest.raises(ValueError, match="can not be specified at the same time"):
                await function(Peer, path, sock=object())
            with pytest.raises(ValueError, match="only meaningful with ssl"):
                await function(Peer, path, ssl_handshake_timeout=1)
        with pytest.raises(TypeError, match="must be an SSLContext or None"):
            await loop.create_unix_server(Peer, path, ssl=True)
        with pytest.raises(ValueError, match="server_hostname"):
            await loop.create_unix_connection(Peer, path, ssl=True)

    run(main)


def test_a_full_queue_is_waited_for(ours, path):
    """unix(7): connect says EAGAIN then, and has begun nothing."""

    async def main(loop):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(0)
        listener.setblocking(False)
        connections = [asyncio.ensure_future(loop.create_unix_connection(Peer, path)) for _ in range(10)]
        done, pending = await asyncio.wait(connections, timeout=0.05)
        assert pending and done
        accepted = [(await loop.sock_accept(listener))[0] for _ in connections]
        transports = []
        for transport, _ in await asyncio.gather(*connections):
            assert transport.get_extra_info("peername") == path
            transports.append(transport)
        for thing in (*transports, *accepted, listener):
            thing.close()
        await asyncio.sleep(0)

    ours(main)
