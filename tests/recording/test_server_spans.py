"""Which names of server spans are taken, and how many."""

from types import SimpleNamespace

import pytest

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
