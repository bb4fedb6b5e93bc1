"""Which function of the application answers a request: noted once a request, where the server's library knows it.

The looks at waiting tasks cannot name every request: one that never waits is never seen in them, and one that is
handled in a worker thread has no coroutine. But the libraries that route requests know the function: ASGI frameworks
put it into the scope (``endpoint``), aiohttp into the request's match, Tornado into the handler's class. So we replace
the method by which a server's library begins or ends its response. The new method notes the handler and returns what
the original returns. The coroutine that runs is still the library's own, and no traceback gets a frame of ours.

Where the application's OpenTelemetry has a server span for the request, the span names it (server_spans.py).

This costs less than 1 us a request, 2 us in plain Python. We import none of these libraries, and do not touch one whose
code looks different from what we know: its requests are named by the coroutines that are seen waiting, or by the
server's.
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
    """Arranges that requests of the known servers are noted, now or as soon as the server's library is imported."""
    for name, (owner, method, handler_of) in _SERVERS.items():
        when_imported(name, functools.partial(_patch, owner, method, handler_of))
    when_imported("granian.asgi", _arrange_responses)
    lookup = "DictionaryGenericHandler", "service", _of_grpc
    when_imported("grpc._utilities", functools.partial(_patch, *lookup, early=True))
    server_spans.arrange()


def _arrange_responses(_: Any) -> None:
    """Patches the frameworks' responses, for granian, whose own methods are not Python functions.

    A response notes its handler when it is sent; an application without a framework is noted when it is called.
    """
    when_imported("starlette.responses", _patch_responses)
    when_imported("starlette.websockets", functools.partial(_patch, "WebSocket", "accept", _of_websocket))
    for name in ("embed", "mp", "mt"):
        when_imported(f"granian.server.{name}", _patch_granian)


def _patch_granian(module: Any) -> None:
    """Patches the function through which granian gives its workers an application.

    A second call with the same module has no effect. Never raises.
    """
    original = vars(module).get("_asgi_call_wrap")
    if not inspect.isfunction(original) or hasattr(original, "_traceloop"):
        return

    @functools.wraps(original)
    def wrapping(callback: Any, *args: Any, **options: Any) -> Any:
        try:
            own = _application_behind(callback)
        except Exception:  # the application may be an object whose attributes raise or mislead
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
    """Replaces a method by one that notes the request first; a second call has no effect. Never raises.

    ``early``: the method is called when the request begins, not when it is answered.
    """
    try:
        kind = getattr(module, owner)
        original = vars(kind)[method]
        if inspect.isfunction(original) and not hasattr(original, "_traceloop"):
            setattr(kind, method, _noting(original, handler_of, early))
    except (AttributeError, KeyError, TypeError):
        pass


def _noting(original: Callable[..., Any], handler_of: Callable[..., Any], early: bool) -> Callable[..., Any]:
    """What stands for ``original``. With the C core it is an object of C that looks like a function
    (core/native/requests.c).
    """
    native = core().native
    noting: Any
    if native is not None and not early:
        way = {_of_asgi: "asgi", _of_aiohttp: "aiohttp"}.get(handler_of, "")
        note, current = server_spans.note, server_spans.current
        noting = native.NotingMethod(
            original, way, handler_of, _number_of, note, current, get_running_loop, _BEGINNINGS, _own_code
        )  # fmt: skip
    else:
        note_request = _notes_of(handler_of, early)

        @functools.wraps(original)
        def noting(*args: Any, **options: Any) -> Any:
            note_request(args)
            return original(*args, **options)

        mark = getattr(inspect, "markcoroutinefunction", None)  # from 3.12 on
        if mark is not None and inspect.iscoroutinefunction(original):
            mark(noting)
    noting._traceloop = True
    return noting  # type: ignore[no-any-return]


