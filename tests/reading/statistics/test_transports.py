"""What transports did: bytes, kinds, connections, backpressure, TLS handshakes, as series of the loop."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import ssl
import time
from asyncio.streams import FlowControlMixin
from typing import Any

import pytest

from tests.helpers.paths import CERTIFICATE
from traceloop.exporters.text.report import report
from traceloop.loop.event_loop import EventLoop
from traceloop.reading import read_loop


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording of its own for the test, as if the process had just begun."""
    from traceloop.recording import process

    monkeypatch.setattr(process, "_current", None)


@pytest.fixture
def loop() -> Any:
    loop = EventLoop()
    yield loop
    loop.close()


def series(loop: EventLoop) -> dict[str, float]:
    """Name and last label value -> value, of the transports' series."""
    found = {}
    for sample in read_loop(loop).samples():
        if "transport" in sample.name or "tls" in sample.name or "server" in sample.name:
            own = [value for name, value in sample.labels if name not in ("process", "loop")]
            found[" ".join([sample.name, *own])] = sample.value
    return found


def test_connections_and_open_transports_by_kind(loop: EventLoop) -> None:
    async def main() -> dict[str, float]:
        accepted: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda reader, writer: accepted.append(writer), "127.0.0.1", 0)
        pairs = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(3)]
        udp, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
        pairs[0][1].write(b"x" * 1000)
        while len(accepted) < 3 or series(loop)["asyncio_transport_bytes_total in"] < 1000:
            await asyncio.sleep(0.001)
        open_now = series(loop)
        udp.close()
        for writer in [*accepted, *(writer for _, writer in pairs)]:
            writer.close()
            await writer.wait_closed()
        server.close()
        return open_now

    found = loop.run_until_complete(main())
    assert found["asyncio_server_connections_total accepted"] == 3
    assert found["asyncio_server_connections_total refused"] == 0
    assert found["asyncio_transports_by_kind stream"] == 6
    assert found["asyncio_transports_by_kind datagram"] == 1
    assert found["asyncio_transports"] == 7
    assert found["asyncio_transport_bytes_total in"] == found["asyncio_transport_bytes_total out"] == 1000


def test_a_datagram_counts_by_its_bytes_whatever_its_items_are(loop: EventLoop) -> None:
    class Receiver(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.received: asyncio.Future[int] = loop.create_future()

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.received.set_result(len(data))

    async def main() -> int:
        there, receiver = await loop.create_datagram_endpoint(Receiver, ("127.0.0.1", 0))
        here, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=there.get_extra_info("sockname")
        )
        here.sendto(memoryview(array.array("d", range(100))))
        size = await receiver.received
        here.close()
        there.close()
        return size

    assert loop.run_until_complete(main()) == 800
    found = series(loop)
    assert found["asyncio_transport_bytes_total in"] == found["asyncio_transport_bytes_total out"] == 800


@pytest.mark.timing
def test_time_paused_by_a_slow_reader(loop: EventLoop) -> None:
    async def main() -> float:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        _, writer = await asyncio.open_connection(sock=ours)
        writer.write(b"x" * (4 << 20))
        await asyncio.sleep(0.2)
        lasting = series(loop)["asyncio_transport_paused_seconds_total"]
        drained = loop.create_task(writer.drain())
        while not drained.done():
            await loop.sock_recv(theirs, 1 << 20)
        await drained
        writer.transport.abort()
        theirs.close()
        await asyncio.sleep(0.05)
        return lasting

    lasting = loop.run_until_complete(main())
    assert 0.15 < lasting < 5
    over = series(loop)["asyncio_transport_paused_seconds_total"]
    assert over >= lasting
    loop.run_until_complete(asyncio.sleep(0.1))
    assert series(loop)["asyncio_transport_paused_seconds_total"] == over


