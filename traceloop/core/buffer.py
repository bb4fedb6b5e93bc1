"""Records that wait to be written: those of one loop since its last batch."""

from __future__ import annotations

import weakref
from typing import Any, Final

# The position of the record while the loop does not run: far below 0, which readers take for "nowhere".
NOWHERE = -(1 << 52)


class _Waiting(list[Any]):
    """A list that weak references can refer to. Appending to it costs as much as with a plain one."""

    __slots__ = ("__weakref__",)


# The lists of each record, by its id. A loop refers to its record, and everything that the program makes on the loop
# refers to the loop. Some programs count the objects that a stream or a client refers to, and must not count what was
# recorded. So the record has only weak references to its lists, which are kept here as long as it lives.
_kept: Final[dict[int, tuple[_Waiting, _Waiting]]] = {}


class Record:
    """The waiting records of one loop, for the loop's thread and for signal handlers that interrupt it.

    ``doubles``: triples (layout.py), flat. The iteration appends to it itself; other code uses ``add``.
    ``text``: the items of text that some of the records own, in order; an integer stands for the automatic name of the
    task of that number.
    ``base``: doubles written to the ring before these, ever; ``NOWHERE`` while the loop does not run.
    """

    __slots__ = ("__weakref__", "_doubles", "_text", "base")

    def __init__(self) -> None:
        doubles, text = _kept[id(self)] = _Waiting(), _Waiting()
        self._doubles: Any = weakref.ref(doubles)
        self._text: Any = weakref.ref(text)
        self.base = NOWHERE

    def __del__(self) -> None:
        _kept.pop(id(self), None)

    def _begin_again(self) -> None:
        """Makes new lists, if the record has outlived those that were kept for it: the garbage collector and the end of
        the interpreter finalize in any order. A loop that was not closed may come last; it closes itself, and writes.
        """
        doubles: list[float] = []
        text: list[str | int] = []
        self._doubles, self._text = lambda: doubles, lambda: text

    @property
    def doubles(self) -> list[float]:
        """The waiting records."""
        waiting: list[float] | None = self._doubles()
        if waiting is None:
            self._begin_again()
            return self.doubles
        return waiting

    @property
    def text(self) -> list[str | int]:
        """Their text."""
        waiting: list[str | int] | None = self._text()
        if waiting is None:
            self._begin_again()
            return self.text
        return waiting

    def __len__(self) -> int:
        """Doubles that wait: three for each record."""
        return len(self.doubles)

    def add(self, a: float, kind: float, b: float) -> None:
        """Adds one record."""
        try:
            self._doubles().extend((a, kind, b))
        except AttributeError:  # the list is gone
            self.doubles.extend((a, kind, b))

    def add_text(self, item: str) -> None:
        """Adds the item of text that belongs to a record just added, or about to be."""
        self.text.append(item)

    @property
    def position(self) -> int:
        """Doubles recorded so far, the waiting ones included: the place at which the next record will stand."""
        return self.base + len(self.doubles)

    def drop_partial(self) -> None:
        """Removes a record that was appended only in part, because an exception or a signal came in the middle."""
        doubles = self.doubles
        del doubles[len(doubles) // 3 * 3 :]

    def drop(self) -> None:
        """Drops what waits."""
        self.doubles.clear()
        self.text.clear()

    def write_to(self, ring: Any, now: float) -> bool:
        """Writes what waits into ``ring`` (recording/ring.py) and returns True, where the core has a quicker way of its
        own. False, and nothing was written: what ``take`` gives is for ``ring.write``.
        """
        return False

    def take(self) -> tuple[list[float], list[str]]:
        """Takes the records that wait, with their text, as the ring has them. Nothing waits afterwards."""
        waiting, names = self.doubles, self.text
        doubles, text = waiting[:], names[:]
        # Only what was copied: a signal handler may have added more meanwhile.
        del waiting[: len(doubles)]
        del names[: len(text)]
        return doubles, spelled_out(text)


def spelled_out(text: list[str | int]) -> list[str]:
    """The text of a batch as the ring has it. A number stands for the automatic name of a task: the first one is
    written out, and one that is higher by one than the number before it becomes an empty item (layout.py).
    """
    if not text:
        return []
    first = text[0]
    if type(first) is int and text == list(range(first, first + len(text))):  # a burst: 16 instead of 40 ns a task
        return [f"Task-{first}"] + [""] * (len(text) - 1)
    out: list[str] = []
    before = -1
    for item in text:
        if type(item) is int:
            out.append("" if item == before + 1 and before >= 0 else f"Task-{item}")
            before = item
        else:
            out.append(item)  # type: ignore[arg-type]
            before = -1
    return out
