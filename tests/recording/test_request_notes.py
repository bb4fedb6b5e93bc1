"""Requests are noted alike in C and in Python: whose they are, and when they are nobody's."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import inspect
import sys
import types
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from tests.helpers.cores import CORES
from traceloop.core.choose import Core, core
from traceloop.loop.event_loop import EventLoop
from traceloop.record import layout
from traceloop.recording import request_handlers, server_spans
from traceloop.recording.process import Process
from traceloop.recording.recorder import Recorder
from traceloop.settings import Settings

START, BODY = {"type": "http.response.start"}, {"type": "http.response.body"}


async def endpoint(*args: Any) -> None:
    """The application's own."""


class Middleware:
    """Around an application."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, *args: Any) -> None:
        """ASGI."""


class Framework(Middleware):
    """Not the application's own code, by its module."""


Framework.__module__ = Framework.__call__.__module__ = "asyncio.framework"


class Odd:
    """Whose attributes cannot be had."""

    @property
    def app(self) -> Any:
        raise RuntimeError("not made yet")

    scope = handler = _match_info = app


def owner(**more: Any) -> Any:
    """A server's object that has the scope of a request."""
    return SimpleNamespace(**{"scope": {}, **more})


def behind_a_transport(app: Any) -> Any:
    """One that knows the application by its connection's protocol only."""
    return owner(transport=SimpleNamespace(get_protocol=lambda: SimpleNamespace(app=app)))


#: What a server's method is called with, in turn: of ASGI servers, of aiohttp.
ASGI: list[tuple[Any, ...]] = [
    (owner(scope={"endpoint": endpoint}), START),
    (owner(scope={"endpoint": endpoint}), START),  # known by then
    (owner(scope={"endpoint": endpoint}), BODY),
    (owner(scope={"endpoint": endpoint}), {"type": "websocket.accept"}),
    (owner(scope={"endpoint": Middleware(endpoint)}), START),
    (owner(scope={"endpoint": Middleware(None).__call__}), START),
    (owner(scope={"endpoint": Middleware(None).__call__}), START),
    (owner(scope={"endpoint": functools.partial(endpoint, 1)}), START),
    (owner(scope={"endpoint": None}, app=endpoint), START),
    (owner(app=endpoint), START),
    (owner(app=Middleware(Middleware(endpoint))), START),
    (owner(app=Middleware(Middleware(endpoint))), START, "more"),
    (owner(app=Middleware(None)), START),
    (owner(app=Middleware(1)), START),
    (owner(app=Framework(None)), START),
    (owner(app=Odd()), START),
    (owner(app=None, transport=behind_a_transport(endpoint).transport), START),
    (behind_a_transport(endpoint), START),
    (behind_a_transport(Middleware(endpoint)), START),
    (owner(scope=SimpleNamespace(get=lambda name: endpoint)), START),
    (owner(app=endpoint), SimpleNamespace()),
    (owner(app=endpoint), {}),
    (owner(app=endpoint), {"type": []}),
    (owner(app=endpoint), None),
    (owner(), START),
    (Odd(), START),
    (owner(app=endpoint),),
    (),
]
AIOHTTP: list[tuple[Any, ...]] = [
    (owner(), SimpleNamespace(_match_info=SimpleNamespace(handler=endpoint)), "response", 1.0),
    (owner(), SimpleNamespace(_match_info=SimpleNamespace(handler=Middleware(endpoint))), "response"),
    (owner(), SimpleNamespace(_match_info=SimpleNamespace(handler=Middleware(None).__call__)), "response"),
    (owner(), SimpleNamespace(_match_info=SimpleNamespace(handler=Middleware(None).__call__)), "response"),
    (owner(), SimpleNamespace(_match_info=SimpleNamespace(handler=None)), "response"),
    (owner(), SimpleNamespace(_match_info=SimpleNamespace(_route=owner(_handler=endpoint), handler=len)), "response"),
    (owner(), SimpleNamespace(_match_info=SimpleNamespace(_route=owner(), handler=endpoint)), "response"),
    (owner(_request_handler=endpoint), SimpleNamespace(_match_info=None), "response"),
    (owner(_request_handler=endpoint), SimpleNamespace(), "response"),
    (owner(), SimpleNamespace(_match_info=Odd()), "response"),
    (owner(), Odd(), "response"),
    (owner(), SimpleNamespace(_match_info=None), "response"),
    (owner(),),
]
WAYS = {
    "asgi": (request_handlers._of_asgi, ASGI),
    "aiohttp": (request_handlers._of_aiohttp, AIOHTTP),
    "tornado": (lambda handler, *_: getattr(type(handler), handler.request), [(owner(request="scope"),), (Odd(),)]),
}


