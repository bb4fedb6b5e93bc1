"""Parameters of public methods: mocks with ``autospec`` read them, and libraries that look before they pass one."""

import asyncio
import inspect
import socket
from asyncio import selector_events, unix_events
from unittest import mock

import pytest

from tests.helpers.cores import CORES

KINDS = {
    "loop": lambda loop: type(loop),
    "stream": lambda loop: loop._stream_transport,
    "handle": lambda loop: type(loop.call_soon(len, ())),
    "timer": lambda loop: type(loop.call_later(100, len, ())),
}
STANDARD = {
    "loop": unix_events._UnixSelectorEventLoop,
    "stream": selector_events._SelectorSocketTransport,
    "handle": asyncio.Handle,
    "timer": asyncio.TimerHandle,
}


def parameters(function):
    found = inspect.signature(function).parameters
    return {name: (each.kind, each.default) for name, each in found.items() if name != "self"}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("kind", KINDS)
def test_all_parameters_of_the_standard_ones(core, kind):
    loop = CORES[core]()
    try:
        ours = KINDS[kind](loop)
        for name, function in inspect.getmembers(STANDARD[kind], callable):
            if name.startswith("_"):
                continue
            got = parameters(getattr(ours, name))
            for parameter, (how, default) in parameters(function).items():
                assert parameter in got, f"{name}({parameter})"
                assert got[parameter][0] is how, f"{name}({parameter})"
                assert default in (inspect.Parameter.empty, got[parameter][1]), (name, parameter)
    finally:
        loop.close()


def test_a_mock_of_a_loop_takes_what_the_loop_takes(loop):
    stands_for = mock.create_autospec(loop, spec_set=True)
    for takes in (loop, stands_for):
        takes.call_soon(callback=len).cancel()
        takes.call_later(delay=100, callback=len).cancel()
        takes.call_at(when=takes.time() if takes is loop else 1.0, callback=len, context=None).cancel()
        takes.call_soon_threadsafe(callback=len).cancel()
    coroutine = asyncio.sleep(0)
    loop.run_until_complete(loop.create_task(coro=coroutine, name="named"))
    stands_for.create_task(coro=coroutine, name="named")
    stands_for.create_task.assert_called_once_with(coro=coroutine, name="named")


def test_a_mock_of_a_transport_takes_what_the_transport_takes(loop):
    here, there = socket.socketpair()
    with there:
        transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=here))
        with mock.patch.object(transport, "write", autospec=True) as write:
            transport.write(data=b"x")
        write.assert_called_once_with(data=b"x")
        transport.write(data=b"y")
        assert there.recv(10) == b"y"
        transport.close()
        loop.run_until_complete(asyncio.sleep(0))


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("keywords", [{"eager_start": False}, {"no_such": 1}], ids=str)
@pytest.mark.parametrize("factory", [None, lambda loop, coro, **given: asyncio.Task(coro, loop=loop)])
def test_create_task_refuses_what_the_standard_loop_refuses(core, keywords, factory):
    def outcome(loop):
        coroutine = asyncio.sleep(0)
        loop.set_task_factory(factory)
        try:
            loop.run_until_complete(loop.create_task(coroutine, **keywords))
        except TypeError as error:
            return str(error).rpartition("argument ")[2]
        finally:
            coroutine.close()
            loop.close()

    assert outcome(CORES[core]()) == outcome(asyncio.SelectorEventLoop())
