"""Pauses of the garbage collector are told with the callback that they interrupted."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest

from traceloop.exporters.text.report import report
from traceloop.loop.event_loop import EventLoop
from traceloop.reading import read_loop


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    from traceloop.recording import process

    monkeypatch.setattr(process, "_current", None)
    loop = EventLoop()
    yield loop
    loop.close()


def test_the_interrupted_callback_is_named(loop: EventLoop) -> None:
    def collect_later() -> None:
        time.sleep(0.5)
        gc.collect()

    def collects() -> None:
        gc.collect()

    async def goes_on() -> None:
        for _ in range(3):
            gc.collect()
            await asyncio.sleep(0)

    async def main() -> None:
        loop.call_soon(collects)
        await asyncio.create_task(goes_on())
        await asyncio.to_thread(collect_later)  # while the loop polls: it interrupts nothing
        await asyncio.sleep(0.05)

    gc.disable()
    try:
        loop.run_until_complete(main())
    finally:
        gc.enable()
    statistics = read_loop(loop)
    (process,) = statistics.processes.values()
    found = {name.rpartition(".")[2]: totals for name, totals in process.collections.interrupted.items()}
    assert found["collects"].count == 1 and found["goes_on"].count == 3
    assert found.keys() == {"collects", "goes_on"}
    assert 0 < found["goes_on"].longest <= found["goes_on"].seconds
    by_callback = {
        dict(sample.labels)["callback"]: sample.value
        for sample in statistics.samples()
        if sample.name == "asyncio_callback_gc_pause_seconds_total"
    }
    assert sum(by_callback.values()) == pytest.approx(sum(totals.seconds for totals in found.values()))
    assert "interrupted by garbage collection" in report(statistics, full=True)
