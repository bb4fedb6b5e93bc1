"""Counting handles in a record, batch by batch, with no statistics between."""

from __future__ import annotations

from pathlib import Path

from traceloop.reading.decoding.ring_reader import RingReader
from traceloop.reading.process_folders import RunDirectory
from traceloop.record import layout
from traceloop.record.sites import site_of


def count_handles(run_dir: Path, label: str) -> dict[int, int]:
    """By pid: how often the callback ran, as the rings of the record say. Asserts that they are whole."""
    counts: dict[int, int] = {}
    for folder in RunDirectory(run_dir).processes():
        counts.setdefault(folder.pid, 0)
        for path in folder.rings():
            reader = RingReader(path)
            if reader.kind == layout.KIND_LOOP:
                counts[folder.pid] += _count(reader, folder.sites, label)
                assert reader.dropped == 0
            reader.close()
    return counts


def _count(reader: RingReader, sites, label: str) -> int:
    found = 0
    while batches := reader.read(final=True):
        for batch in batches:
            for ident in batch.records[1::3]:
                if ident > 0 and sites.label(int(site_of(ident))) == label:
                    found += 1
    return found
