"""The model of a record in C, as ``stream.LoopStream`` asks for one."""

from __future__ import annotations

from array import array
from typing import Any

from .decoded import Decoded, LoopInfo
from .rare_records import RareRecords
from .ring_reader import Batch


def new_decoded(module: Any, loop: LoopInfo | None) -> Decoded:
    """An empty chunk, for a model of ``module``, the reader's extension."""
    decoded = Decoded(loop)
    decoded.runs, decoded.iterations, decoded.tasks, decoded.finished, decoded.requests, decoded.spans = (
        module.new_columns()
    )
    return decoded


class NativeModel:
    """See ``stream.Model``."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._model = model = module.Model(RareRecords())
        self.decode = model.decode
        self.lose_place = model.lose_place
        self.catch_up = model.catch_up
        self.finish = model.finish

    @property
    def state(self) -> int:
        """See ``stream.Model``, as of the others."""
        state: int = self._model.state
        return state

    @property
    def since(self) -> float:
        since: float = self._model.since
        return since

    @property
    def runs(self) -> int:
        runs: int = self._model.runs
        return runs

    @property
    def damaged(self) -> int:
        damaged: int = self._model.damaged
        return damaged

    def new_decoded(self, loop: LoopInfo | None) -> Decoded:
        return new_decoded(self._module, loop)

    def begin(self, batch: Batch) -> None:
        records = batch.records
        if not isinstance(records, memoryview):
            records = memoryview(array("d", records))
        self._model.begin(records, batch.text, batch.records_before, batch.written_at)

    def next_text(self) -> str:
        return next(self._model, "")

    def end(self, written_at: float) -> None:
        self._model.written_at = written_at
