"""The timer heap against a model: a sorted list of what should still run."""

from __future__ import annotations

import asyncio
import heapq
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.helpers.cores import CORES
from traceloop.loop.event_loop import EventLoop


class ClockedLoop(EventLoop):
    """A loop whose clock stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(recorder=False)

    def time(self) -> float:
        return self.now


class TimerHeap(RuleBasedStateMachine):
    """Timers are set, cancelled, swept and fall due, in any order; what runs, and in which order, is the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = ClockedLoop()
        self.ran: list[int] = []
        self.handles: dict[int, Any] = {}
        # number -> (due, order of setting), of those that should still run
        self.waiting: dict[int, tuple[float, int]] = {}
        self.number = 0

    def teardown(self) -> None:
        self.loop.close()

    def _set(self, when: float) -> None:
        self.number += 1
        self.handles[self.number] = self.loop.call_at(when, self.ran.append, self.number)
        self.waiting[self.number] = (when, self.number)

    @rule(delay=st.floats(0, 20))
    def set_one(self, delay: float) -> None:
        self._set(self.loop.now + delay)

    @rule(count=st.integers(1, 150), delay=st.integers(0, 3))
    def set_many_at_once(self, count: int, delay: int) -> None:
        for _ in range(count):
            self._set(self.loop.now + delay)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel_one(self, data: Any) -> None:
        number = data.draw(st.sampled_from(sorted(self.waiting)))
        self.handles[number].cancel()
        self.handles[number].cancel()  # twice is once
        del self.waiting[number]

    @precondition(lambda self: self.waiting)
    @rule(share=st.integers(1, 4))
    def cancel_many(self, share: int) -> None:
        for number in [number for number in self.waiting if number % share == 0]:
            self.handles[number].cancel()
            del self.waiting[number]

    @rule()
    def share_the_heap(self) -> None:
        """Somebody takes ``_scheduled`` for a heap of handles, as nest_asyncio does."""
        heap = self.loop._scheduled
        assert all(isinstance(handle, asyncio.TimerHandle) for handle in heap)
        assert all(heap[(place - 1) // 2]._when <= heap[place]._when for place in range(1, len(heap)))

    @precondition(lambda self: len(self.loop._timer_heap))
    @rule()
    def pop_as_others_do(self) -> None:
        handle = heapq.heappop(self.loop._scheduled)
        handle._scheduled = False
        if handle._cancelled:
            self.loop._timer_cancelled_count -= 1
        else:
            number = handle._args[0]
            del self.waiting[number]

    @rule(seconds=st.floats(0, 6))
    def time_passes(self, seconds: float) -> None:
        self.loop.now += seconds
        # Two iterations: what falls due in one runs in it, but a timer moved by the last reading may come later.
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()
        limit = self.loop.now + self.loop._clock_resolution
        due = sorted((when, order, number) for number, (when, order) in self.waiting.items() if when < limit)
        expected = [number for _, _, number in due]
        for number in expected:
            del self.waiting[number]
        if self.loop._timer_heap.shared:
            # Handles of one moment order themselves by it alone.
            moments = {number: when for when, _, number in due}
            assert sorted(self.ran) == sorted(expected)
            assert [moments[number] for number in self.ran] == [when for when, _, _ in due]
        else:
            assert self.ran == expected
        self.ran.clear()

    @invariant()
    def counts_hold(self) -> None:
        heap = self.loop._timer_heap.heap
        handles = [entry[2] for entry in heap]
        cancelled = sum(handle._cancelled for handle in handles)
        assert self.loop._timer_cancelled_count == cancelled
        assert len(heap) - cancelled == len(self.waiting)
        assert all(handle._scheduled for handle in handles)
        # What is cancelled holds its place only until it is swept: never more of them than live ones, nor than 100.
        assert all(heap[(place - 1) // 2][0] <= heap[place][0] for place in range(1, len(heap)))

    @invariant()
    def a_sweep_leaves_few_cancelled(self) -> None:
        self.loop._timer_heap.sweep()
        live = len(self.waiting)
        assert self.loop._timer_cancelled_count <= max(100, live)


TestTimerHeap = TimerHeap.TestCase
TestTimerHeap.settings = hypothesis.settings(max_examples=25, stateful_step_count=25)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("keeps", [False, True], ids=["looks", "keeps"])
def test_timers_run_in_order_when_others_look_at_the_heap(core: str, keeps: bool) -> None:
    """As monitors do that report how many timers wait. Whoever keeps the list may still change it."""
    ran: list[Any] = []

    async def main() -> list[bool]:
        loop: Any = asyncio.get_running_loop()
        start, kept, shared = loop.time(), [], []
        ended = asyncio.Event()
        for number in range(60):
            # Later than all of them are set, on a slow machine too.
            timer = loop.call_at(start + 0.5 - number % 7 / 1000, ran.append, (-(number % 7), number))
            if number % 10 == 0:
                timer.cancel()
                assert len(loop._scheduled) > 0
                if keeps:
                    kept.append(loop._scheduled)
            if number % 4 == 0:
                await asyncio.sleep(0)
                shared.append(bool(loop._timer_heap.shared))
        if keeps:
            heapq.heappush(kept[0], heapq.heappop(kept[0]))
        loop.call_at(start + 0.51, ended.set)
        await ended.wait()
        assert loop._timer_cancelled_count == len(loop._timer_heap) == 0
        return shared

    with asyncio.Runner(debug=False, loop_factory=CORES[core]) as runner:
        shared = runner.run(main())
    assert set(ran) == {(-(number % 7), number) for number in range(60) if number % 10}
    assert [first for first, _ in ran] == sorted(first for first, _ in ran)
    assert any(shared) == (keeps or core == "python")