def _notes_of(handler_of: Callable[..., Any], early: bool) -> Callable[[tuple[Any, ...]], None]:
    """A function that notes the request of a replaced method, given the method's positional arguments. Never raises."""
    note = server_spans.note_early if early else server_spans.note

    def note_request(args: tuple[Any, ...]) -> None:
        try:
            handler = handler_of(*args)
            if handler is not None:
                recorder = getattr(get_running_loop(), "_recorder", None)
                if recorder is not None and recorder.is_running:
                    # Inlined for a plain function with a known site: two calls would be a fifth of the whole cost.
                    site = recorder.sites.get(id(handler.__code__)) if type(handler) is FunctionType else None
                    note(recorder, site or _number_of(recorder, handler))
        except Exception:  # a failure to record never reaches the application
            pass

    return note_request


def _number_of(recorder: Any, handler: Any) -> float:
    number: float = recorder.offloads.site_number(handler, ())
    return number


def _of_asgi(owner: Any, message: Any, *_: Any) -> Any:
    """The handler of a request, from the server's object that holds the request's scope."""
    if message is None or message["type"] not in _BEGINNINGS:
        return None
    endpoint = owner.scope.get("endpoint")
    if endpoint is not None:
        return endpoint
    app = getattr(owner, "app", None)
    return _application_behind(owner.transport.get_protocol().app if app is None else app)


def _application_behind(app: Any) -> Any:
    """The innermost ``app`` within layers of middleware; None where it is not the application's own code."""
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
    """A weak reference to ``app``, and whether it is the application's own code.

    The answer is kept by id, since finding it takes ten times as long as the rest of what a request costs. The
    reference tells whether the object with that id is still the same.
    """
    site = site_of(app)
    own = is_application(site.file, site.module)
    try:
        known: tuple[Callable[[], Any], bool] = weakref.ref(app), own
    except TypeError:  # no weak reference: a later object with the same id could not be told from this one
        return (lambda: None), own
    if len(_own_code) >= _MOST_APPLICATIONS:
        _own_code.clear()
    _own_code[id(app)] = known
    return known


# By the id of an application: a weak reference to it, and whether it is the application's own code.
_own_code: dict[int, tuple[Callable[[], Any], bool]] = {}
_MOST_APPLICATIONS = 64


def _of_websocket(websocket: Any, *_: Any, **__: Any) -> Any:
    return websocket.scope.get("endpoint")


def _of_grpc(generic: Any, details: Any, *_: Any) -> Any:
    """The function within the handler that generated code registers: it has one, by the kind of the call."""
    handler = generic._method_handlers.get(details.method)
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def _of_response(response: Any, scope: Any, *_: Any) -> Any:
    return scope.get("endpoint")


def _of_websockets(connection: Any, *_: Any, **__: Any) -> Any:
    """The handler in the closure: since websockets 17, a function within ``serve`` calls the application's handler."""
    handler = connection.server.handler
    code = getattr(handler, "__code__", None)
    if code is not None and "handler" in code.co_freevars:
        return handler.__closure__[code.co_freevars.index("handler")].cell_contents
    return handler


def _of_aiohttp(protocol: Any, request: Any, *_: Any) -> Any:
    match = getattr(request, "_match_info", None)
    if match is None:
        return protocol._request_handler
    # ``match.handler`` says the same, by two properties.
    handler = getattr(getattr(match, "_route", None), "_handler", None)
    return match.handler if handler is None else handler


def _of_tornado(handler: Any, *_: Any) -> Any:
    return getattr(type(handler), handler.request.method.lower(), None)


def _of_tornados_websocket(handler: Any, *_: Any) -> Any:
    return type(handler).on_message


_MOST_MIDDLEWARE = 32
# ASGI's messages with which an endpoint begins to answer.
_BEGINNINGS = frozenset(("http.response.start", "websocket.accept"))
_UVICORN = "uvicorn.protocols."
# By module: class, method, and the function that finds the handler in the method's arguments.
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
