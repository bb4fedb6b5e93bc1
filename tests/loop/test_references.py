"""Nothing of a user's lives longer than with the standard loop: arguments, contexts, exceptions, tasks, transports.

Each case notes, at the same points of the program, which of its objects are still there; without the garbage
collector, so that a cycle counts as alive. The standard loop says what is right: what it has let go ours has too.
"""

import asyncio
import contextlib
import contextvars
import gc
import os
import socket
import ssl
import sys
import threading
import time
import weakref

import pytest

from tests.helpers.cores import CORES
from tests.helpers.paths import CERTIFICATE

# Modules of the loops, and not of the futures and streams that both share.
OF_LOOPS = ("traceloop", "asyncio.selector_events", "asyncio.unix_events", "asyncio.base_events", "asyncio.events")

variable = contextvars.ContextVar("variable")


class Thing:
    """Something of the user's that can be referred to weakly."""

    def method(self, *args):
        pass


class Protocol(asyncio.Protocol):
    pass


class Watch:
    """Weak references by name, and what was left of them whenever it was asked.

    `standard`: the standard loop's, for the run on ours.
    """

    def __init__(self, standard=None):
        self.refs = {}
        self.seen = []
        # The standard loop gets the time it usually takes, ours what a machine at a standstill may need.
        self.patience = 2 if standard is None else 30
        self.kept = set() if standard is None else standard.left
        self.left = set()

    def add(self, name, thing):
        self.refs[name] = weakref.ref(thing)
        return thing

    def alive(self):
        return {name for name, ref in self.refs.items() if ref() is not None}

    def look(self, point):
        self.seen.append((point, self.alive()))


async def turns(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


async def gone(watch):
    """Waits for what other threads and the kernel have a part in; what never goes is seen by the look after it."""
    deadline = time.monotonic() + watch.patience
    while watch.alive() - watch.kept and time.monotonic() < deadline:
        await asyncio.sleep(0.001)
    watch.left |= watch.alive()


async def call_soon(loop, watch):
    loop.call_soon(lambda *_: None, watch.add("argument", Thing()))
    loop.call_soon(watch.add("bound", Thing()).method, 1, 2)
    loop.call_soon(watch.look, "in the same iteration")
    watch.look("before")
    await turns(1)
    watch.look("after")


async def a_timer(loop, watch):
    loop.call_later(0, watch.add("run", Thing()).method)
    loop.call_later(3600, watch.add("cancelled", Thing()).method, watch.add("argument", Thing())).cancel()
    watch.look("before")
    await turns()
    watch.look("after")


async def a_context(loop, watch):
    context = contextvars.copy_context()
    context.run(variable.set, watch.add("value", Thing()))
    loop.call_soon(lambda: None, context=context)
    loop.call_later(0, lambda: None, context=context)
    del context
    watch.look("before")
    await turns()
    watch.look("after")


async def threadsafe(loop, watch):
    thing = watch.add("argument", Thing())
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(lambda _: None, thing))
    del thing
    thread.start()
    thread.join()
    del thread
    await turns()
    watch.look("after")


async def an_exception(loop, watch):
    loop.set_exception_handler(lambda *_: None)

    def fail(thing):
        raise watch.add("exception", ValueError())

    loop.call_soon(fail, watch.add("argument", Thing()))
    await turns()
    watch.look("after")


async def a_task(loop, watch):
    async def work(thing):
        await asyncio.sleep(0)
        watch.look("within")

    task = watch.add("task", loop.create_task(work(watch.add("argument", Thing()))))
    await task
    watch.look("done, but held")
    del task
    watch.look("after")
    await turns()
    watch.look("later")


async def a_task_that_fails(loop, watch):
    loop.set_exception_handler(lambda *_: watch.look("the handler is told"))

    async def work(thing):
        raise watch.add("exception", ValueError())

    watch.add("task", asyncio.Task(work(watch.add("argument", Thing()))))
    await turns()
    watch.look("after")


