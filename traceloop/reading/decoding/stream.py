"""One ring's record, decoded batch by batch: which loop it is of, where it has gaps, what is under way at its end.

What the records between say is made out by a model: ``decoder.PythonModel``, or its accelerator in C (``native/``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from ...record.text import printable
from .choose import native
from .decoded import Decoded, LoopInfo
from .decoder import PythonModel
from .native_model import NativeModel
from .ring_reader import Batch

# What bytes that pass the checksum and still make no sense raise: NaN or infinity where a count belongs.
_NO_SENSE: Final = (ValueError, OverflowError, MemoryError, TypeError)


class Model(Protocol):
    """From records to rows; keeps what a later batch needs. ``decoded``: always one that ``new_decoded`` made.

    state, since: what the loop's thread was doing when the record (as far as read) ends, and since when. runs: so far.
    damaged: records that made no sense.
    """

    @property
    def state(self) -> int: ...

    @property
    def since(self) -> float: ...

    @property
    def runs(self) -> int: ...

    @property
    def damaged(self) -> int: ...

    def new_decoded(self, loop: LoopInfo | None) -> Decoded:
        """An empty one, with columns of the kind that this model fills."""

    def begin(self, batch: Batch) -> None:
        """This batch is decoded next."""

    def decode(self, decoded: Decoded) -> tuple[float, float] | None:
        """Decodes to the end of the batch, or until another loop takes the ring: then when, and its number.

        After an error it goes on with the next record.
        """

    def next_text(self) -> str:
        """The next item of the batch's text; empty where there is none."""

    def lose_place(self, decoded: Decoded) -> None:
        """Records are missing here: nothing is known of the queue, the state or the context any more."""

    def end(self, written_at: float) -> None:
        """The batch has been decoded; it was written at that time, when its last run had ended."""

    def catch_up(self, decoded: Decoded) -> None:
        """Counts time up to where the record goes, so that a loop that never waits is seen to be active."""

    def finish(self, decoded: Decoded, end: float, running_since: float) -> None:
        """See ``LoopStream.finish``."""


def new_model() -> Model:
    """A model of one ring's record."""
    module = native()
    return PythonModel() if module is None else NativeModel(module)


class LoopStream:
    """Decodes one ring's batches. For one thread.

    state, since: what the loop's thread was doing when the record (as far as read) ends, and since when (monotonic s).
    damaged: records, or groups of them, that made no sense.
    """

    def __init__(
        self, owner: Callable[[], LoopInfo | None] = lambda: None, *, model: Callable[[], Model] = new_model
    ) -> None:
        """``owner``: tells which loop took the ring last; asked where the record's beginning is lost."""
        self._owner = owner
        self._model = model()
        self._faults = 0
        self.loop: LoopInfo | None = None

    @property
    def state(self) -> int:
        """What the loop's thread was doing: ``State``."""
        return self._model.state

    @property
    def since(self) -> float:
        """Since when, monotonic s."""
        return self._model.since

    @property
    def runs(self) -> int:
        """How many runs were read, or are under way."""
        return self._model.runs

    @property
    def damaged(self) -> int:
        """Records, or groups of them, that made no sense."""
        return self._model.damaged + self._faults

    def feed(self, batches: Iterable[Batch]) -> list[Decoded]:
        """What these batches say, in order; several items where loops took turns on the ring."""
        model = self._model
        out: list[Decoded] = []
        decoded = model.new_decoded(self.loop)
        for batch in batches:
            if batch.gap:
                if self.loop is None and self._take_owner(batch) is not None:
                    if not decoded.empty:
                        out.append(decoded)
                    decoded = model.new_decoded(self.loop)
                model.lose_place(decoded)
                decoded.dropped += batch.dropped
            decoded.records += len(batch.records) // 3
            model.begin(batch)
            while True:
                try:
                    stopped_at = model.decode(decoded)
                except _NO_SENSE:
                    self._faults += 1
                    model.lose_place(decoded)
                    continue
                if stopped_at is None:
                    break
                if not decoded.empty:
                    out.append(decoded)
                self.loop = LoopInfo(int(stopped_at[1]), printable(model.next_text()), stopped_at[0])
                decoded = model.new_decoded(self.loop)
            model.end(batch.written_at)
        model.catch_up(decoded)
        out.append(decoded)
        return out

    def _take_owner(self, batch: Batch) -> LoopInfo | None:
        """The loop that wrote the first batch there is, where that can be known."""
        owner = self._owner()
        # Before it took the ring it wrote nothing, and the loop that comes after it says so in a record.
        self.loop = owner if owner is not None and batch.written_at >= owner.since else None
        return self.loop

    def finish(self, end: float = 0.0, running_since: float = 0.0) -> Decoded:
        """The writer has gone: ends the run whose end was not read (a crashed record's last), or the poll.

        ``end``: until when it is known to have been there (monotonic s); 0 where that is not known.
        ``running_since``: the ring's last word of W_RUNNING. The record tells of a poll's end only with what ran
        after it; so this alone tells that a loop had left its last poll, and when.
        """
        decoded = self._model.new_decoded(self.loop)
        self._model.finish(decoded, end, running_since)
        return decoded
