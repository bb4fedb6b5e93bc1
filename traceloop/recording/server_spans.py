"""The server spans of the application's own OpenTelemetry. A span that knows its route names the request.

Nothing of OpenTelemetry is imported. Once the application has imported the SDK, ``Span.start`` and ``Span.end`` are
replaced by functions that note spans of the kind SERVER and call the SDK's own. The facts that shape it:

* The name of a server span is a template (``GET /items/{item_id}``) where the instrumentation knows the route. Where it
  does not, it may be the path of the request, which is a user's value: ids, addresses, whatever was asked for. By the
  semantic conventions a span that knows its route has the attribute ``http.route`` (an RPC's: ``rpc.method``). Only
  such a name is taken, and only if it is that attribute's value, perhaps behind a method or a service. Instrumentations
  of aiohttp up to 2024 have the handler's name in `http.route` and the path that was asked for in the span's, and a
  program may append to a span's name what it likes.
* There are at most ``MAX_NAMES`` of them in a process, each of at most ``_MAX_LENGTH`` characters.
* A trace that is not sampled has no span of the SDK. Its requests must not get another name for that. So we remember
  the name of a handler's requests, as long as the handler has only one.
* When the response begins, the request's span may not be the current one (the ASGI middleware opens a span for each
  message), or it may have ended (aiohttp's middleware runs within the handler). So we keep it in a context variable.
"""

from __future__ import annotations

import functools
import inspect
import re
from asyncio import current_task, get_running_loop
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from ..core.choose import core
from ..record import layout
from ..record.sites import Site
from .import_hooks import when_imported

MAX_NAMES: Final = 100
_MAX_LENGTH: Final = 200
# Handlers whose requests' name is remembered.
_MAX_HANDLERS: Final = 1000
#: Attributes that hold a template. A span's name is a template too if it ends with the value of one of them. With each:
#: a pattern of what the name may have before that value (the method, the service).
_OF_A_ROUTE: Final = (
    ("http.route", re.compile(r"((HTTP )?[A-Za-z_]+ )?")),
    ("rpc.method", re.compile(r"/?([\w.]+/)?")),
)


class ServerSpan:
    """A server span of the request under way.

    span: None once it has ended. site: of its name; 0 where the name is no template, or the span has not ended yet.
    number: the span's number in the record. noted: whether it has named its request. handler: the site of the handler
    that was noted for the request before the span began; 0 for none.
    """

    __slots__ = ("handler", "noted", "number", "site", "span")

    def __init__(self, span: Any, handler: float) -> None:
        self.span: Any = span
        self.handler = handler
        self.site = self.number = 0.0
        self.noted = False


#: The server span of the request under way.
current: ContextVar[ServerSpan | None] = ContextVar("traceloop_server_span", default=None)
#: The handler (a site) that was noted when the request began.
_early: ContextVar[float] = ContextVar("traceloop_handler", default=0.0)


class Names:
    """The names of one process's server spans."""

    def __init__(self) -> None:
        self._sites: dict[str, float] = {}
        #: The name (a site) of the requests of each handler (a site); 0 where a handler answers several routes.
        self.by_handler: dict[float, float] = {}

    def site_of(self, span: Any, process: Any) -> float:
        """The site of a span's name, 0 where it is no template or there are too many."""
        name = template_of(span)
        known = self._sites.get(name)
        if known is None:
            if not name or len(self._sites) >= MAX_NAMES:
                return 0.0
            known = self._sites[name] = process.site_log.number(Site("", name, "", 0))
        return known

    def learn(self, handler: float, site: float) -> None:
        """Remembers that ``handler`` (a site) answered a request whose name is ``site``."""
        known = self.by_handler.get(handler)
        if known is None:
            if len(self.by_handler) < _MAX_HANDLERS:
                self.by_handler[handler] = site
        elif known != site:
            self.by_handler[handler] = 0.0  # one handler of several routes


