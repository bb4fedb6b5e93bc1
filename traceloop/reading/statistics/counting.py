"""Counts runs by callback, and iterations: in C where the reader's C half is there, else in Python, list by list.

Both give the same numbers, except for the last bits of a sum (tests/reading/decoding/test_native.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import sub
from typing import Any, Final

from ...record.layout import SITE_LIMIT
from ..decoding.choose import native
from ..decoding.decoded import KINDS, LATEST, TASK
from ..decoding.runs import Iterations, Runs
from ..decoding.task_rows import Rows, TaskEnd
from .histograms import COUNTS, DURATIONS, Histogram

# Each ident is remembered with its callback's cell. Tasks come and go, so beyond this many all idents are forgotten.
_MAX_IDENTS: Final = 20_000

#: Takes what was counted of one cell: runs, seconds, the longest.
TakeSums = Callable[[int, float, float], None]


class _Cell:
    """The runs of one callback and kind of handle: durations (s) still to be counted, and a histogram of all so far."""

    __slots__ = ("durations", "kind", "lengths", "take")

    def __init__(self, kind: str, take: TakeSums) -> None:
        self.kind = kind
        self.take = take
        self.durations: list[float] = []
        self.lengths = Histogram()


class RunCounter:
    """Counts runs into histograms by kind, and sums by callback. ``durations``, ``delays``: the histograms."""

    def __init__(
        self,
        durations: dict[str, Histogram],
        delays: dict[str, Histogram],
        find: Callable[[float], tuple[str, TakeSums, bool]],
    ) -> None:
        """``find``: for an ident, returns its callback's name, what takes its sums, and whether both are final."""
        self._durations = durations
        self._delays = delays
        self._find = find
        self._cells: dict[tuple[str, str], _Cell] = {}
        # By kind of handle and ident: the function that takes the duration of a run (``append`` of a cell's list).
        self._adders: dict[str, dict[float, Callable[[float], None]]] = {kind: {} for kind in KINDS}

    def count(self, runs: Runs, finished: Rows[TaskEnd]) -> float:
        """Counts a chunk's runs; returns the length of the longest. ``finished``: see ``Decoded``.

        Runs that are longer than any clock can show come from a damaged record: their length is set to 0.
        """
        delays: dict[str, list[float]] = {}
        adders = self._adders
        ident_now, kind_now = 0.0, ""
        add: Callable[[float], None]
        add_delay: Callable[[float], None]
        add = add_delay = delays.setdefault(runs[0][4], []).append
        # This pass only sorts the runs into lists, which C code then counts. Consecutive runs often have one callback.
        for _, start, end, ident, kind, delay, _, _, _, _ in runs:
            if ident != ident_now or kind is not kind_now:
                if kind is not kind_now:
                    kind_now = kind
                    add_delay = delays.setdefault(kind, []).append
                ident_now = ident
                add = adders[kind].get(ident) or self._adder(kind, ident)
            add(end - start)
            add_delay(delay)
        longest = self._count_durations()
        if not longest < LATEST:
            # A damaged record: no part of the statistics may see such lengths. The runs themselves still count.
            runs.forget_lengths(LATEST)
            longest = max(map(sub, runs.ends, runs.starts))
        for kind, values in delays.items():
            if min(values) < 0.0 or not max(values) < LATEST:  # unknown delays, after a gap; or damage
                values = [value for value in values if 0.0 <= value < LATEST]
            if values or kind in self._durations:  # else all its runs were damaged
                histogram_of(self._durations, kind)
                histogram_of(self._delays, kind).add_all(values)
        tasks = adders[TASK]
        for ident, _, _, _ in finished:
            tasks.pop(ident, None)
        return longest

    def _count_durations(self) -> float:
        """Counts what the cells hold; returns the longest run."""
        longest = 0.0
        for cell in self._cells.values():
            durations = cell.durations
            if durations:
                most = max(durations)
                if most > longest:
                    longest = most
                if not most < LATEST:
                    durations = cell.durations = [length for length in durations if length < LATEST]
                    self.forget()
                    most = max(durations, default=0.0)
                cell.take(len(durations), sum(durations), most)
                if durations:
                    histogram_of(self._durations, cell.kind).add_all(durations)
                    cell.lengths.add_all(durations)
                durations.clear()
        return longest

    def lengths(self) -> Iterator[tuple[str, list[int]]]:
        """Each callback's name, and how many of its runs lie in each fine bucket. A name may come several times."""
        for (_, name), cell in self._cells.items():
            yield name, cell.lengths.counts

    def forget(self) -> None:
        """Forgets which callback each ident stands for."""
        for adders in self._adders.values():
            adders.clear()

    def _adder(self, kind: str, ident: float) -> Callable[[float], None]:
        """The function that takes the durations of an ident, which is seen for the first time."""
        adders = self._adders[kind]
        site = ident % SITE_LIMIT
        if site != ident and site in adders:  # a further task of a coroutine
            known = adders[site]
            if len(adders) >= _MAX_IDENTS:
                adders.clear()
                adders[site] = known
            adders[ident] = known
            return known
        name, take, is_known = self._find(ident)
        key = kind, name
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = _Cell(kind, take)
        add = cell.durations.append
        if is_known:
            if len(adders) >= _MAX_IDENTS:
                adders.clear()
            adders[ident] = adders[site] = add
        return add


