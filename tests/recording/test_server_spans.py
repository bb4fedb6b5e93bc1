"""Which server spans are noted, which of their names are taken, and how many."""

import copy
import inspect
from types import FunctionType, SimpleNamespace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import Span, TracerProvider

from tests.helpers.cores import CORES
from traceloop.core.choose import Core
from traceloop.recording import server_spans
from traceloop.recording.server_spans import MAX_NAMES, Names, template_of


def span(name, **attributes):
    return SimpleNamespace(name=name, attributes={key.replace("_", "."): value for key, value in attributes.items()})


class Process:
    """Numbers sites, as a process's site log does."""

    def __init__(self):
        self.site_log = self
        self.names = []

    def number(self, site):
        self.names.append(site.label)
        return float(len(self.names))


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (span("GET /items/{id}", http_route="/items/{id}"), "GET /items/{id}"),
        (span("/shop.Prices/Get", rpc_method="Get"), "/shop.Prices/Get"),
        (span("GET /users/ann@example.org"), ""),
        (span("GET /users/ann@example.org", http_route="/users/{name}"), ""),
        (span("/users/ann", http_route="users"), ""),
        (span("GET /users/{name} ann", http_route="/users/{name}"), ""),
        (span("GET /ann/users", http_route="users"), ""),
        (span("/ws/{room}", http_route="/ws/{room}"), "/ws/{room}"),
        (span("HTTP GET items/<int:pk>/", http_route="items/<int:pk>/"), "HTTP GET items/<int:pk>/"),
        (span("shop.Prices/Get", rpc_method="shop.Prices/Get"), "shop.Prices/Get"),
        (span("/shop.Prices/Get ann", rpc_method="Get"), ""),
        (span("GET", http_route=""), ""),
        (span("GET /" + "x" * 1000, http_route="/" + "x" * 1000), "GET /" + "x" * 195),
        (span(5, http_route="/"), ""),
        (SimpleNamespace(name="GET /", attributes=None), ""),
    ],
)
def test_a_name_is_taken_that_says_for_which_route_it_is(found, name):
    assert template_of(found) == name


def test_there_are_so_many_names():
    names, process = Names(), Process()
    sites = [names.site_of(span(f"GET /{n}", http_route=f"/{n}"), process) for n in range(MAX_NAMES + 5)]
    assert sites[:2] == [1.0, 2.0] and sites[MAX_NAMES:] == [0.0] * 5
    assert len(process.names) == MAX_NAMES
    assert names.site_of(span("GET /1", http_route="/1"), process) == 2.0


def test_a_handler_of_two_routes_has_no_name_that_is_remembered():
    names = Names()
    assert names.by_handler.get(7.0, 0.0) == 0.0
    names.learn(7.0, 1.0)
    assert names.by_handler.get(7.0) == 1.0
    names.learn(7.0, 2.0)
    names.learn(7.0, 1.0)
    assert names.by_handler.get(7.0) == 0.0


@pytest.fixture(params=CORES)
def replace(request, monkeypatch):
    """Replaces the methods of a class as those of the SDK's spans are, by this core. Returns the spans noted since."""
    noted = []
    monkeypatch.setattr(server_spans, "_started", lambda span: noted.append(("start", span)))
    monkeypatch.setattr(server_spans, "_ending", lambda span: noted.append(("end", span)))
    if request.param == "python":
        monkeypatch.setattr(server_spans, "core", lambda: Core("python", None, ""))

    def replace(cls):
        for _ in range(2):
            server_spans._patch(SimpleNamespace(Span=cls, trace_api=trace))
        return noted

    return replace


def test_spans_of_servers_are_noted_and_no_others(replace):
    class Own(Span):
        # Not those that a loop of this process has put there.
        start, end = inspect.unwrap(Span.start), inspect.unwrap(Span.end)

    noted = replace(Own)
    tracer = TracerProvider().get_tracer("test")
    server, client = (tracer.start_span("a", kind=kind) for kind in (trace.SpanKind.SERVER, trace.SpanKind.CLIENT))
    for each in (client, server):
        each.__class__ = Own
        each._start_time = None
        each.start(start_time=5)
        each.end(end_time=7)
        assert (each.start_time, each.end_time) == (5, 7)
    assert noted == [("start", server), ("end", server)]


class Plain:
    """A span without the SDK's attribute."""

    def __init__(self, kind):
        self._answer = kind

    @property
    def kind(self):
        if isinstance(self._answer, type):
            raise self._answer
        return self._answer

    def start(self):
        """Starts."""

    def end(self, end_time=0):
        """Ends."""
        return end_time


def test_a_span_of_another_class_is_asked(replace):
    class Own(Plain):
        start, end = Plain.start, Plain.end

    noted = replace(Own)
    server, odd = Own(trace.SpanKind.SERVER), Own(ValueError)
    assert server.end(end_time=8) == 8 and odd.end(9) == 9 and Own(None).end() == 0
    assert noted == [("end", server)]
    with pytest.raises(TypeError):
        Own.end()


def test_the_replaced_methods_look_like_functions(replace):
    class Own(Plain):
        start, end = Plain.start, Plain.end

    replace(Own)
    assert Own.end is not Plain.end
    assert inspect.isfunction(Own.end) and inspect.ismethod(Own(None).end)
    assert inspect.signature(Own.end) == inspect.signature(Plain.end) and Own.end.__doc__ == "Ends."
    assert copy.copy(Own.end) is Own.end


def test_what_a_program_sets_on_a_replaced_method_is_set(replace):
    class Own(Plain):
        def end(self, end_time=0):
            return end_time

        start = Plain.start

    replace(Own)
    Own.end.__doc__, Own.end.__module__, Own.end.__name__, Own.end.mark = "Other.", "other", "close", 1
    assert (Own.end.__doc__, Own.end.__module__, Own.end.__name__, Own.end.mark) == ("Other.", "other", "close", 1)
    with pytest.raises(TypeError):
        Own.end.__name__ = 5
    if type(Own.end) is not FunctionType:  # a function of Python has these of its own
        Own.end.__defaults__, Own.end.__code__ = (3,), (lambda self, end_time: -end_time).__code__
        assert Own(None).end() == -3
        del Own.end.__defaults__
        with pytest.raises(TypeError):
            Own(None).end()
