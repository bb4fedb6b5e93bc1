"""What a program puts in the place of a method of asyncio's own classes runs on our loop too."""

import asyncio
import concurrent.futures
import inspect
import os
import signal
import socket
import types
from unittest import mock

import pytest

from tests.helpers.cores import CORES
from traceloop.loop.replaced import _FOLLOWED

STANDARD = asyncio.SelectorEventLoop


def class_of(name, loop_class=STANDARD):
    return next(each for each in loop_class.__mro__ if name in vars(each))


@pytest.mark.parametrize("name", _FOLLOWED)
def test_a_replacement_runs_for_as_long_as_it_is_there(loop, monkeypatch, name):
    before = getattr(loop, name)
    with monkeypatch.context() as patch:
        patch.setattr(class_of(name), name, lambda self, *given, **named: (self, given, named))
        assert getattr(loop, name)(1, two=2) == (loop, (1,), {"two": 2})
        assert getattr(type(loop), name)(loop, 3) == (loop, (3,), {})
    assert getattr(loop, name) == before


def test_a_mock_is_called_as_it_would_be_for_the_standard_loop(run):
    async def main(loop):
        made = mock.AsyncMock(side_effect=ZeroDivisionError)
        with mock.patch("asyncio.BaseEventLoop.create_connection", made), pytest.raises(ZeroDivisionError):
            await asyncio.open_connection("none such", 1)
        (call,) = made.mock_calls
        assert call.args[1:] == ("none such", 1)

    run(main)


@pytest.mark.parametrize("base", [STANDARD, *CORES.values()])
def test_they_are_methods_for_whoever_looks_into_the_class(base):
    assert inspect.isfunction(inspect.getattr_static(base, "getaddrinfo"))
    assert inspect.iscoroutinefunction(vars(class_of("getaddrinfo", base))["getaddrinfo"])
    made = mock.create_autospec(base)
    made().run_in_executor(None, int)  # without the loop, which is no argument of the mock's
    made().run_in_executor.assert_called_once_with(None, int)
    with mock.patch.object(base, "run_in_executor", autospec=True, return_value=5) as replaced:
        loop = base()
        try:
            assert loop.run_in_executor(None, int) == 5
        finally:
            loop.close()
    replaced.assert_called_once_with(loop, None, int)


@pytest.mark.parametrize("core", CORES)
def test_one_that_is_taken_from_the_dictionary_may_be_called(core):
    loop = CORES[core]()
    try:
        assert vars(class_of("get_task_factory", CORES[core]))["get_task_factory"](loop) is None
    finally:
        loop.close()


@pytest.mark.parametrize("core", CORES)
def test_what_a_subclass_or_a_loop_has_of_its_own_comes_first(core, monkeypatch):
    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", lambda self, *given: "replaced")
    loop = type("Own", (CORES[core],), {"getaddrinfo": lambda self, *given: "own"})()
    try:
        assert loop.getaddrinfo("host", 1) == "own"
        loop.getaddrinfo = lambda *given: "its own"
        assert loop.getaddrinfo("host", 1) == "its own"
    finally:
        loop.close()


async def connections(loop, tmp_path):
    async def serve(reader, writer):
        writer.write(await reader.readline())
        writer.close()

    for server, connect in (
        (await asyncio.start_server(serve, "localhost", 0), asyncio.open_connection),
        (await asyncio.start_unix_server(serve, tmp_path / "socket"), asyncio.open_unix_connection),
    ):
        where = server.sockets[0].getsockname()
        reader, writer = await connect(*where[:2]) if isinstance(where, tuple) else await connect(where)
        writer.write(b"line\n")
        assert await reader.read() == b"line\n"
        writer.close()
        server.close()
        await server.wait_closed()