def test_a_transport_closed_while_paused_ends_its_pause(loop: EventLoop) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        _, writer = await asyncio.open_connection(sock=ours)
        writer.write(b"x" * (4 << 20))
        await asyncio.sleep(0)
        assert loop._io_counters.paused == 1
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        theirs.close()

    loop.run_until_complete(main())
    before = series(loop)["asyncio_transport_paused_seconds_total"]
    loop.run_until_complete(asyncio.sleep(0.1))
    assert series(loop)["asyncio_transport_paused_seconds_total"] == before
    assert loop._io_counters.paused == 0


def test_a_pause_that_lasts_at_the_end_of_the_process_counts_up_to_it(loop: EventLoop) -> None:
    async def main() -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection(sock=ours)
        writer.write(b"x" * (4 << 20))
        return writer

    began = time.monotonic()
    ours, theirs = socket.socketpair()
    writer = loop.run_until_complete(main())
    statistics = read_loop(loop)
    (process,) = statistics.processes.values()
    ended = time.monotonic() + 1000
    statistics.detach(process, at=ended)
    (of_loop,) = process.loops.values()
    assert 1000 <= of_loop.paused_seconds() <= ended - began
    writer.transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    theirs.close()


@pytest.mark.timing
def test_time_paused_by_a_slow_reader_of_a_pipe(loop: EventLoop) -> None:
    async def main() -> None:
        for ends_by in ("reading", "abort"):
            read_end, write_end = os.pipe()
            os.set_blocking(read_end, False)
            transport, _ = await loop.connect_write_pipe(FlowControlMixin, os.fdopen(write_end, "wb", 0))
            transport.write(b"x" * (1 << 20))
            assert loop._io_counters.paused == 1
            await asyncio.sleep(0.1)
            if ends_by == "reading":
                while loop._io_counters.paused:
                    with contextlib.suppress(BlockingIOError):
                        os.read(read_end, 1 << 16)
                    await asyncio.sleep(0)
            transport.abort()
            await asyncio.sleep(0.01)
            os.close(read_end)
            assert loop._io_counters.paused == 0

    loop.run_until_complete(main())
    assert 0.2 <= series(loop)["asyncio_transport_paused_seconds_total"] < 20


def test_handshakes_that_never_end_well_are_counted(loop: EventLoop) -> None:
    """Clients that connect and say nothing (a health check, a port scan), or go away, or speak no TLS."""

    async def main() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        over = 0

        def failed(loop: asyncio.AbstractEventLoop, what: object) -> None:
            nonlocal over
            over += 1

        asyncio.get_running_loop().set_exception_handler(failed)
        server = await asyncio.start_server(
            lambda reader, writer: None, "127.0.0.1", 0, ssl=context, ssl_handshake_timeout=0.2
        )
        address = server.sockets[0].getsockname()
        silent = [await asyncio.open_connection(*address) for _ in range(3)]
        for reader, _ in silent:
            assert await reader.read() == b""  # the server has given up
        _, gone = await asyncio.open_connection(*address)
        gone.close()
        plain, writer = await asyncio.open_connection(*address)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await plain.read()
        for _, each in [*silent, (plain, writer)]:
            each.close()
        server.close()
        while loop._io_counters.tls_handshakes < 5:
            await asyncio.sleep(0.01)

    loop.run_until_complete(main())
    found = series(loop)
    assert found["asyncio_tls_handshakes_total"] == 5
    assert found["asyncio_tls_handshake_seconds_total"] >= 0.6


def test_tls_handshakes(loop: EventLoop) -> None:
    async def main() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(2))
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        for _ in range(2):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=client)
            writer.write(b"hi")
            assert await reader.readexactly(2) == b"hi"
            writer.close()
            await writer.wait_closed()
        server.close()

    loop.run_until_complete(main())
    found = series(loop)
    assert found["asyncio_tls_handshakes_total"] == 4  # two ends each
    assert 0 < found["asyncio_tls_handshake_seconds_total"] < 20
    text = report(read_loop(loop))
    assert "4 TLS handshakes" in text and "connections: 2 accepted" in text