async def a_task_that_is_cancelled(loop, watch):
    async def work(thing):
        await asyncio.sleep(3600)

    task = watch.add("task", loop.create_task(work(watch.add("argument", Thing()))))
    await turns()
    task.cancel()
    del task
    await turns()
    watch.look("after")


async def an_offload(loop, watch):
    await loop.run_in_executor(None, lambda _: None, watch.add("argument", Thing()))
    await gone(watch)  # the worker holds it until it looks for more to do
    watch.look("after")

    def fail(_):
        raise ValueError

    try:
        await loop.run_in_executor(None, fail, watch.add("argument of the failing one", Thing()))
    except ValueError:
        pass
    await gone(watch)


async def a_reader(loop, watch):
    a, b = socket.socketpair()
    with a, b:
        loop.add_reader(a, watch.add("reader", Thing()).method, watch.add("argument", Thing()))
        loop.add_writer(a, watch.add("writer", Thing()).method)
        await turns()
        loop.remove_reader(a)
        loop.remove_writer(a)
        watch.look("removed")
        await turns(2)
        watch.look("after")


async def a_reader_replaced(loop, watch):
    a, b = socket.socketpair()
    with a, b:
        loop.add_reader(a, watch.add("first", Thing()).method)
        loop.add_reader(a, watch.add("second", Thing()).method)
        await turns()
        watch.look("replaced")
        loop.remove_reader(a)


async def a_pipe(loop, watch):
    r, w = os.pipe()
    reading, writing = open(r, "rb", 0), open(w, "wb", 0)  # noqa: SIM115
    reader, protocol = await loop.connect_read_pipe(Protocol, reading)
    watch.add("reader", reader)
    watch.add("read protocol", protocol)
    writer, protocol = await loop.connect_write_pipe(Protocol, writing)
    watch.add("writer", writer)
    writer.write(b"data")
    await turns()
    reader.close()
    writer.close()
    del reader, writer, protocol
    await turns()
    watch.look("after")


async def a_stream(loop, watch):
    closed = loop.create_future()

    async def serve(reader, writer):
        watch.add("server's transport", writer.transport)
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set_result(None)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    watch.add("transport", writer.transport)
    watch.add("protocol", writer.transport.get_protocol())
    writer.write(b"line\n")
    assert await reader.readline() == b"line\n"
    writer.close()
    await writer.wait_closed()
    await closed
    server.close()
    await server.wait_closed()
    del reader, writer
    await gone(watch)
    watch.look("after")


