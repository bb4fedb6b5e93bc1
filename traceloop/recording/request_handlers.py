"""Which function of the application answers a request: noted down once a request, where the server's library knows it.

A request that never waits never shows the coroutines that it went through, and one in a worker thread has none. The
libraries that route requests know the function: ASGI frameworks leave it in the scope (``endpoint``), aiohttp in the
request's match, Tornado in the handler's class. So the method by which a server's library begins or ends its response
is replaced by a plain function that notes the handler and returns what the method returns: the coroutine that runs is
the library's own, and no frame is added to anybody's traceback.

Where the application's OpenTelemetry has a server span for the request, that names it (server_spans.py).

Costs some 1 us a request, 2 us in plain Python. Nothing of these libraries is imported from here, and one that
looks different from what is known is left alone: its requests are named by the coroutines that are seen waiting, or by
the server's.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from asyncio import get_running_loop
from collections.abc import Callable
from types import FunctionType
from typing import Any

from ..core.choose import core
from ..core.site_of import site_of
from ..record.frames import is_application
from . import server_spans
from .import_hooks import when_imported


def arrange() -> None:
    """Sees to it that the known servers' requests are noted, now or as soon as they are imported."""
    for name, (owner, method, handler_of) in _SERVERS.items():
        when_imported(name, functools.partial(_patch, owner, method, handler_of))
    when_imported("granian.asgi", _arrange_responses)
    lookup = "DictionaryGenericHandler", "service", _of_grpc
    when_imported("grpc._utilities", functools.partial(_patch, *lookup, early=True))
    server_spans.arrange()


def _arrange_responses(_: Any) -> None:
    """granian's own methods are not Python's: there the response notes its handler as it is sent, and an application
    without a framework as it is called.
    """
    when_imported("starlette.responses", _patch_responses)
    when_imported("starlette.websockets", functools.partial(_patch, "WebSocket", "accept", _of_websocket))
    for name in ("embed", "mp", "mt"):
        when_imported(f"granian.server.{name}", _patch_granian)


def _patch_granian(module: Any) -> None:
    """By which the module gives its workers an application, as it has imported it; twice is once. Never raises."""
    original = vars(module).get("_asgi_call_wrap")
    if not inspect.isfunction(original) or hasattr(original, "_traceloop"):
        return

    @functools.wraps(original)
    def wrapping(callback: Any, *args: Any, **options: Any) -> Any:
        try:
            own = _application_behind(callback)
        except Exception:  # an object that lies about itself
            own = None
        return original(callback if own is None else _noting(callback, lambda *_: own, False), *args, **options)

    wrapping._traceloop = True  # type: ignore[attr-defined]
    module._asgi_call_wrap = wrapping


def _patch_responses(module: Any) -> None:
    for owner in ("Response", "StreamingResponse", "FileResponse"):
        _patch(owner, "__call__", _of_response, module)


def _patch(
    owner: str, method: str, handler_of: Callable[..., Any], module: Any, *, early: bool = False
) -> None:
    """Puts a noting function around a method; twice is once. Never raises. ``early``: the request only begins."""
    try:
        kind = getattr(module, owner)
        original = vars(kind)[method]
        if inspect.isfunction(original) and not hasattr(original, "_traceloop"):
            setattr(kind, method, _noting(original, handler_of, early))
    except (AttributeError, KeyError, TypeError):
        pass


def _noting(original: Callable[..., Any], handler_of: Callable[..., Any], early: bool) -> Callable[..., Any]:
    note_request = _notes_of(handler_of, early)

    @functools.wraps(original)
    def noting(*args: Any, **options: Any) -> Any:
        note_request(args)
        return original(*args, **options)

    mark = getattr(inspect, "markcoroutinefunction", None)  # from 3.12 on
    if mark is not None and inspect.iscoroutinefunction(original):
        mark(noting)
    noting._traceloop = True  # type: ignore[attr-defined]
    return noting


def _notes_of(handler_of: Callable[..., Any], early: bool) -> Callable[[tuple[Any, ...]], None]:
    """What notes the request of a method that was called with these positional arguments. It never raises. In C, where
    that runs (core/native/requests.c): about half of what Python takes.
    """
    native = core().native
    if native is not None and not early:
        way = {_of_asgi: "asgi", _of_aiohttp: "aiohttp"}.get(handler_of, "")
        note, current = server_spans.note, server_spans.current
        notes = native.RequestNotes(
            way, handler_of, _number_of, note, current, get_running_loop, _BEGINNINGS, _own_code
        )  # fmt: skip
        note_in_c: Callable[[tuple[Any, ...]], None] = notes.note
        return note_in_c
    in_python = server_spans.note_early if early else server_spans.note

    def note_request(args: tuple[Any, ...]) -> None:
        try:
            handler = handler_of(*args)
            if handler is not None:
                recorder = getattr(get_running_loop(), "_recorder", None)
                if recorder is not None and recorder.is_running:
                    # Written out for a plain function that is known: two calls are a fifth of it all.
                    site = recorder.sites.get(id(handler.__code__)) if type(handler) is FunctionType else None
                    in_python(recorder, site or _number_of(recorder, handler))
        except Exception:  # the record's fault, never the application's
            pass

    return note_request


