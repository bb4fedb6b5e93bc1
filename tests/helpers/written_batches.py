"""What recorders write into their rings, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.cores import NATIVE
from traceloop.recording.ring import Ring


def note_batches(patch: pytest.MonkeyPatch, note: Callable[[Ring, list[float], list[str]], None]) -> None:
    """From now on calls ``note`` with the ring, the doubles and the text of each batch before it is written. The C core
    leaves its batches to ``Ring.write`` until ``patch`` is undone.
    """
    write = Ring.write

    def noted(ring: Ring, records: Any, text: list[str], now: float) -> None:
        note(ring, list(records), list(text))
        write(ring, records, text, now)

    patch.setattr(Ring, "write", noted)
    if NATIVE is not None:
        patch.setattr(NATIVE.Record, "write_to", lambda *_: False)
