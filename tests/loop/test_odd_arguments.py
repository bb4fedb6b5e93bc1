"""Arguments that make little sense: answered as the standard loop answers them."""

import asyncio
import io
import socket
import sys

import pytest

from tests.helpers.callbacks import spin
from tests.helpers.peers import Peer, pair


@pytest.mark.parametrize("context", [None, 5, object(), b"x", (), {}, {"task": None}, {"message": 5}])
def test_whatever_is_told_to_the_exception_handler_is_logged(loop, caplog, context):
    loop.call_exception_handler(context)
    assert len(caplog.records) == 1
    loop.set_exception_handler(lambda _, context: context["nothing"])
    loop.call_exception_handler(context)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("hosts", [[], (), {}])
def test_a_server_of_no_hosts(run, hosts):
    async def main(loop):
        if sys.version_info >= (3, 13):
            with pytest.raises(OSError, match="could not bind on any address"):
                await loop.create_server(Peer, hosts, 0)
            return
        server = await loop.create_server(Peer, hosts, 0)
        assert server.sockets == ()
        server.close()

    run(main)


@pytest.mark.parametrize("count", [-1, 0, 1, 2, 3, float("nan"), "1"])
def test_which_family_is_tried_first(run, count):
    tried = []

    async def main(loop):
        async def getaddrinfo(host, port, **kwargs):
            four, six = (
                [(family, socket.SOCK_STREAM, 0, "", (str(n), 1)) for n in range(4)]
                for family in (socket.AF_INET, socket.AF_INET6)
            )
            return four + six

        async def sock_connect(sock, address):
            tried.append((sock.family, address[0]))
            raise OSError("no")

        loop.getaddrinfo, loop.sock_connect = getaddrinfo, sock_connect
        await loop.create_connection(Peer, "name", 1, interleave=count)

    if isinstance(count, str):
        with pytest.raises(TypeError, match="'>' not supported between instances of 'str' and 'int'"):
            run(main)
        return
    with pytest.raises(OSError, match="no"):
        run(main)
    names = "".join(("4" if family == socket.AF_INET else "6") + name for family, name in tried)
    in_turn = "4060416142624363"
    assert names == {0: "4041424360616263", 2: "4041604261436263", 3: "4041426043616263"}.get(count, in_turn)


def test_a_protocol_number_that_is_none(run):
    async def main(loop):
        with pytest.raises(TypeError, match="unhashable"):
            await loop.create_connection(Peer, "127.0.0.1", 1, proto=[])
        assert loop._default_executor is None

    run(main)


def test_writelines_of_nothing_at_all(run):
    async def main(loop):
        sender, receiver = await pair(loop)
        if sys.version_info < (3, 12):
            with pytest.raises(TypeError, match="can only join an iterable"):
                sender.transport.writelines(None)
        else:
            sender.transport.writelines(None)
        for nothing in ([], (), {}, ""):
            sender.transport.writelines(nothing)
        sender.transport.close()
        await sender.lost(), await receiver.lost()

    run(main)


def test_what_went_wrong_before_is_told_too(run):
    async def main(loop):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs:
            with pytest.raises(asyncio.SendfileNotAvailableError) as caught:
                await loop.sock_sendfile(ours, io.BytesIO(b"x"), fallback=False)
            assert isinstance(caught.value.__context__, io.UnsupportedOperation)
            assert not caught.value.__suppress_context__

    run(main)


def test_a_program_that_cannot_be_shown(run):
    class Hidden:
        def __repr__(self):
            raise RuntimeError("not to be shown")

    async def main(loop):
        with pytest.raises(TypeError, match="expected str, bytes or"):
            await loop.subprocess_exec(asyncio.SubprocessProtocol, Hidden())

    run(main)


def test_what_stands_in_logs_is_called_as_on_the_standard_loop(run, loop):
    handle = loop.call_soon_threadsafe(print)
    assert repr(handle) == ("<_ThreadSafeHandle print()>" if sys.version_info >= (3, 14) else "<Handle print()>")
    handle.cancel()
    spin(loop)

    async def main(loop):
        transport, _ = await loop.subprocess_exec(asyncio.SubprocessProtocol, "cat")
        for number, name in enumerate(("Write", "Read", "Read")):
            text = repr(transport.get_pipe_transport(number).get_protocol())
            assert text.startswith(f"<{name}SubprocessPipeProto fd={number} pipe=")
        transport.close()
        await transport._wait()

    run(main)
