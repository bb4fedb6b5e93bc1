"""Requests of all kinds at once, from forty connections: the ledger against what the program itself knows of them."""

import pytest

from tests.helpers.cores import CORES
from tests.reading.requests import mixed_load
from traceloop.reading.decoding.choose import load_native

READERS = ["python"] if load_native() is None else ["python", "c"]


def check(server, core, requests, folder, spans=False):
    pytest.importorskip(server)
    known, kept = mixed_load.run(server, requests, 40, folder, core, spans=spans)
    assert sum(known["counts"].values()) == requests
    ledgers = [mixed_load.ledger_of(kept, reader) for reader in READERS]
    for ledger in ledgers:
        assert mixed_load.problems_of(known, ledger) == []
        assert all(each["request"].startswith("GET /") == spans for each in ledger["by_name"])
    assert mixed_load.differences(ledgers[0], ledgers[-1]) == []


@pytest.mark.parametrize(("server", "core"), [("fastapi", "c"), ("aiohttp", "python")])
def test_a_mixture_is_told_as_it_was(server, core, tmp_path):
    check(server, core if core in CORES else "python", 240, tmp_path)


@pytest.mark.parametrize(("server", "core"), [("fastapi", "python"), ("aiohttp", "c")])
def test_a_mixture_with_server_spans_is_told_as_it_was(server, core, tmp_path):
    pytest.importorskip("opentelemetry.instrumentation.asgi")
    check(server, core if core in CORES else "python", 240, tmp_path, spans=True)


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("server", mixed_load.SERVERS)
def test_ten_thousand_requests_are_told_as_they_were(server, core, tmp_path):
    check(server, core, 10_000, tmp_path)
