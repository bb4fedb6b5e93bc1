import pytest

from tests.helpers.exported import record


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """A record with a bit of everything (tests/helpers/exported.py)."""
    return record(tmp_path_factory.mktemp("exported"))