class NativeRunCounter:
    """``RunCounter`` in C, for the runs that the C half decoded; others are copied."""

    def __init__(
        self,
        durations: dict[str, Histogram],
        delays: dict[str, Histogram],
        find: Callable[[float], tuple[str, TakeSums, bool]],
        module: Any,
    ) -> None:
        self._durations = durations
        self._delays = delays
        self._find = find
        self._module = module
        self._tally = module.Tally(native_buckets(module)[0])
        self._numbers: dict[tuple[str, str], int] = {}
        self._takers: list[TakeSums] = []

    def count(self, runs: Runs, finished: Rows[TaskEnd]) -> float:
        """See ``RunCounter``."""
        longest: float = self._tally.add(runs, self._cell)
        for number, count, total, most in self._tally.take_cells():
            self._takers[number](count, total, most)
        for kind, durations, delays in self._tally.take_histograms():
            histogram_of(self._durations, kind).add_counted(durations)
            histogram_of(self._delays, kind).add_counted(delays)
        return longest

    def lengths(self) -> Iterator[tuple[str, list[int]]]:
        """See ``RunCounter``."""
        for (_, name), number in self._numbers.items():
            yield name, self._tally.lengths(number)

    def forget(self) -> None:
        """See ``RunCounter``."""
        self._tally.forget()

    def _cell(self, kind: str, ident: float) -> tuple[int, bool]:
        """The number of a run's cell, and whether it is final."""
        name, take, is_known = self._find(ident)
        number = self._numbers.get((kind, name))
        if number is None:
            number = self._numbers[kind, name] = len(self._takers)
            self._takers.append(take)
        return number, is_known


def run_counter(
    durations: dict[str, Histogram],
    delays: dict[str, Histogram],
    find: Callable[[float], tuple[str, TakeSums, bool]],
    runs: Runs,
) -> RunCounter | NativeRunCounter:
    """The counter for runs of this form."""
    module = native_of(runs)
    if module is None:
        return RunCounter(durations, delays, find)
    return NativeRunCounter(durations, delays, find, module)


def native_of(columns: Runs | Iterations) -> Any:
    """The extension module, where it has made these columns; else None."""
    module = native()
    return module if module is not None and type(columns) in (module.Runs, module.Iterations) else None


def count_iterations(iterations: Iterations, durations: Histogram, callbacks: Histogram, delays: Histogram) -> None:
    """Counts a chunk's iterations; there is one at least."""
    module = native_of(iterations)
    if module is not None:
        lengths, counts, late = module.count_iterations(iterations, *native_buckets(module))
        durations.add_counted(lengths)
        callbacks.add_counted(counts)
        delays.add_counted(late)
        return
    # By column: an iteration may have but one run, and what is done for each weighs as much as that.
    durations.add_all(map(sub, iterations.ends, iterations.starts))
    callbacks.add_all(iterations.callbacks)
    poll_delays = iterations.poll_delays
    if max(poll_delays) >= 0.0:
        delays.add_all([delay for delay in poll_delays if delay >= 0.0])


def histogram_of(family: dict[str, Histogram], kind: str) -> Histogram:
    """The histogram of this kind of handle, made at its first use."""
    histogram = family.get(kind)
    if histogram is None:
        histogram = family[kind] = Histogram()
    return histogram


_made: dict[Any, tuple[Any, Any]] = {}


def native_buckets(module: Any) -> tuple[Any, Any]:
    """The bounds of durations and of counts, as C has them."""
    if module not in _made:
        _made[module] = module.Buckets(DURATIONS.fine), module.Buckets(COUNTS.fine)
    return _made[module]