async def sockets(loop, tmp_path):
    a, b = socket.socketpair()
    with a, b, open(__file__, "rb") as file, socket.create_server(("127.0.0.1", 0)) as listening:
        for each in (a, b, listening):
            each.setblocking(False)
        assert await loop.sock_sendfile(a, file, 0, 10) == 10
        assert len(await loop.sock_recv(b, 100)) == 10
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, a)
        assert await loop.sendfile(transport, file, 0, 10) == 10
        assert len(await loop.sock_recv(b, 100)) == 10
        transport.close()
        with socket.socket() as client:
            client.setblocking(False)
            accepted = asyncio.ensure_future(loop.sock_accept(listening))
            await loop.sock_connect(client, listening.getsockname())
            (await accepted)[0].close()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
    transport.close()
    assert await loop.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)


async def processes(loop, tmp_path):
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("echo", "hi", stdout=pipe)
    assert await process.communicate() == (b"hi\n", None)
    process = await asyncio.create_subprocess_shell("echo hi", stdout=pipe)
    assert await process.communicate() == (b"hi\n", None)
    source, sink = os.pipe()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(source, "rb", 0))
    transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(sink, "wb", 0))
    transport.write(b"hi")
    transport.close()
    assert await reader.read() == b"hi"
    came = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, came.set)
    signal.raise_signal(signal.SIGUSR1)
    await came.wait()
    assert loop.remove_signal_handler(signal.SIGUSR1)


async def others(loop, tmp_path):
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
    assert await asyncio.to_thread(int, "3") == 3
    told = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    assert loop.get_exception_handler() is not None
    loop.call_soon(int, "x")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [type(each["exception"]) for each in told] == [ValueError]
    loop.set_exception_handler(None)
    loop.set_task_factory(lambda loop, coroutine, **named: asyncio.Task(coroutine, loop=loop, **named))
    assert loop.get_task_factory() is not None
    assert await asyncio.create_task(asyncio.sleep(0, 5)) == 5


USES = {
    connections: "create_connection create_server create_unix_connection create_unix_server getaddrinfo",
    sockets: "connect_accepted_socket create_datagram_endpoint getnameinfo run_in_executor sendfile sock_accept "
    "sock_connect sock_sendfile",
    processes: "add_signal_handler connect_read_pipe connect_write_pipe remove_signal_handler subprocess_exec "
    "subprocess_shell",
    others: "call_exception_handler get_exception_handler get_task_factory set_default_executor "
    "set_exception_handler set_task_factory shutdown_asyncgens shutdown_default_executor",
}


@pytest.mark.parametrize("use", USES)
def test_a_replacement_may_call_what_it_has_replaced(run, monkeypatch, tmp_path, use):
    called = set()

    def through(name):
        original = vars(class_of(name))[name]

        def wrapper(self, *given, **named):
            called.add(name)
            return original(self, *given, **named)

        return wrapper

    for name in _FOLLOWED:
        monkeypatch.setattr(class_of(name), name, through(name))
    run(lambda loop: use(loop, tmp_path))
    assert set(USES[use].split()) <= called


def test_all_but_two_are_used_here():
    """``start_tls`` has a fault of the standard one then; of the other, one more line in the log is all there is."""
    used = {name for names in USES.values() for name in names.split()}
    assert set(_FOLLOWED) - used == {"start_tls", "default_exception_handler"}


class OwnTask(asyncio.Task):
    pass


class OwnFuture(asyncio.Future):
    pass


@pytest.mark.parametrize(("module", "name", "own"), [("tasks", "Task", OwnTask), ("futures", "Future", OwnFuture)])
def test_another_class_of_tasks_or_futures_is_used_for_as_long_as_it_is_there(run, monkeypatch, module, name, own):
    """In asyncio's module, or in a module of the program's in place of that."""

    async def main(loop):
        async def made():
            if name == "Future":
                return type(loop.create_future())
            task = loop.create_task(asyncio.sleep(0))
            await task
            return type(task)

        usual = await made()
        for _ in range(2):
            with monkeypatch.context() as patch:
                patch.setattr(getattr(asyncio.base_events, module), name, own)
                assert await made() is own
            assert await made() is usual
            with monkeypatch.context() as patch:
                patch.setattr(asyncio.base_events, module, types.SimpleNamespace(**{name: own}))
                assert await made() is own
            assert await made() is usual

    run(main)
