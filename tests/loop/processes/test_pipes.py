"""Pipe transports, on both loops."""

import asyncio
import gc
import os
import socket
import sys
import tempfile
from asyncio import unix_events

import pytest

from traceloop.loop.event_loop import EventLoop


class Recorder(asyncio.Protocol):
    """Notes what it is told; ``until`` waits for one of these."""

    def __init__(self):
        self.events = []
        self.data = b""
        self.changed = asyncio.Event()

    def _note(self, name, *args):
        self.events.append((name, *args))
        self.changed.set()

    def connection_made(self, transport):
        self.transport = transport
        self._note("made")

    def data_received(self, data):
        self.data += data
        self.changed.set()

    def eof_received(self):
        self._note("eof")

    def connection_lost(self, exc):
        self._note("lost", type(exc))

    def pause_writing(self):
        self._note("pause")

    def resume_writing(self):
        self._note("resume")

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
def run(loop_factory):
    def run(coroutine_function):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(coroutine_function(runner.get_loop()))

    return run


@pytest.fixture
def tells_whether_it_reads(loop_factory):
    """The first releases of 3.11 lack it in the standard loop's pipes, and with it pausing within connection_made."""
    if loop_factory is not EventLoop and not hasattr(unix_events._UnixReadPipeTransport, "_add_reader"):
        pytest.skip("the standard loop of this release cannot")


@pytest.fixture
def pipe():
    r, w = os.pipe()
    with open(r, "rb", 0) as reading, open(w, "wb", 0) as writing:
        yield reading, writing


@pytest.mark.usefixtures("tells_whether_it_reads")
def test_reading(run, pipe):
    reading, writing = pipe

    async def main(loop):
        transport, protocol = await loop.connect_read_pipe(Recorder, reading)
        assert protocol.events == [("made",)]
        assert transport.get_extra_info("pipe") is reading
        assert transport.get_protocol() is protocol
        assert transport.is_reading() and not transport.is_closing()
        for byte in b"one at a time":
            writing.write(bytes([byte]))
            await protocol.until(lambda byte=byte: protocol.data.endswith(bytes([byte])))
        assert protocol.data == b"one at a time"
        writing.close()
        await protocol.until(lambda: ("lost", type(None)) in protocol.events)
        assert protocol.events == [("made",), ("eof",), ("lost", type(None))]
        assert reading.closed

    run(main)


def test_reading_more_than_a_buffer_and_the_end_at_once(run, pipe):
    reading, writing = pipe
    data = os.urandom(64 * 1024)

    async def main(loop):
        writing.write(data)
        writing.close()
        _, protocol = await loop.connect_read_pipe(Recorder, reading)
        await protocol.until(lambda: ("lost", type(None)) in protocol.events)
        assert protocol.data == data

    run(main)


@pytest.mark.usefixtures("tells_whether_it_reads")
def test_pausing(run, pipe):
    reading, writing = pipe

    async def main(loop):
        transport, protocol = await loop.connect_read_pipe(Recorder, reading)
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        writing.write(b"waits")
        for _ in range(5):
            await asyncio.sleep(0)
        assert protocol.data == b""
        transport.resume_reading()
        transport.resume_reading()
        await protocol.until(lambda: protocol.data == b"waits")
        transport.close()
        transport.close()
        assert transport.is_closing()
        transport.resume_reading()
        transport.pause_reading()
        await protocol.until(lambda: ("lost", type(None)) in protocol.events)

    run(main)


@pytest.mark.usefixtures("tells_whether_it_reads")
def test_pausing_in_connection_made(run, pipe):
    reading, writing = pipe

    class Pausing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async def main(loop):
        writing.write(b"data")
        transport, protocol = await loop.connect_read_pipe(Pausing, reading)
        for _ in range(5):
            await asyncio.sleep(0)
        assert protocol.data == b""
        transport.resume_reading()
        await protocol.until(lambda: protocol.data == b"data")
        transport.close()

    run(main)


def test_writing_with_backpressure(run, pipe):
    reading, writing = pipe
    data = os.urandom(1024 * 1024)

    async def main(loop):
        transport, protocol = await loop.connect_write_pipe(Recorder, writing)
        transport.set_write_buffer_limits(high=100_000, low=10_000)
        transport.write(b"")
        transport.write(data[:10])
        transport.write(bytearray(data[10:500_000]))
        transport.write(memoryview(data)[500_000:])
        assert transport.get_write_buffer_size() > 900_000
        assert protocol.events == [("made",), ("pause",)]
        received = await asyncio.to_thread(reading.read, 1000)
        while len(received) < len(data):
            received += await asyncio.to_thread(reading.read, 65536)
        await protocol.until(lambda: ("resume",) in protocol.events)
        assert received == data
        assert transport.get_write_buffer_size() == 0
        transport.close()
        await protocol.until(lambda: ("lost", type(None)) in protocol.events)
        assert reading.read() == b""

    run(main)


def test_close_writes_what_waits(run, pipe):
    reading, writing = pipe

    async def main(loop):
        transport, protocol = await loop.connect_write_pipe(Recorder, writing)
        transport.write(b"x" * 300_000)
        assert transport.can_write_eof()
        transport.write_eof()
        transport.write(b"too late")
        assert len(await asyncio.to_thread(reading.readall)) == 300_000
        await protocol.until(lambda: ("lost", type(None)) in protocol.events)

    run(main)


def test_abort_drops_what_waits(run, pipe):
    reading, writing = pipe

    async def main(loop):
        transport, protocol = await loop.connect_write_pipe(Recorder, writing)
        transport.write(b"x" * 300_000)
        transport.abort()
        await protocol.until(lambda: ("lost", type(None)) in protocol.events)
        assert len(reading.readall()) < 300_000

    run(main)