async def refused_certificates(loop, watch):
    """CPython issue 159049: the error of a handshake held all that took part in it."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(CERTIFICATE)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # that trusts nobody
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            for _ in range(2):
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    server_context.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            await loop.create_connection(
                lambda: watch.add("protocol", Protocol()),
                *listener.getsockname(),
                ssl=client_context,
                server_hostname="localhost",
            )
        except ssl.SSLCertVerificationError as exc:
            watch.add("exception", exc)
        transport, protocol = await loop.create_connection(Protocol, *listener.getsockname())
        watch.add("upgraded transport", transport)
        watch.add("upgraded protocol", protocol)
        try:
            await loop.start_tls(transport, protocol, client_context, server_hostname="localhost")
        except ssl.SSLCertVerificationError as exc:
            watch.add("exception of the upgrade", exc)
        del transport, protocol
        thread.join()
        await turns()
        watch.look("after")


async def a_subprocess(loop, watch):
    transport, protocol = await loop.subprocess_exec(asyncio.SubprocessProtocol, sys.executable, "-S", "-c", "")
    watch.add("transport", transport)
    watch.add("process", transport.get_extra_info("subprocess"))
    await transport._wait()
    while transport.get_protocol() is not None:
        await asyncio.sleep(0.001)
    transport.close()
    del transport, protocol
    await gone(watch)
    watch.look("after")


async def a_signal_handler(loop, watch):
    import signal

    loop.add_signal_handler(signal.SIGUSR1, watch.add("handler", Thing()).method, watch.add("argument", Thing()))
    os.kill(os.getpid(), signal.SIGUSR1)
    await turns(5)
    loop.remove_signal_handler(signal.SIGUSR1)
    await turns()
    watch.look("after")


CASES = [
    call_soon,
    a_timer,
    a_context,
    threadsafe,
    an_exception,
    a_task,
    a_task_that_fails,
    a_task_that_is_cancelled,
    an_offload,
    a_reader,
    a_reader_replaced,
    a_pipe,
    a_stream,
    refused_certificates,
    a_subprocess,
    a_signal_handler,
]


def watched(case, loop_factory, debug, standard=None):
    watch = Watch(standard)
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=loop_factory, debug=debug) as runner:
            runner.run(case(runner.get_loop(), watch))
            watch.look("the end")
        watch.look("loop closed")
    finally:
        gc.enable()
    return watch


@pytest.mark.parametrize("debug", [False, True], ids=["plain", "debug"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("core", CORES)
def test_nothing_lives_longer(core, case, debug):
    standard = watched(case, asyncio.SelectorEventLoop, debug)
    ours = watched(case, CORES[core], debug, standard)
    assert standard.refs.keys() == ours.refs.keys() and standard.refs
    assert [point for point, _ in standard.seen] == [point for point, _ in ours.seen]
    for (point, right), (_, alive) in zip(standard.seen, ours.seen, strict=True):
        assert alive <= right, f"{point}: {alive - right} is still alive"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("core", CORES)
def test_no_cycle_is_left_for_the_collector(core, case):
    """Garbage that only the collector finds: no more kinds of it than the standard loop leaves, and none of ours."""

    def kinds(loop_factory):
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            watched(case, loop_factory, False)
            gc.collect()
            names = {type(thing).__name__ for thing in gc.garbage if type(thing).__module__.startswith(OF_LOOPS)}
            kinds_of_user = {type(thing) for thing in gc.garbage if issubclass(type(thing), (Thing, BaseException))}
            return names, {kind.__name__ for kind in kinds_of_user}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.collect()

    kinds(CORES[core])  # what is made once, at the first use
    ours, users = kinds(CORES[core])
    standard, users_of_standard = kinds(asyncio.SelectorEventLoop)
    assert users <= users_of_standard
    # The loop itself is one: its selector holds the handle of its self-pipe, until it is closed. And what the standard
    # library's own TLS leaves before 3.14 holds the transport, and with it all that belongs to the loop.
    if "_SelectorSocketTransport" not in standard:
        assert {name for name in ours if name not in standard} <= {"EventLoop"}


@pytest.mark.parametrize("recorder", [False, None], ids=["unrecorded", "recorded"])
@pytest.mark.parametrize("core", CORES)
def test_a_closed_loop_goes_away(core, recorder):
    def closed():
        loop = CORES[core](recorder=recorder)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return weakref.ref(loop)

    refs = [closed() for _ in range(3)]
    # The watchdog lets a loop go at its next turn.
    deadline = time.monotonic() + (5 if recorder is None else 0)
    gc.collect()
    while any(ref() for ref in refs) and time.monotonic() < deadline:
        time.sleep(0.01)
        gc.collect()
    assert [ref() for ref in refs] == [None] * 3


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks")
@pytest.mark.parametrize("core", CORES)
def test_the_exception_of_an_eager_task_does_not_lead_back_to_it(core):
    """Nor does the standard loop's, from 3.13.3 on: the frame that made the task is the last of the traceback's."""

    async def work():
        raise ValueError

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        gc.disable()
        try:
            task = loop.create_task(work())
            reference, exception = weakref.ref(task), task.exception()
            del task
            assert reference() is None
            assert isinstance(exception, ValueError)
        finally:
            gc.enable()

    with asyncio.Runner(loop_factory=CORES[core]) as runner:
        runner.run(main())
