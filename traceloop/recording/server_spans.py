"""The server spans of the application's own OpenTelemetry: they name its requests, where they say which route it is.

Nothing of OpenTelemetry is imported: the SDK's ``Span.start`` and ``Span.end`` are replaced by functions that note a
span of the kind SERVER and call the SDK's, once the application has imported it. The facts that shape it:

* The name of a server span is a template (``GET /items/{item_id}``) where the instrumentation knows the route. Where it
  does not, it may be the path of the request, which is a user's value: ids, addresses, whatever was asked for. By the
  semantic conventions a span that knows its route has the attribute ``http.route`` (an RPC's: ``rpc.method``). Only
  such a name is taken, and only if it is that attribute's value, perhaps behind a method or a service. Instrumentations
  of aiohttp up to 2024 have the handler's name in `http.route` and the path that was asked for in the span's, and a
  program may append to a span's name what it likes.
* There are at most ``MAX_NAMES`` of them in a process, each of at most ``_MAX_LENGTH`` characters.
* A trace that is not sampled has no span of the SDK's. So that its requests do not stand under another name, what a
  handler's requests were called is remembered, as long as it is one name.
* The span of a request may not be the current one when the response begins (the ASGI middleware opens one for each
  message) or have ended (aiohttp's middleware is within the handler). So it lies in a context variable of ours.
"""

from __future__ import annotations

import functools
import inspect
import re
from asyncio import current_task, get_running_loop
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from ..record import layout
from ..record.sites import Site
from .import_hooks import when_imported

MAX_NAMES: Final = 100
_MAX_LENGTH: Final = 200
# Handlers whose requests' name is remembered.
_MAX_HANDLERS: Final = 1000
#: Attributes whose value makes a name that ends with it a template, and what the name may have before it: the method,
#: the service.
_OF_A_ROUTE: Final = (
    ("http.route", re.compile(r"((HTTP )?[A-Za-z_]+ )?")),
    ("rpc.method", re.compile(r"/?([\w.]+/)?")),
)


class ServerSpan:
    """A server span of the request under way. span: None once it has ended. site: of its name, 0 where it tells none or
    has not ended yet. number: by which the record knows it. noted: whether it has named its request. handler: the site
    of the function that the request was noted with before the span began; 0 for none.
    """

    __slots__ = ("handler", "noted", "number", "site", "span")

    def __init__(self, span: Any, handler: float) -> None:
        self.span: Any = span
        self.handler = handler
        self.site = self.number = 0.0
        self.noted = False


#: The server span of the request under way.
current: ContextVar[ServerSpan | None] = ContextVar("traceloop_server_span", default=None)
#: The handler (a site) that a request was noted with at its beginning.
_early: ContextVar[float] = ContextVar("traceloop_handler", default=0.0)


class Names:
    """The names of one process's server spans."""

    def __init__(self) -> None:
        self._sites: dict[str, float] = {}
        #: What the requests of a handler are called (sites); 0 where it answers several routes.
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
        """A request that ``handler`` (a site) answered was called ``site``."""
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
    """The name of a span that says for which route or method it is; else an empty string."""
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
    """Sees to it that server spans are noted, now or as soon as the SDK is imported."""
    when_imported("opentelemetry.sdk.trace", _patch)


def _patch(module: Any) -> None:
    """Puts noting functions around start and end of spans; twice is once. Never raises."""
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
    @functools.wraps(original)
    def noting(self: Any, *args: Any, **options: Any) -> Any:
        try:
            if self.kind is server:
                note(self)
        except Exception:  # the record's fault, never the application's
            pass
        return original(self, *args, **options)

    noting._traceloop = True  # type: ignore[attr-defined]
    return noting


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
    """Notes which handler a request was given to that begins in the run under way: its server span is yet to come."""
    _early.set(handler)
    recorder.record.add(0.0, layout.R_REQUEST, recorder.span_names.by_handler.get(handler) or handler)


def note(recorder: Any, handler: float) -> None:
    """Notes that the run under way answers a request, which ``handler`` (a site) has handled."""
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
