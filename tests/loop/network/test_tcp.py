"""Stream transports and connections."""

import array
import asyncio
import gc
import os
import socket
import sys
import warnings
import weakref

import pytest

from tests.helpers.peers import BufferedPeer, EchoPeer, KeepOpenPeer, Peer, pair, raw_pair

DATA = bytes(range(256)) * 64


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_echo_to_and_fro(run, family):
    async def main(loop):
        client, server = await pair(loop, Peer, EchoPeer, family)
        for round_ in range(50):
            client.transport.write(b"%d," % round_)
            await client.received(len(server.data))
        expected = b"".join(b"%d," % n for n in range(50))
        assert await client.received(len(expected)) == expected
        client.transport.close()
        assert await server.lost() is None
        assert await client.lost() is None
        assert server.names()[-2:] == ["eof", "lost"]

    run(main)


def test_more_than_the_kernel_takes_arrives_whole_and_the_writer_is_told_to_wait(run):
    async def main(loop):
        sender, receiver = await pair(loop)
        receiver.transport.pause_reading()
        sent = 0
        while "pause" not in sender.names():
            sender.transport.write(DATA)
            sent += len(DATA)
        assert sender.transport.get_write_buffer_size() > sender.transport.get_write_buffer_limits()[1]
        receiver.transport.resume_reading()
        await sender.until(lambda notes: "resume" in notes.names())
        assert sender.transport.get_write_buffer_size() <= sender.transport.get_write_buffer_limits()[0]
        received = await receiver.received(sent)
        assert received == DATA * (sent // len(DATA))
        assert sender.transport.get_write_buffer_size() == 0
        sender.transport.close()
        receiver.transport.close()
        await sender.lost(), await receiver.lost()

    run(main)


def test_close_sends_what_was_written_and_abort_does_not(run):
    async def main(loop):
        for method, whole in (("close", True), ("abort", False)):
            sender, receiver = await pair(loop)
            receiver.transport.pause_reading()
            sender.transport.write(DATA * 200)
            assert sender.transport.get_write_buffer_size() > 0
            getattr(sender.transport, method)()
            assert sender.transport.is_closing()
            receiver.transport.resume_reading()
            await receiver.lost(), await sender.lost()
            assert (len(receiver.data) == len(DATA) * 200) is whole
            assert bytes(receiver.data) == (DATA * 200)[: len(receiver.data)]

    run(main)


def test_half_close_both_ways(run):
    async def main(loop):
        one, two = await pair(loop, KeepOpenPeer, KeepOpenPeer, socket.AF_INET)
        one.transport.write(b"question")
        assert one.transport.can_write_eof()
        one.transport.write_eof()
        one.transport.write_eof()
        with pytest.raises(RuntimeError, match="after write_eof"):
            one.transport.write(b"more")
        with pytest.raises(RuntimeError, match="after write_eof"):
            one.transport.writelines([b"more"])
        await two.until(lambda notes: "eof" in notes.names())
        assert bytes(two.data) == b"question"
        two.transport.write(b"answer")
        assert await one.received(6) == b"answer"
        two.transport.close()
        await one.until(lambda notes: "eof" in notes.names())
        assert not one.transport.is_closing()
        one.transport.close()
        await one.lost(), await two.lost()

    run(main)


def test_eof_waits_for_what_is_queued(run):
    async def main(loop):
        sender, receiver = await pair(loop)
        receiver.transport.pause_reading()
        sender.transport.write(DATA * 100)
        assert sender.transport.get_write_buffer_size() > 0
        sender.transport.write_eof()
        receiver.transport.resume_reading()
        await receiver.lost()
        assert bytes(receiver.data) == DATA * 100
        assert await sender.lost() is None

    run(main)


def test_a_buffered_protocol_reads_into_its_own_buffer(run):
    async def main(loop):
        sender, receiver = await pair(loop, Peer, BufferedPeer)
        sender.transport.write(DATA)
        assert await receiver.received(len(DATA)) == DATA
        # As in start_tls: the kind of protocol changes while the reader stays.
        plain = Peer()
        receiver.transport.set_protocol(plain)
        assert receiver.transport.get_protocol() is plain
        sender.transport.write(b"rest")
        assert await plain.received(4) == b"rest"
        sender.transport.close()
        receiver.transport.close()
        await plain.lost(), await sender.lost()

    run(main)


def test_an_empty_buffer_is_a_fatal_error(run):
    async def main(loop):
        reports = []
        loop.set_exception_handler(lambda _, context: reports.append(context))
        sender, receiver = await pair(loop, Peer, lambda: BufferedPeer(0))
        sender.transport.write(b"x")
        assert isinstance(await receiver.lost(), RuntimeError)
        assert [report["message"] for report in reports] == ["Fatal error: protocol.get_buffer() call failed."]
        assert reports[0]["protocol"] is receiver
        await sender.lost()

    run(main)


@pytest.mark.parametrize("method", ["data_received", "eof_received"])
def test_a_protocol_that_raises_ends_its_connection(run, method):
    async def main(loop):
        reports = []
        loop.set_exception_handler(lambda _, context: reports.append(context))

        class Broken(Peer):
            pass

        def fail(self, *args):
            raise LookupError(method)

        setattr(Broken, method, fail)
        sender, receiver = await pair(loop, Peer, Broken)
        transport = receiver.transport
        sender.transport.write(b"x")
        if method == "eof_received":
            sender.transport.write_eof()
        error = await receiver.lost()
        assert isinstance(error, LookupError)
        (report,) = reports
        assert report["message"] == f"Fatal error: protocol.{method}() call failed."
        assert report["exception"] is error and report["transport"] is transport
        sender.transport.close()
        await sender.lost()

    run(main)


def test_writelines(run):
    async def main(loop):
        sender, receiver = await pair(loop)
        # More pieces than one sendmsg takes, and kinds of bytes.
        pieces = [bytearray(b"%d " % n) if n % 2 else memoryview(b"%d " % n) for n in range(3000)]
        expected = b"".join(pieces)
        sender.transport.writelines(pieces)
        assert await receiver.received(len(expected)) == expected
        receiver.data.clear()
        receiver.transport.pause_reading()
        while not sender.transport.get_write_buffer_size():
            sender.transport.writelines([DATA, b"-", DATA])
            expected = expected[:0]
        sender.transport.writelines([b"the", b" ", b"end"])
        receiver.transport.resume_reading()
        await receiver.until(lambda notes: notes.data.endswith(b"the end"))
        assert bytes(receiver.data[: 2 * len(DATA) + 1]) == DATA + b"-" + DATA
        with pytest.raises(TypeError):
            sender.transport.writelines(["text"])
        sender.transport.writelines([])
        sender.transport.close()
        await sender.lost(), await receiver.lost()

    run(main)


def test_a_mutable_buffer_can_be_used_again_at_once(ours):
    async def main(loop):
        for write in ("write", "writelines"):
            sender, receiver = await pair(loop)
            receiver.transport.pause_reading()
            while not sender.transport.get_write_buffer_size():
                sender.transport.write(DATA)
            buffer = bytearray(b"precious")
            getattr(sender.transport, write)(buffer if write == "write" else [buffer])
            buffer[:] = b"XXXXXXXX"
            buffer.extend(b"resized")
            sender.transport.close()
            receiver.transport.resume_reading()
            await receiver.lost()
            assert receiver.data.endswith(b"precious"), write
            await sender.lost()

    ours(main)


def test_views_of_wider_items_and_empty_pieces(ours):
    async def main(loop):
        sender, receiver = await pair(loop)
        numbers = array.array("I", range(1000))
        receiver.transport.pause_reading()
        while not sender.transport.get_write_buffer_size():
            sender.transport.write(DATA)
        receiver.data.clear()
        sender.transport.write(memoryview(numbers))
        sender.transport.writelines([b"", memoryview(numbers), b""])
        sender.transport.close()
        receiver.transport.resume_reading()
        await receiver.lost(), await sender.lost()
        assert receiver.data.endswith(numbers.tobytes() * 2)

    ours(main)


def test_wrong_arguments(run):
    async def main(loop):
        sender, receiver = await pair(loop)
        transport = sender.transport
        for wrong in ("text", 3, None):
            with pytest.raises(TypeError):
                transport.write(wrong)
        with pytest.raises(ValueError):
            transport.set_write_buffer_limits(high=1, low=2)
        transport.set_write_buffer_limits(low=10)
        assert transport.get_write_buffer_limits() == (10, 40)
        transport.set_write_buffer_limits(high=100)
        assert transport.get_write_buffer_limits() == (25, 100)
        transport.set_write_buffer_limits()
        assert transport.get_write_buffer_limits() == (16384, 65536)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(transport.get_extra_info("socket"), print)
        with pytest.raises(ValueError, match="Invalid file object"):
            loop.add_reader(object(), print)
        with pytest.raises(ValueError, match="no sock"):
            await loop.create_connection(Peer)
        with pytest.raises(ValueError, match="server_hostname is only meaningful"):
            await loop.create_connection(Peer, "localhost", 1, server_hostname="x")
        with pytest.raises(ValueError, match="only meaningful with ssl"):
            await loop.create_connection(Peer, "localhost", 1, ssl_handshake_timeout=1)
        with pytest.raises(ValueError, match="can not be specified at the same time"):
            await loop.create_connection(Peer, "localhost", 1, sock=socket.socket())
        transport.close()
        await sender.lost(), await receiver.lost()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        run(main)
        gc.collect()


def test_pausing_and_resuming_reading(run):
    async def main(loop):
        sender, receiver = await pair(loop)
        transport = receiver.transport
        assert transport.is_reading()
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        sender.transport.write(b"later")
        sender.transport.write(b" on")
        for _ in range(5):
            await asyncio.sleep(0)
        assert not receiver.data
        transport.resume_reading()
        transport.resume_reading()
        assert await receiver.received(8) == b"later on"
        transport.close()
        assert not transport.is_reading()
        transport.resume_reading()
        await receiver.lost(), await sender.lost()

    run(main)


def test_what_is_known_of_a_connection(run):
    async def main(loop):
        client, server = await pair(loop, family=socket.AF_INET)
        info = client.transport.get_extra_info
        assert info("sockname") == server.transport.get_extra_info("peername")
        assert info("peername") == server.transport.get_extra_info("sockname")
        assert info("socket").getsockname() == info("sockname")
        assert info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert info("nothing", 5) == 5
        text = repr(client.transport)
        assert text.startswith("<_SelectorSocketTransport fd=")
        assert text.endswith("read=polling write=<idle, bufsize=0>>")
        client.transport.close()
        assert " closing " in repr(client.transport)
        transport = client.transport
        await client.lost(), await server.lost()
        await asyncio.sleep(0)
        assert repr(transport).startswith("<_SelectorSocketTransport closed fd=")

    run(main)


def test_a_forgotten_transport_warns_and_frees_its_socket(run):
    async def main(loop):
        peer, other = await raw_pair(loop)
        fd = peer.transport._sock_fd
        reference = weakref.ref(peer.transport)
        loop._remove_reader(fd)
        # The socket warns too where the collector happens to come to it first.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            peer.transport = None
            gc.collect()
        texts = [str(warning.message) for warning in caught]
        assert any(text.startswith("unclosed transport <_SelectorSocketTransport fd=") for text in texts), texts
        del caught  # the warning refers to its source
        gc.collect()
        assert reference() is None
        with pytest.raises(OSError):
            os.fstat(fd)
        other.close()

    run(main)


def test_nothing_is_kept_after_a_connection(run):
    async def main(loop):
        class Payload(bytes):
            pass

        client, server = await pair(loop)
        payload = Payload(b"x" * 10)
        client.transport.write(payload)
        await server.received(10)
        references = [weakref.ref(thing) for thing in (client, client.transport, server, server.transport)]
        client.transport.close()
        await client.lost(), await server.lost()
        await asyncio.sleep(0)
        assert sys.getrefcount(payload) == sys.getrefcount(Payload(b"y"))
        del client, server
        gc.collect()
        assert [reference() for reference in references] == [None] * 4

    run(main)


def test_the_exception_of_a_failed_connection_is_in_no_cycle(ours):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()

    async def main(loop):
        gc.collect()
        gc.disable()
        try:
            for options in ({}, {"happy_eyeballs_delay": 1.0}, {"all_errors": True}):
                try:
                    await loop.create_connection(Peer, *address, **options)
                except (OSError, ExceptionGroup):
                    pass
                else:
                    raise AssertionError("connected to a closed port")
                # A cycle stays. What the watchdog looks at just now, on a busy machine, is let go.
                for _ in range(300):
                    left = [thing for thing in gc.get_objects() if type(thing) is ConnectionRefusedError]
                    if not left or "happy_eyeballs_delay" in options:
                        break
                    del left
                    await asyncio.sleep(0.01)
                left = [thing for thing in gc.get_objects() if type(thing) is ConnectionRefusedError]
                # The race's own tasks keep theirs on some versions.
                assert not left or "happy_eyeballs_delay" in options, options
                del left
                gc.collect()
        finally:
            gc.enable()

    ours(main)


def test_counters(ours):
    async def main(loop):
        before = loop._io_counters.bytes_in, loop._io_counters.bytes_out
        client, server = await pair(loop, Peer, EchoPeer)
        assert loop._io_counters.stream == 2 == loop._io_counters.open_transports
        client.transport.write(DATA)
        client.transport.writelines([DATA, DATA])
        await client.received(3 * len(DATA))
        assert loop._io_counters.bytes_in - before[0] == 6 * len(DATA)
        assert loop._io_counters.bytes_out - before[1] == 6 * len(DATA)
        client.transport.close()
        await client.lost(), await server.lost()
        await asyncio.sleep(0)
        assert loop._io_counters.open_transports == 0

    ours(main)
