"""Detection of growth: of a number that is sampled about once a second.

Two rules, because growth shows in two ways:

* **It stays**: through a whole window the number is above its earlier level by more than a margin, however it got
  there. A burst that is gone before the window ends is none.
* **It rises**: cut into parts, the window's parts each lie wholly above (or, for a sawtooth such as a garbage collected
  heap, have their lowest point above) the part before. This finds a steady leak sooner than the first rule.

The level follows the number down: what has come down to its old level and stays there may grow anew. After a
detection the level is the new one, and the margin grows with it, so that a leak is reported at ever greater steps and
not once a second.

Nothing here reads a clock or the interpreter: samples are handed in, which is how it is tested.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import NamedTuple


class Growth(NamedTuple):
    """One detection. start, end: the window in which it grew, s; before, after: the level and the number."""

    start: float
    end: float
    before: float
    after: float


class SteadyClock:
    """Time as a detector should see it: it stands still while no samples were taken, or the program could not act.

    What holds its place while a loop is blocked, or its process gets no processor, does not stay of its own accord.
    """

    def __init__(self, longest_step: float) -> None:
        self._longest_step = longest_step
        self._last: float | None = None
        self._lost = 0.0

    def advance(self, now: float, *, still: bool = False) -> float:
        """The detector's time at ``now`` (s). still: what has passed since the last call counts for nothing."""
        if self._last is not None:
            step = now - self._last
            self._lost += step if still else max(0.0, step - self._longest_step)
        self._last = now
        return now - self._lost

    def translate(self, growth: Growth) -> Growth:
        """A detection of this moment, in the caller's time; what was left out counts as before the window."""
        return growth._replace(start=growth.start + self._lost, end=growth.end + self._lost)


class Stays:
    """The number stays above ``level + margin`` through ``window`` seconds.

    margin: the larger of ``least`` and ``part`` of the level. The level begins at 0, or, where ``settle`` is above 0,
    at the highest sample of the first ``settle`` seconds.
    """

    def __init__(self, window: float, least: float, part: float, settle: float = 0.0) -> None:
        self.level = 0.0
        self._window = window
        self._least = least
        self._part = part
        self._settle = settle
        self._begin: float | None = None
        self._settled = settle <= 0.0
        self._samples: deque[tuple[float, float]] = deque()

    def sample(self, now: float, value: float) -> Growth | None:
        """Takes one sample; returns a detection if this is the moment of one."""
        if self._begin is None:
            self._begin = now
        if not self._settled:
            self.level = max(self.level, value)
            self._settled = now - self._begin >= self._settle
            return None
        samples = self._samples
        samples.append((now, value))
        while len(samples) > 1 and samples[1][0] <= now - self._window:
            samples.popleft()
        if now - samples[0][0] < self._window:
            return None
        lowest = min(number for _, number in samples)
        if lowest > self.level + self.margin:
            growth = Growth(samples[0][0], now, self.level, value)
            # Not the lowest of the window: it may have begun in the middle of the rise.
            self.level = min(number for _, number in list(samples)[-3:])
            return growth
        self.level = min(self.level, max(number for _, number in samples))
        return None

    @property
    def margin(self) -> float:
        """How much above its level the number has to stay."""
        return max(self._least, self._part * self.level)


