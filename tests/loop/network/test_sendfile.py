"""sendfile to transports and to bare sockets, by the kernel and without it."""

import asyncio
import io
import os
import socket
import ssl
import sys
import types

import pytest

from tests.helpers.paths import CERTIFICATE
from tests.helpers.peers import BufferedPeer, Peer, pair

SIZE = 1_000_000
CONTENT = bytes(n * 7 % 251 for n in range(1000)) * (SIZE // 1000)


@pytest.fixture(scope="module")
def content_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("sendfile") / "content"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("kind", ["file", "bytes"])
@pytest.mark.parametrize(("offset", "count"), [(0, None), (5000, 300_000), (SIZE - 10, 100), (SIZE, None)])
def test_to_a_transport(run, content_path, kind, offset, count):
    async def main(loop):
        sender, receiver = await pair(loop, family=socket.AF_INET)
        expected = CONTENT[offset:] if count is None else CONTENT[offset : offset + count]
        with open(content_path, "rb") if kind == "file" else io.BytesIO(CONTENT) as file:
            sender.transport.write(b"before")
            assert await loop.sendfile(sender.transport, file, offset, count) == len(expected)
            if expected:
                assert file.tell() == offset + len(expected)
            sender.transport.write(b"after")
        assert sender.transport.is_reading()
        total = len(expected) + 11
        assert await receiver.received(total) == b"before" + expected + b"after"
        sender.transport.close()
        await sender.lost(), await receiver.lost()

    run(main)


def test_writes_wait_their_turn(run, content_path):
    async def main(loop):
        sender, receiver = await pair(loop, family=socket.AF_INET)
        receiver.transport.pause_reading()
        with open(content_path, "rb") as file:
            sending = asyncio.create_task(loop.sendfile(sender.transport, file))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="sendfile is in progress"):
                sender.transport.write(b"x")
            with pytest.raises(RuntimeError, match="sendfile is in progress"):
                sender.transport.writelines([b"x"])
            receiver.transport.resume_reading()
            assert await sending == SIZE
        assert await receiver.received(SIZE) == CONTENT
        sender.transport.close()
        await sender.lost(), await receiver.lost()

    run(main)


def test_over_tls(run, content_path):
    async def main(loop):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        sender = Peer()
        server = await loop.create_server(lambda: sender, "127.0.0.1", 0, ssl=context)
        transport, receiver = await loop.create_connection(
            lambda: BufferedPeer(10_000),
            *server.sockets[0].getsockname(),
            ssl=ssl.create_default_context(cafile=CERTIFICATE),
            server_hostname="localhost",
        )
        await sender.until(lambda notes: notes.transport)
        with open(content_path, "rb") as file:
            with pytest.raises(RuntimeError, match="fallback is disabled"):
                await loop.sendfile(sender.transport, file, fallback=False)
            assert await loop.sendfile(sender.transport, file, 1000) == SIZE - 1000
            assert file.tell() == SIZE
        assert sender.transport.get_protocol() is sender
        assert await receiver.received(SIZE - 1000) == CONTENT[1000:]
        transport.close()
        await receiver.lost()
        server.close()
        await server.wait_closed()

    run(main)


def test_the_peer_goes_away_meanwhile(run, content_path):
    async def main(loop):
        for kind in ("file", "bytes"):
            sender, receiver = await pair(loop, family=socket.AF_INET)
            receiver.transport.pause_reading()
            big = CONTENT * 20
            with open(content_path, "rb") if kind == "file" else io.BytesIO(big) as file:
                if kind == "file":
                    sender.transport.write(big)
                sending = asyncio.create_task(loop.sendfile(sender.transport, file))
                for _ in range(10):
                    await asyncio.sleep(0)
                assert not sending.done()
                receiver.transport.abort()
                with pytest.raises(ConnectionError):
                    await sending
            sender.transport.close()
            await sender.lost(), await receiver.lost()

    run(main)