@contextlib.contextmanager
def noted_by(of_core: str, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Methods that are replaced within it note their requests in that core."""
    with patch.context() as inner:
        if of_core == "python":
            inner.setattr(request_handlers, "core", lambda: Core("python", None, ""))
        yield


def requests_noted(handler_of: Any, calls: list[tuple[Any, ...]], of_core: str, patch: pytest.MonkeyPatch) -> Any:
    """The handlers that each call notes, on a loop of this process's core; the notes are of ``of_core``."""
    kept: list[Any] = []
    with noted_by(of_core, patch):
        noting = request_handlers._noting(lambda *args, **options: (args, options), handler_of, False)
    recorder = Recorder(Process(Settings(ring_size=1 << 20)), EventLoop._new_record(), EventLoop._new_queue())
    loop = EventLoop(recorder=recorder)
    number = recorder.offloads.site_number

    def noted() -> list[float]:
        doubles = recorder.record.take()[0]
        return [doubles[i + 2] for i in range(0, len(doubles), 3) if doubles[i + 1] == layout.R_REQUEST]

    async def main() -> None:
        for args in calls:
            noted()
            assert noting(*args, option=1) == (args, {"option": 1})
            kept.append(noted())
        # The second half: behind a server span, and where the handler's requests have a name.
        server_spans.current.set(server_spans.ServerSpan(None, 0.0))
        noting(*calls[0])
        kept.append(noted())
        recorder.span_names.by_handler[number(endpoint, ())] = 7.0
        noting(*calls[0])
        kept.append(noted())
        recorder.is_running = False
        noting(*calls[0])
        kept.append(noted())
        recorder.is_running = True

    loop.run_until_complete(main())
    sites = {site for each in kept for site in each}
    by_number = {site: recorder.process.site_log.sites[int(site)].label for site in sites if site != 7.0}
    noting(*calls[0])  # no loop runs
    loop.close()
    return [[by_number.get(site, site) for site in each] for each in kept]


@pytest.mark.parametrize("way", WAYS)
def test_both_cores_note_the_same(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handler_of, calls = WAYS[way]
    results = [requests_noted(handler_of, calls, each, monkeypatch) for each in CORES]
    assert all(result == results[0] for result in results)
    named = [name for each in results[0] for name in each]
    assert way == "tornado" or (named[0] == results[0][0][0] and "endpoint" in str(named[0]))


@pytest.mark.skipif(core().native is None, reason="notes are taken in C where that was built")
def test_what_is_no_fault_of_the_recording_is_raised() -> None:
    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    async def main() -> None:
        noting = request_handlers._noting(endpoint, interrupted, False)
        with pytest.raises(KeyboardInterrupt):
            noting(1)

    asyncio.run(main())


@pytest.mark.parametrize("of_core", CORES)
def test_the_method_stays_one(of_core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For whoever calls it in any way, wraps it, or looks at it."""

    class Server:
        """Of whose methods one is replaced."""

        async def send(self, message: Any, *, more: int = 1) -> Any:
            """Sends."""
            return self, message, more

    class Own(Server):
        """Of a program."""

        async def send(self, message: Any, *, more: int = 5) -> Any:
            """Sends, too."""
            return await super().send(message, more=more)

    original = Server.send
    with noted_by(of_core, monkeypatch):
        for _ in range(2):
            request_handlers._patch("Server", "send", request_handlers._of_asgi, SimpleNamespace(Server=Server))
    assert Server.send is not original and Server.send.__wrapped__ is original  # type: ignore[attr-defined]
    assert (Server.send.__name__, Server.send.__doc__, Server.send.__module__) == ("send", "Sends.", __name__)
    assert inspect.signature(Server.send) == inspect.signature(original)
    assert inspect.signature(Server().send) == inspect.signature(types.MethodType(original, 0))
    assert inspect.isfunction(Server.send) and inspect.ismethod(Server().send)
    if of_core == "c" or sys.version_info >= (3, 12):
        assert inspect.iscoroutinefunction(Server.send) and inspect.iscoroutinefunction(Server().send)
    assert weakref.ref(Server.send)() is copy.copy(Server.send) is copy.deepcopy(Server.send) is Server.send
    server, own = Server(), Own()
    bound = server.send

    async def main() -> None:
        assert await server.send(1) == await bound(message=1) == await Server.send(server, 1) == (server, 1, 1)
        assert await own.send(2) == (own, 2, 5)
        assert await functools.partial(server.send, more=3)(2) == (server, 2, 3)
        with mock.patch.object(Server, "send", autospec=True) as replaced:
            sent = server.send(4)
            if inspect.isawaitable(sent):  # a mock of what is seen to be a coroutine function
                await sent
        replaced.assert_called_once_with(server, 4)

    asyncio.run(main())
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'message'"):
        server.send()  # type: ignore[call-arg]


@pytest.mark.parametrize("of_core", CORES)
def test_an_application_that_is_an_object_stays_one(of_core: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """granian is given what stands for the application itself."""
    application = Middleware(None)
    with noted_by(of_core, monkeypatch):
        noting: Any = request_handlers._noting(application, lambda *_: application, False)
    assert noting.app is None and noting.__wrapped__ is application
    assert not inspect.iscoroutinefunction(noting) and callable(noting)
    asyncio.run(noting(1, 2, 3))
