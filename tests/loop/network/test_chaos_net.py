"""Peers and kernels that misbehave: resets, stalls, single bytes, descriptors used up. Case by case on both loops."""

import asyncio
import errno
import os
import resource
import selectors
import socket
import struct

import pytest

from tests.helpers.peers import EchoPeer, KeepOpenPeer, Peer, pair, raw_pair
from traceloop.loop.event_loop import EventLoop


def reset(sock):
    """Closes with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_a_reset_while_reading(run):
    async def main(loop):
        reports = []
        loop.set_exception_handler(lambda _, context: reports.append(context))
        peer, sock = await raw_pair(loop)
        sock.send(b"half a messa")
        await peer.received(12)
        reset(sock)
        assert isinstance(await peer.lost(), ConnectionResetError)
        assert "eof" not in peer.names()
        # The network's faults are no faults of the program.
        assert not reports

    run(main)


def test_a_reset_while_writing(run):
    async def main(loop):
        reports = []
        loop.set_exception_handler(lambda _, context: reports.append(context))
        peer, sock = await raw_pair(loop)
        transport = peer.transport
        transport.pause_reading()
        while "pause" not in peer.names():
            transport.write(b"x" * 100_000)
        reset(sock)
        assert isinstance(await peer.lost(), (ConnectionResetError, BrokenPipeError))
        assert not reports
        # Writes that come too late are dropped, and said so once they are many.
        for _ in range(10):
            transport.write(b"late")
            transport.writelines([])

    run(main)


def test_late_writes_are_logged_from_the_fifth_on(run, caplog):
    async def main(loop):
        peer, sock = await raw_pair(loop)
        transport = peer.transport
        transport.abort()
        for _ in range(8):
            transport.write(b"late")
        await peer.lost()
        sock.close()

    run(main)
    texts = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    assert texts == ["socket.send() raised exception."] * 4


def test_single_bytes(run):
    async def main(loop):
        client, server = await pair(loop, Peer, EchoPeer, socket.AF_INET)
        message = bytes(range(256))
        for byte in message:
            client.transport.write(bytes([byte]))
            await asyncio.sleep(0)
        assert await client.received(256) == message
        client.transport.close()
        await client.lost(), await server.lost()

    run(main)


def test_a_peer_that_half_closes_and_then_stalls(run):
    async def main(loop):
        peer, sock = await raw_pair(loop, KeepOpenPeer)
        sock.send(b"request")
        sock.shutdown(socket.SHUT_WR)
        await peer.until(lambda notes: "eof" in notes.names())
        # End of file stays readable: it must be told once, and not keep the loop busy.
        polls = 0
        select = loop._selector.select
        for _ in range(20):
            await asyncio.sleep(0)
            polls += len(select(0))
        assert peer.names().count("eof") == 1
        assert polls == 0
        peer.transport.write(b"response")
        assert await loop.sock_recv(sock, 100) == b"response"
        peer.transport.close()
        await peer.lost()
        sock.close()

    run(main)


def test_a_peer_that_does_not_read_holds_up_nobody_else(run):
    async def main(loop):
        stalled, sock = await raw_pair(loop)
        stalled.transport.write(b"x" * 20_000_000)
        assert stalled.transport.get_write_buffer_size() > 0
        client, server = await pair(loop, Peer, EchoPeer)
        for count in range(1, 20):
            client.transport.write(b"y")
            await client.received(count)
        stalled.transport.abort()
        assert await stalled.lost() is None
        assert stalled.transport.get_write_buffer_size() == 0
        client.transport.close()
        await client.lost(), await server.lost()
        sock.close()

    run(main)


def test_closed_in_every_callback(run):
    """close() and abort() from within the protocol's methods, also twice."""

    async def main(loop):
        for method in ("close", "abort"):
            for moment in ("connection_made", "data_received", "pause_writing", "resume_writing"):

                class Closing(Peer):
                    pass

                def act(self, *args, _moment=moment, _method=method):
                    getattr(Peer, _moment)(self, *args)
                    getattr(self.transport, _method)()
                    getattr(self.transport, _method)()

                setattr(Closing, moment, act)
                peer, sock = await raw_pair(loop, Closing)
                if moment == "data_received":
                    sock.send(b"x")
                elif moment != "connection_made":
                    while "pause" not in peer.names() and not peer.transport.is_closing():
                        peer.transport.write(b"x" * 100_000)
                    while not peer.transport.is_closing() or "lost" not in peer.names():
                        try:
                            if not await loop.sock_recv(sock, 1_000_000):
                                break
                        except ConnectionError:
                            break
                await peer.lost()
                assert peer.names().count("lost") == 1
                sock.close()

    run(main)