class Rises:
    """The lowest points of ``parts`` successive parts of ``seconds`` each rise, by ``least`` in all or more.

    ``part``: of the first of them, if that is more than ``least``. ``wholly``: each part's lowest point has to be above
    the highest of the part before. Each step has to be at least a quarter of its share of ``least``, and the last one
    no less than 0.4 of the mean: what slows down approaches a level. Windows that begin within ``warming`` seconds of
    the first sample have to rise by twice as much: programs fill their caches then.
    """

    def __init__(
        self, parts: int, seconds: float, least: float, part: float, *, wholly: bool, warming: float = 0.0
    ) -> None:
        self._count = parts
        self._seconds = seconds
        self._least = least
        self._part = part
        self._wholly = wholly
        self._parts: deque[tuple[float, float, float]] = deque(maxlen=parts)
        self._began: float | None = None
        self._low = self._high = 0.0
        self._warming = warming
        self._warm_at: float | None = None

    def sample(self, now: float, value: float) -> Growth | None:
        """Takes one sample; returns a detection if this is the moment of one."""
        if self._began is None:
            self._began, self._low, self._high = now, value, value
        if self._warm_at is None:
            self._warm_at = now + self._warming
        self._low = min(self._low, value)
        self._high = max(self._high, value)
        if now - self._began < self._seconds:
            return None
        self._parts.append((self._began, self._low, self._high))
        self._began, self._low, self._high = now, value, value
        if len(self._parts) < self._count:
            return None
        first, last = self._parts[0], self._parts[-1]
        rise = last[1] - first[1]
        needed = max(self._least, self._part * first[1]) * (2 if first[0] < self._warm_at else 1)
        step = needed / (self._count - 1) / 4
        if rise < needed or not self._each_step(step):
            return None
        self._parts.clear()
        return Growth(first[0], now, first[1], value)

    def _each_step(self, step: float) -> bool:
        parts = list(self._parts)
        mean = (parts[-1][1] - parts[0][1]) / (len(parts) - 1)
        return parts[-1][1] - parts[-2][1] >= 0.4 * mean and all(
            after[1] >= before[1] + step and (not self._wholly or after[1] >= before[2])
            for before, after in pairwise(parts)
        )


# Timers: a steady thousand is none, with room for its unsteadiness; at 100 leaked timers a second the second rule
# speaks after 16 s, the first after 32.
_TIMER_LEAST = 1200.0
_TIMER_RISE = 1000.0
#: Fewer timers than this are no growth, however long they stay.
FEW_TIMERS = 1000


class TimerGrowth:
    """Growth of the timer heap: of its entries that are not cancelled."""

    def __init__(self) -> None:
        self._stays = Stays(20.0, _TIMER_LEAST, 0.5)
        self._rises = Rises(4, 3.6, _TIMER_RISE, 0.25, wholly=True)

    def sample(self, now: float, live: float) -> Growth | None:
        """Takes the number of live entries at ``now`` (s), about once a second."""
        stays = self._stays.sample(now, live)
        rises = self._rises.sample(now, live)
        if stays is None and rises is not None:
            # Reported once: the other rule would detect the same some seconds later.
            if live <= self._stays.level + self._stays.margin:
                return None
            growth = rises._replace(before=min(rises.before, self._stays.level))
            self._stays.level = live
            return growth
        return stays


class MemoryGrowth:
    """Growth of a memory heap; its samples are noisy, and every program's memory grows when it starts.

    fast, slow: what it has to grow by, in its own unit, within one minute and within six. In the first two minutes of
    the samples twice as much, since caches fill. Twice ``fast``, and by a quarter, within 15 s is enough at any time: a
    process that grows so does not last for many minutes.
    """

    def __init__(self, fast: float, slow: float, part: float = 0.03) -> None:
        self._rules = [
            Rises(5, 2.6, 2 * fast, 0.25, wholly=True),
            Rises(5, 10.0, fast, part, wholly=False, warming=60.0),
            Rises(6, 60.0, slow, part, wholly=False),
        ]
        self._reported = 0.0

    def sample(self, now: float, value: float) -> Growth | None:
        """Takes one sample at ``now`` (s); returns a detection if this is the moment of one."""
        found: Growth | None = None
        for rule in self._rules:
            growth = rule.sample(now, value)
            # A leak goes on: it is reported again when it has grown by half again.
            if growth is not None and growth.after > self._reported:
                found = growth
        if found is not None:
            self._reported = found.after + max(0.5 * (found.after - found.before), 0.1 * found.after)
        elif self._reported and value < 0.6 * self._reported:
            self._reported = 0.0
        return found
