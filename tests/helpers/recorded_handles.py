"""Counting handles in a record, batch by batch, with no statistics between."""

from __future__ import annotations

from collections import Counter
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
                for site, times in runs_by_site(reader).items():
                    counts[folder.pid] += times if folder.sites.label(site) == label else 0
                assert reader.dropped == 0
            reader.close()
    return counts


def runs_by_site(reader: RingReader) -> Counter[int]:
    found: Counter[int] = Counter()
    while batches := reader.read(final=True):
        for batch in batches:
            found.update(int(site_of(ident)) for ident in batch.records[1::3] if ident > 0)
    return found
