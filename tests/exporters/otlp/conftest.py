import pytest

from traceloop.exporters.otlp import connection


@pytest.fixture(params=["plain", "requests"])
def transport(request, monkeypatch):
    """Has the test run over plain HTTP, and through the library."""
    if request.param == "requests":
        monkeypatch.setattr(connection, "speaks_plainly", lambda *args: False)
    return request.param
