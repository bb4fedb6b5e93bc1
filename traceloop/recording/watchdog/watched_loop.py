"""What the watchdog keeps in mind: of each loop that runs, of its stall, and of how much it has said."""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic
from typing import Any, Final

from ...record import layout
from .. import failures, own_threads
from .stacks import Run
from .thread_clocks import Sample, ThreadClocks

_NONE: Final[Sample] = (0.0, -1.0, -1.0, -1.0, -1)
_MAX_HISTORY: Final = 32


class Stall:
    """A handle run past its threshold. line_from: the length (s) from which on a line is printed: more than the
    threshold where a pattern knows the culprit and allows it more. seen: when its last stack was taken, s.
    """

    __slots__ = (
        "announced",
        "before",
        "held",
        "holder_in_line",
        "ident",
        "line_from",
        "reported",
        "reported_culprit",
        "samples",
        "seen",
        "stack_at",
        "stacks",
        "start",
        "threshold",
    )

    def __init__(self, start: float, ident: float, threshold: float, line_from: float, before: Sample | None) -> None:
        self.start = start
        self.seen = start
        self.ident = ident
        self.threshold = threshold
        self.line_from = line_from
        self.reported = False
        self.before = before
        self.samples: list[Sample] = []
        self.stacks = 0
        self.stack_at = start + threshold
        # Since when it was seen in whose code, by the stacks.
        self.held: list[tuple[float, str]] = []
        self.announced = False
        #: The culprit in the line that was printed last.
        self.reported_culprit = ""
        self.holder_in_line = False

    def set_next_stack(self, now: float) -> None:
        """At the threshold, and then with doubling gaps; a turn that came late does not make them come at once."""
        length = self.threshold
        while self.start + length <= now:
            length *= 2
        self.stack_at = self.start + length
        if now < self.start + self.line_from:
            self.stack_at = min(self.stack_at, self.start + self.line_from)


class Watched:
    """One loop that runs, as the watchdog sees it."""

    __slots__ = (
        "began",
        "clocks",
        "compared",
        "first",
        "general_threshold",
        "history",
        "loop",
        "name",
        "ring",
        "sampled_at",
        "stall",
        "thread",
        "words",
        "written",
    )

    def __init__(self, loop: Any, ring: int, words: memoryview[float], general_threshold: float) -> None:
        """Made in the loop's thread. ``ring``, ``words``: number and words of the ring that it is recorded in."""
        self.loop = loop
        self.ring = ring
        self.words = words
        self.general_threshold = general_threshold
        self.thread = own_threads.get_ident()
        words[layout.W_PTHREAD] = self.thread
        self.name = threading.current_thread().name
        self.clocks = ThreadClocks()
        #: Samples: the latest all, older ones ever farther apart, so that one from before a long run is among them.
        self.history: list[Sample] = []
        self.stall: Stall | None = None
        #: Samples of ``ProcessorWaits``: the first, the one that later ones are compared with, and the last written.
        self.first: Sample | None = None
        self.compared = self.written = _NONE
        #: When the profile looked last, s.
        self.sampled_at = self.began = monotonic()

    def sample(self) -> Sample:
        """What is measured now. Costs about 10 us."""
        sample = self.clocks.sample()
        self._keep(sample)
        return sample

    def take(self, sample: Sample) -> None:
        """What a turn in C has measured."""
        self.clocks.take(sample)
        self._keep(sample)

    def _keep(self, sample: Sample) -> None:
        self.history.append(sample)
        if len(self.history) > _MAX_HISTORY:
            del self.history[1 : _MAX_HISTORY // 2 : 2]


class StoppedLoops(deque[Watched]):
    """Loops that have stopped. The next turn ends what was seen of them, unless one runs again by then: it would take a
    tenth of an ``asyncio.run`` to make that anew for each of its three runs. Used under the watchdog's lock.
    """

    def __init__(self) -> None:
        super().__init__(maxlen=64)

    def take_back(self, loop: Any, ring: int) -> Watched | None:
        """What was seen of ``loop``, if it is the one that stopped last, and runs again in the calling thread."""
        if not self or (last := self[-1]).loop is not loop or last.ring != ring or not last.clocks.are_of_this_thread():
            return None
        last.sampled_at = monotonic()
        return self.pop()

    def take_all(self) -> list[Watched]:
        """All of them; there are none then."""
        out = [*self]
        self.clear()
        return out


def has_the_clock(loop: Any) -> bool:
    """Whether a loop's time is ours. A test's loop may have a clock of its own: what it publishes can't be compared."""
    try:
        return bool(abs(loop.time() - monotonic()) < 1.0)
    except Exception as error:
        failures.pass_on(error)
        return False


def begin_stall(watched: Watched, run: Run, limit: float, line_from: float) -> Stall:
    """The run that is under way in a loop is one; ``limit``, ``line_from``: s, see ``Stall``."""
    before = next((sample for sample in reversed(watched.history) if sample[0] <= run.start), None)
    stall = watched.stall = Stall(run.start, run.ident, limit, line_from, before)
    stall.samples = [sample for sample in watched.history if sample[0] > run.start]
    return stall


class TokenBucket:
    """At most ``per_minute`` events a minute, all of them at once if none came before."""

    def __init__(self, per_minute: int) -> None:
        self._size = per_minute
        self._left = float(per_minute)
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether one more event may come at ``now`` (s)."""
        self._left = min(self._size, self._left + max(0.0, now - self._at) * self._size / 60)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
