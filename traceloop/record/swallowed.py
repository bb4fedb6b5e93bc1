"""The kinds of errors that no code handles, as the record names them."""

from __future__ import annotations

from typing import Final

NOT_AWAITED: Final = "not_awaited"
NOT_RETRIEVED: Final = "not_retrieved"
CALLBACK: Final = "callback"
SORTS: Final = (NOT_AWAITED, NOT_RETRIEVED, CALLBACK)
