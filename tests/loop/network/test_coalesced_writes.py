"""Several writes of one callback leave together where the last callbacks did the same, and nothing is held for longer.

The kernel is asked what it has sent, and what it holds back: Linux's TCP_INFO and SIOCOUTQNSD.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import socket
import struct
import subprocess
import sys
import time

import pytest

from tests.helpers.cores import NATIVE
from tests.helpers.peers import Peer, pair

SIOCOUTQNSD = 0x894B
# Where struct tcp_info has tcpi_data_segs_out, and tcpi_total_retrans, which counts among them.
DATA_SEGMENTS_SENT, SENT_AGAIN = 156, 100
ANSWERS = 50

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what it has sent")


def not_sent(sock):
    """Bytes that the kernel has and has not sent."""
    return struct.unpack("i", fcntl.ioctl(sock.fileno(), SIOCOUTQNSD, bytes(4)))[0]


def segments(sock):
    """Segments with data that the kernel has sent."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return struct.unpack_from("I", info, DATA_SEGMENTS_SENT)[0] - struct.unpack_from("I", info, SENT_AGAIN)[0]


async def in_callback(loop, function, *args):
    """Runs ``function`` as a callback of its own; its result, once the callback has ended."""
    done = loop.create_future()

    def callback():
        try:
            done.set_result(function(*args))
        except BaseException as error:
            done.set_exception(error)

    loop.call_soon(callback)
    return await done


async def answered_in(loop, client, writes, times=3):
    """Lets ``times`` callbacks make as many writes each, so that the next one is expected to."""
    for _ in range(times):
        await in_callback(loop, lambda: [client.transport.write(b"x") for _ in range(writes)])


async def connected(loop):
    client, server = await pair(loop, Peer, Peer, socket.AF_INET)
    return client, server, client.transport.get_extra_info("socket")


async def close(client, server):
    client.transport.close()
    await client.lost(), await server.lost()


def test_head_and_body_leave_in_one_segment(run):
    async def main(loop):
        client, server, sock = await connected(loop)

        def answer():
            client.transport.write(b"head ")
            client.transport.write(b"body ")

        await answered_in(loop, client, 2)
        before = segments(sock)
        for _ in range(ANSWERS):
            await in_callback(loop, answer)
        sent = segments(sock) - before
        assert await server.received(6 + ANSWERS * 10) == b"x" * 6 + b"head body " * ANSWERS
        await close(client, server)
        return type(loop), sent

    loop_class, sent = run(main)
    in_c = NATIVE is not None and issubclass(loop_class, NATIVE.Scheduling)
    assert sent == (ANSWERS if in_c else 2 * ANSWERS)


def test_only_writes_to_tcp_are_held_back(run):
    """By what the socket says it is: few kernels at hand have SCTP, whose held writes nothing would send."""

    async def main(loop):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            connected = socket.create_connection(listener.getsockname())
            peer, _ = listener.accept()
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP, fileno=connected.detach())
        sock.setblocking(False)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock)

        def answer():
            transport.write(b"head")
            held = not_sent(sock)
            transport.write(b"body")
            return held

        held = [await in_callback(loop, answer) for _ in range(6)]
        transport.close()
        peer.close()
        return held

    assert run(main) == [0] * 6


def test_what_no_other_write_follows_is_sent_when_the_callback_ends(run):
    async def main(loop):
        client, server, sock = await connected(loop)
        for writes in (2, 3, 7):
            await answered_in(loop, client, writes)
            await in_callback(loop, client.transport.write, b"alone")
            assert not_sent(sock) == 0
        assert await server.received(3 * (2 + 3 + 7) + 15)
        await close(client, server)

    run(main)


def test_any_pattern_of_writes_arrives_and_is_sent_by_the_end_of_each_callback(run):
    async def main(loop):
        client, server, sock = await connected(loop)
        drawn = random.Random(1)
        expected = b""
        for number in range(400):
            count = drawn.choice((1, 2, 2, 2, 3, 8))  # fewer than the kernel sends without an acknowledgement
            pieces = [b"%d:%d " % (number, index) * drawn.choice((1, 1, 40)) for index in range(count)]
            expected += b"".join(pieces)
            await in_callback(loop, lambda pieces=pieces: [client.transport.write(piece) for piece in pieces])
            assert not_sent(sock) == 0
            assert await server.received(len(expected)) == expected
        await close(client, server)

    run(main)


def test_writes_that_come_late_are_not_waited_for(run):
    async def main(loop):
        client, server, sock = await connected(loop)

        def slow():
            client.transport.write(b"first")
            held = not_sent(sock)
            end = time.monotonic() + 0.002
            while time.monotonic() < end:
                pass
            client.transport.write(b"second")
            return held

        for _ in range(3):
            await in_callback(loop, slow)
        assert await in_callback(loop, slow) == 0
        await close(client, server)

    run(main)


@pytest.mark.parametrize("end", ["close", "write_eof", "abort", "exception"])
def test_what_was_written_arrives_however_the_callback_ends(run, end):
    async def main(loop):
        client, server, _ = await connected(loop)
        loop.set_exception_handler(lambda *_: None)
        await answered_in(loop, client, 2)

        def last():
            client.transport.write(b"last")
            if end == "exception":
                loop.call_soon(client.transport.close)
                raise RuntimeError("the callback fails")
            getattr(client.transport, end)()

        loop.call_soon(last)
        assert await server.received(10) == b"x" * 6 + b"last"
        client.transport.close()
        server.transport.close()
        await client.lost(), await server.lost()

    run(main)


def test_a_socket_that_the_program_has_corked_stays_corked(run):
    async def main(loop):
        client, server, sock = await connected(loop)
        await answered_in(loop, client, 2)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        await in_callback(loop, client.transport.write, b"alone")
        assert not_sent(sock) == 5
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        assert await server.received(11) == b"x" * 6 + b"alone"
        await close(client, server)

    run(main)


def test_more_transports_than_are_remembered_write_in_one_callback(run):
    async def main(loop):
        pairs = [await connected(loop) for _ in range(40)]
        for writes in (2, 2, 2, 1):

            def write(writes=writes):
                for client, _, _ in pairs * writes:
                    client.transport.write(b"x")

            await in_callback(loop, write)
            assert [not_sent(sock) for _, _, sock in pairs] == [0] * len(pairs)
        for client, server, _ in pairs:
            assert await server.received(7) == b"x" * 7
            await close(client, server)

    run(main)


PROGRAM = """
import asyncio, os, socket, sys
from traceloop import EventLoop

async def main():
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=int(sys.argv[1])))
    loop = asyncio.get_running_loop()
    def answer(last):
        writer.write(b"last" if last else b"x")
        if last:
            os._exit(0)
        writer.write(b"x")
    for last in (False, False, False, True):
        loop.call_soon(answer, last)
        await asyncio.sleep(0)

with asyncio.Runner(loop_factory=EventLoop) as runner:
    runner.run(main())
"""


def test_nothing_is_lost_with_the_process():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    with ours:
        with theirs:
            number = theirs.fileno()
            program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(number)], pass_fds=[number])
        ours.settimeout(60)
        received = b""
        while piece := ours.recv(100):
            received += piece
        assert program.wait(60) == os.EX_OK
    assert received == b"x" * 6 + b"last"