def test_a_closing_transport_and_one_that_cannot(run, content_path):
    class Other(asyncio.Transport):
        def is_closing(self):
            return False

    async def main(loop):
        sender, receiver = await pair(loop)
        transport = sender.transport
        transport.close()
        with open(content_path, "rb") as file:
            with pytest.raises(RuntimeError, match="Transport is closing"):
                await loop.sendfile(transport, file)
            with pytest.raises(RuntimeError, match="sendfile is not supported for transport"):
                await loop.sendfile(Other(), file)
        await sender.lost(), await receiver.lost()

    run(main)


@pytest.mark.parametrize("kind", ["file", "bytes"])
def test_to_a_bare_socket(run, content_path, kind):
    async def main(loop):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            one = socket.create_connection(listener.getsockname())
            two, _ = listener.accept()
        with one, two:
            one.setblocking(False)
            two.setblocking(False)

            async def receive(size):
                data = bytearray()
                while len(data) < size:
                    data += await loop.sock_recv(two, 100_000)
                return data

            with open(content_path, "rb") if kind == "file" else io.BytesIO(CONTENT) as file:
                for offset, count in ((0, None), (777, 500_000)):
                    expected = CONTENT[offset : None if count is None else offset + count]
                    receiving = asyncio.create_task(receive(len(expected)))
                    assert await loop.sock_sendfile(one, file, offset, count) == len(expected)
                    assert await receiving == expected
                    assert file.tell() == offset + len(expected)
                if kind == "bytes":
                    with pytest.raises(asyncio.SendfileNotAvailableError):
                        await loop.sock_sendfile(one, file, fallback=False)
                # Cancelled: the file stands where the sending stopped, and the socket is free again.
                sending = asyncio.create_task(loop.sock_sendfile(one, file))
                for _ in range(3):
                    await asyncio.sleep(0)
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
                loop.remove_writer(one)

    run(main)


def test_wrong_arguments(run, content_path):
    async def main(loop):
        one, two = socket.socketpair()
        one.setblocking(False)
        with one, two, open(content_path, "rb") as file, open(os.devnull) as text:
            for arguments, error in (
                ((text,), ValueError),
                ((file, -1), ValueError),
                ((file, 1.5), TypeError),
                ((file, 0, 0), ValueError),
                ((file, 0, "1"), TypeError),
            ):
                with pytest.raises(error):
                    await loop.sock_sendfile(one, *arguments)
            with socket.socket(type=socket.SOCK_DGRAM) as datagram:
                datagram.setblocking(False)
                with pytest.raises(ValueError, match="only SOCK_STREAM"):
                    await loop.sock_sendfile(datagram, file)

    run(main)


def test_counts(ours, content_path):
    async def main(loop):
        sender, receiver = await pair(loop, family=socket.AF_INET)
        with open(content_path, "rb") as file:
            await loop.sendfile(sender.transport, file)
        await receiver.received(SIZE)
        assert loop._io_counters.bytes_out == loop._io_counters.bytes_in == SIZE
        sender.transport.close()
        await sender.lost(), await receiver.lost()

    ours(main)


def test_it_is_no_blocking_call_to_tools_that_look_for_them(ours, content_path, monkeypatch):
    """blockbuster refuses what is called while a loop runs, and knows the standard loop's own calls by their file."""
    genuine = os.sendfile

    def refusing(*args):
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        return genuine(*args)

    async def main(loop):
        sender, receiver = await pair(loop, family=socket.AF_INET)
        with open(content_path, "rb") as file:
            assert await loop.sendfile(sender.transport, file, 0, 1000) == 1000
        assert asyncio.get_running_loop() is loop
        assert await receiver.received(1000) == CONTENT[:1000]
        sender.transport.close()
        await sender.lost(), await receiver.lost()

    monkeypatch.setattr(os, "sendfile", refusing)
    monkeypatch.setitem(sys.modules, "blockbuster", types.ModuleType("blockbuster"))
    ours(main)