def span_names_of(process: Any) -> Names:
    """The names of ``process``, made at the first call."""
    attributes: dict[str, Any] = vars(process)
    names: Names | None = attributes.get("span_names")
    return names if names is not None else attributes.setdefault("span_names", Names())


def template_of(span: Any) -> str:
    """The name of a span, where it is a template (see above); else an empty string."""
    name = span.name
    if not isinstance(name, str):
        return ""
    attributes = span.attributes or {}
    for key, before in _OF_A_ROUTE:
        value = attributes.get(key)
        if isinstance(value, str) and value and name.endswith(value) and before.fullmatch(name[: -len(value)]):
            return name[:_MAX_LENGTH]
    return ""


def arrange() -> None:
    """Arranges that server spans are noted, now or as soon as the SDK is imported."""
    when_imported("opentelemetry.sdk.trace", _patch)


def _patch(module: Any) -> None:
    """Replaces the methods that start and end spans; a second call has no effect. Never raises."""
    try:
        spans = module.Span
        server = module.trace_api.SpanKind.SERVER
        for name, note in (("start", _started), ("end", _ending)):
            original = vars(spans)[name]
            if inspect.isfunction(original) and not hasattr(original, "_traceloop"):
                setattr(spans, name, _noting(original, note, server))
    except (AttributeError, KeyError, TypeError):
        pass


def _noting(original: Callable[..., Any], note: Callable[[Any], None], server: Any) -> Callable[..., Any]:
    """What stands for ``original``: it calls ``note`` with the spans of the kind ``server``. With the C core it is an
    object of C that looks like a function (core/native/requests.c).
    """
    native = core().native
    noting: Any
    if native is not None:
        noting = native.NotingMethod(original, "span", note, server)
    else:

        @functools.wraps(original)
        def noting(self: Any, *args: Any, **options: Any) -> Any:
            try:
                if self.kind is server:
                    note(self)
            except Exception:  # a failure to record never reaches the application
                pass
            return original(self, *args, **options)

    noting._traceloop = True
    return noting  # type: ignore[no-any-return]


def _recorder() -> Any:
    recorder = getattr(get_running_loop(), "_recorder", None)
    return recorder if recorder is not None and recorder.is_running else None


def _started(span: Any) -> None:
    known = current.get()
    # The outermost one is the request's: an application within an application may be instrumented again.
    if _recorder() is not None and (known is None or known.span is None):
        current.set(ServerSpan(span, _early.get()))


def _ending(span: Any) -> None:
    known = current.get()
    recorder = _recorder()
    if known is None or known.span is not span or recorder is None:
        return
    if not known.noted:
        _resolve(known, recorder)
        # aiohttp's and Tornado's requests are noted with their response, though the span may end before it is written.
        # Nothing else will name one of another kind.
        task = current_task()
        coro = task.get_coro() if task is not None else None
        if known.site and not getattr(coro, "__qualname__", "").startswith("RequestHandler."):
            recorder.record.add(known.number, layout.R_REQUEST, known.site)
            known.noted = True
            if known.handler:
                recorder.span_names.learn(known.handler, known.site)
    known.span = None


def _resolve(known: ServerSpan, recorder: Any) -> None:
    known.site = recorder.span_names.site_of(known.span, recorder.process)
    known.number = float(recorder.spans.number_of(known.span))


def note_early(recorder: Any, handler: float) -> None:
    """Notes the handler (a site) of a request that begins in the run under way. Its server span is yet to come."""
    _early.set(handler)
    recorder.record.add(0.0, layout.R_REQUEST, recorder.span_names.by_handler.get(handler) or handler)


def note(recorder: Any, handler: float) -> None:
    """Notes that the run under way answers a request of ``handler`` (a site)."""
    known = current.get()
    names: Names = recorder.span_names
    if known is None or known.noted:
        recorder.record.add(0.0, layout.R_REQUEST, names.by_handler.get(handler) or handler)
        return
    if known.span is not None:
        _resolve(known, recorder)
    known.noted = True
    if known.site:
        names.learn(handler, known.site)
    recorder.record.add(known.number, layout.R_REQUEST, known.site or handler)
