"""The log of sites: every number means one callback, to the process and to its readers."""

from __future__ import annotations

from traceloop.reading.site_names import SiteLogReader
from traceloop.record.sites import Site
from traceloop.recording import own_file
from traceloop.recording.site_log import SiteLog


def test_a_site_that_is_named_while_another_one_is_written_gets_a_number_of_its_own(tmp_path, monkeypatch):
    """As by a finalizer that a garbage collection runs in the middle of it."""
    log = SiteLog(str(tmp_path / "sites"))
    outer, inner = Site("m", "outer", "f", 1), Site("m", "inner", "f", 2)
    write = own_file._write

    def collecting(fd, data):
        monkeypatch.setattr(own_file, "_write", write)
        log.number(inner)
        return write(fd, data)

    monkeypatch.setattr(own_file, "_write", collecting)
    numbers = {outer: log.number(outer), inner: log.number(inner)}
    assert len(set(numbers.values())) == 2
    reader = SiteLogReader(str(tmp_path / "sites"))
    reader.read()
    for site, number in numbers.items():
        assert log.sites[int(number)] == site and reader.site(int(number)) == site
    log.close()


def test_a_site_that_cannot_be_written_takes_no_number(tmp_path, monkeypatch):
    log = SiteLog(str(tmp_path / "sites"))
    write = own_file._write

    def full(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(own_file, "_write", full)
    assert [log.number(Site("m", "lost", "f", 1)) for _ in range(3)] == [0.0] * 3
    monkeypatch.setattr(own_file, "_write", write)
    assert log.number(Site("m", "found", "f", 2)) == 1.0
    log.close()