def accept_until_exhausted(loop_factory, monkeypatch):
    """What a server tells while there are no descriptors, and that it serves again afterwards."""
    monkeypatch.setattr("asyncio.constants.ACCEPT_RETRY_DELAY", 0.05)
    reports = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reports.append(context))
        server = await loop.create_server(EchoPeer, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        client = socket.socket()
        client.setblocking(False)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        hoard = []
        try:
            while True:
                try:
                    hoard.append(os.open(os.devnull, os.O_RDONLY))
                except OSError as exc:
                    assert exc.errno == errno.EMFILE
                    break
            await loop.sock_connect(client, address)
            while not reports:
                await asyncio.sleep(0)
            # It backs off: no busy loop over a socket that stays ready.
            assert not [key for key, _ in loop._selector.select(0) if key.fd == server.sockets[0].fileno()]
        finally:
            for fd in hoard:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await loop.sock_sendall(client, b"still there?")
        assert await loop.sock_recv(client, 100) == b"still there?"
        client.close()
        server.close()
        await server.wait_closed()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(main(), 120))
    return reports


def test_no_descriptors_left(loop_factory, monkeypatch):
    reports = accept_until_exhausted(loop_factory, monkeypatch)
    # The standard loop takes the listener up again once for each try that failed, those after the server's end too.
    reports = [report for report in reports if "socket" in report]
    assert {report["message"] for report in reports} == {"socket.accept() out of system resource"}
    assert {report["exception"].errno for report in reports} == {errno.EMFILE}
    assert all(isinstance(report["socket"], asyncio.trsock.TransportSocket) for report in reports)


def test_no_descriptors_left_is_told_once_a_try(monkeypatch):
    # The standard loop tries `backlog` times in a row, and reports each.
    assert len(accept_until_exhausted(EventLoop, monkeypatch)) == 1


def test_a_server_closed_while_it_backs_off(ours, monkeypatch):
    monkeypatch.setattr("asyncio.constants.ACCEPT_RETRY_DELAY", 0.01)

    async def main(loop):
        reports = []
        loop.set_exception_handler(lambda _, context: reports.append(context["message"]))
        listener = NoDescriptors(socket.socket())
        server = await loop.create_server(EchoPeer, sock=listener)
        with socket.create_connection(listener.getsockname()):
            while not reports:
                await asyncio.sleep(0)
        server.close()
        await asyncio.sleep(0.05)
        assert reports == ["socket.accept() out of system resource"]
        assert loop._io_counters.refused == 1

    class NoDescriptors:
        type = socket.SOCK_STREAM

        def __init__(self, sock):
            sock.bind(("127.0.0.1", 0))
            self._sock = sock

        def __getattr__(self, name):
            return getattr(self._sock, name)

        def accept(self):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    ours(main)


def test_a_selector_that_fails(loop_factory):
    class Failing(selectors.DefaultSelector):
        fail = False

        def select(self, timeout=None):
            if self.fail:
                raise OSError(errno.EBADF, "the selector fails")
            return super().select(timeout)

    selector = Failing()
    loop = loop_factory(selector)
    try:
        loop.call_soon(setattr, selector, "fail", True)
        with pytest.raises(OSError, match="the selector fails"):
            loop.run_forever()
        assert not loop.is_running()
        selector.fail = False
        assert loop.run_until_complete(asyncio.sleep(0, "recovered")) == "recovered"
    finally:
        loop.close()


def test_a_base_exception_in_a_protocol_ends_the_run_and_not_the_loop(loop_factory):
    loop = loop_factory()

    class Interrupting(Peer):
        def data_received(self, data):
            raise KeyboardInterrupt

    try:
        peer, sock = loop.run_until_complete(raw_pair(loop, Interrupting))
        sock.send(b"x")
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.sleep(10))
        assert not peer.transport.is_closing()
        peer.transport.close()
        loop.run_until_complete(peer.lost())
        sock.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        loop.close()


def test_connections_leave_nothing_behind(ours):
    async def main(loop):
        server = await loop.create_server(EchoPeer, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()

        async def one():
            transport, peer = await loop.create_connection(Peer, *address)
            transport.write(b"x")
            await peer.received(1)
            transport.close()
            await peer.lost()

        await one()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(300):
            await one()
        while loop._io_counters.open_transports:
            await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) <= before
        assert not loop._transports
        assert loop._io_counters.accepted == 301
        server.close()
        await server.wait_closed()
        assert len(loop._selector.get_map()) == 1

    ours(main)