def _number_of(recorder: Any, handler: Any) -> float:
    number: float = recorder.offloads.site_number(handler, ())
    return number


def _of_asgi(owner: Any, message: Any, *_: Any) -> Any:
    """Of a server's object that has the scope of one request."""
    if message is None or message["type"] not in _BEGINNINGS:
        return None
    endpoint = owner.scope.get("endpoint")
    if endpoint is not None:
        return endpoint
    app = getattr(owner, "app", None)
    return _application_behind(owner.transport.get_protocol().app if app is None else app)


def _application_behind(app: Any) -> Any:
    """What middleware is wrapped around, which keeps it as its ``app``, where that is the application's own code; None
    for a framework's.
    """
    for _ in range(_MOST_MIDDLEWARE):
        try:
            inner = app.__dict__.get("app")
        except AttributeError:
            break
        if inner is None or not callable(inner):
            break
        app = inner
    known = _own_code.get(id(app))
    if known is None or known[0]() is not app:
        known = _look_at(app)
    return app if known[1] else None


def _look_at(app: Any) -> tuple[Callable[[], Any], bool]:
    """Whose code ``app`` is, and how to tell whether an object of its id is still that. It is kept: to find out takes
    ten times as long as the rest that is done for a request.
    """
    site = site_of(app)
    own = is_application(site.file, site.module)
    try:
        known: tuple[Callable[[], Any], bool] = weakref.ref(app), own
    except TypeError:  # it cannot be told from another one of the same address
        return (lambda: None), own
    if len(_own_code) >= _MOST_APPLICATIONS:
        _own_code.clear()
    _own_code[id(app)] = known
    return known


# By the id of what answers: a weak reference to it, and whether it is the application's own code.
_own_code: dict[int, tuple[Callable[[], Any], bool]] = {}
_MOST_APPLICATIONS = 64


def _of_websocket(websocket: Any, *_: Any, **__: Any) -> Any:
    return websocket.scope.get("endpoint")


def _of_grpc(generic: Any, details: Any, *_: Any) -> Any:
    """What generated code registers: a handler has one function, by the kind of its call."""
    handler = generic._method_handlers.get(details.method)
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def _of_response(response: Any, scope: Any, *_: Any) -> Any:
    return scope.get("endpoint")


def _of_websockets(connection: Any, *_: Any, **__: Any) -> Any:
    """Since websockets 17 the server's handler is a function within ``serve``, which closes over the application's."""
    handler = connection.server.handler
    code = getattr(handler, "__code__", None)
    if code is not None and "handler" in code.co_freevars:
        return handler.__closure__[code.co_freevars.index("handler")].cell_contents
    return handler


def _of_aiohttp(protocol: Any, request: Any, *_: Any) -> Any:
    match = getattr(request, "_match_info", None)
    return protocol._request_handler if match is None else match.handler


def _of_tornado(handler: Any, *_: Any) -> Any:
    return getattr(type(handler), handler.request.method.lower(), None)


def _of_tornados_websocket(handler: Any, *_: Any) -> Any:
    return type(handler).on_message


_MOST_MIDDLEWARE = 32
# ASGI's messages with which an endpoint begins to answer.
_BEGINNINGS = frozenset(("http.response.start", "websocket.accept"))
_UVICORN = "uvicorn.protocols."
# By module: class, method, and how the method's arguments tell the handler.
_SERVERS: dict[str, tuple[str, str, Callable[..., Any]]] = {
    _UVICORN + "http.h11_impl": ("RequestResponseCycle", "send", _of_asgi),
    _UVICORN + "http.httptools_impl": ("RequestResponseCycle", "send", _of_asgi),
    _UVICORN + "websockets.websockets_impl": ("WebSocketProtocol", "asgi_send", _of_asgi),
    _UVICORN + "websockets.websockets_sansio_impl": ("WebSocketsSansIOProtocol", "send", _of_asgi),
    _UVICORN + "websockets.wsproto_impl": ("WSProtocol", "send", _of_asgi),
    "hypercorn.protocol.http_stream": ("HTTPStream", "app_send", _of_asgi),
    "hypercorn.protocol.ws_stream": ("WSStream", "app_send", _of_asgi),
    "aiohttp.web_protocol": ("RequestHandler", "finish_response", _of_aiohttp),
    "tornado.web": ("RequestHandler", "finish", _of_tornado),
    "tornado.websocket": ("WebSocketHandler", "get_websocket_protocol", _of_tornados_websocket),
    "websockets.asyncio.server": ("ServerConnection", "handshake", _of_websockets),
}