def test_the_reader_goes_away(run, pipe):
    reading, writing = pipe

    async def main(loop):
        _, protocol = await loop.connect_write_pipe(Recorder, writing)
        reading.close()
        # With nothing to write: only the poll tells.
        await protocol.until(lambda: ("lost", type(None)) in protocol.events)

    run(main)


def test_the_reader_goes_away_with_data_waiting(run, pipe):
    reading, writing = pipe

    async def main(loop):
        transport, protocol = await loop.connect_write_pipe(Recorder, writing)
        transport.write(b"x" * 300_000)
        reading.close()
        await protocol.until(lambda: ("lost", BrokenPipeError) in protocol.events)
        assert transport.is_closing()

    run(main)


def test_writes_after_the_end_are_logged(run, pipe, caplog):
    reading, writing = pipe

    async def main(loop):
        transport, protocol = await loop.connect_write_pipe(Recorder, writing)
        reading.close()
        await protocol.until(lambda: ("lost", type(None)) in protocol.events)
        for _ in range(10):
            transport.write(b"x")
        assert "pipe closed by peer or os.write(pipe, data) raised exception." in caplog.messages

    run(main)


def test_sockets_and_regular_files(run):
    async def main(loop):
        a, b = socket.socketpair()
        with a, b:
            transport, protocol = await loop.connect_read_pipe(Recorder, a)
            b.send(b"over a socket")
            await protocol.until(lambda: protocol.data == b"over a socket")
            transport.close()
            await protocol.until(lambda: ("lost", type(None)) in protocol.events)
        with tempfile.TemporaryFile() as file:
            with pytest.raises(ValueError, match=r"Pipe transport is for pipes/sockets only"):
                await loop.connect_read_pipe(Recorder, file)
            with pytest.raises(ValueError, match="only for pipes, sockets and character devices"):
                await loop.connect_write_pipe(Recorder, file)
            assert not file.closed

    run(main)


def test_an_error_of_the_protocol_closes_nothing_twice(run, pipe):
    reading, _writing = pipe
    contexts = []

    class Failing(Recorder):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise ValueError("on purpose")

    async def main(loop):
        loop.set_exception_handler(lambda _, context: contexts.append(context))
        transport, protocol = await loop.connect_read_pipe(Failing, reading)
        transport.close()
        await protocol.until(lambda: ("lost", type(None)) in protocol.events)
        await asyncio.sleep(0)
        assert reading.closed
        assert transport.get_protocol() is None

    run(main)
    assert [str(context["exception"]) for context in contexts] == ["on purpose"]


def test_a_cancelled_connection_closes_the_pipe(run, pipe):
    reading, _ = pipe

    async def main(loop):
        task = asyncio.ensure_future(loop.connect_read_pipe(Recorder, reading))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(3):
            await asyncio.sleep(0)
        assert reading.closed

    run(main)


def test_repr(run, pipe):
    reading, writing = pipe

    async def main(loop):
        reader, _ = await loop.connect_read_pipe(Recorder, reading)
        writer, _ = await loop.connect_write_pipe(Recorder, writing)
        assert repr(reader).endswith(f"ReadPipeTransport fd={reading.fileno()} polling>")
        assert repr(writer).endswith(f"WritePipeTransport fd={writing.fileno()} idle bufsize=0>")
        fd = reading.fileno()
        reader.close()
        writer.close()
        assert "closing" in repr(reader) and "closing" in repr(writer)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert repr(reader).endswith(f"ReadPipeTransport closed fd={fd} closed>")

    run(main)


def test_an_unclosed_transport_warns(run, pipe):
    _reading, writing = pipe

    async def main(loop):
        transport, _ = await loop.connect_write_pipe(Recorder, writing)
        loop._remove_reader(writing.fileno())
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            del transport, _
            gc.collect()
        assert writing.closed

    run(main)


def test_debug_mode_logs(run, pipe, caplog):
    reading, writing = pipe
    caplog.set_level("DEBUG", "asyncio")

    async def main(loop):
        loop.set_debug(True)
        transport, protocol = await loop.connect_read_pipe(Recorder, reading)
        assert any(text.startswith(f"Read pipe {reading.fileno()} connected: (") for text in caplog.messages)
        transport.pause_reading()
        transport.resume_reading()
        assert any(text.endswith("pauses reading") for text in caplog.messages)
        assert any(text.endswith("resumes reading") for text in caplog.messages)
        writing.close()
        await protocol.until(lambda: ("lost", type(None)) in protocol.events)
        assert any(text.endswith("was closed by peer") for text in caplog.messages)

    run(main)


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_SEQPACKET"])
def test_a_message_of_a_socket_arrives_whole(run, kind):
    """A socket may be read as a pipe; what is not read of a message of SOCK_SEQPACKET is lost."""
    if sys.platform != "linux" and kind == "SOCK_SEQPACKET":
        pytest.skip("there is no SOCK_SEQPACKET")
    data = b"x" * 100_000

    async def main(loop):
        received = bytearray()
        whole = loop.create_future()

        class Collect(asyncio.Protocol):
            def data_received(self, piece):
                received.extend(piece)
                if len(received) >= len(data):
                    whole.set_result(None)

            def connection_lost(self, exc):
                if not whole.done():
                    whole.set_result(None)

        one, two = socket.socketpair(socket.AF_UNIX, getattr(socket, kind))
        transport, _ = await loop.connect_read_pipe(Collect, one)
        two.sendall(data)
        two.close()
        await whole
        assert len(received) == len(data)
        transport.close()

    run(main)
