"""What servers hand over while they are patched, whatever it is."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from traceloop.recording import request_handlers


class Proxy:
    """As a proxy of an application that is not made yet."""

    @property
    def __dict__(self) -> dict[str, Any]:
        raise RuntimeError("not made yet")

    async def __call__(self, *args: Any) -> None:
        """ASGI."""


def test_an_application_that_cannot_be_looked_at_is_served_all_the_same() -> None:
    module = ModuleType("granian.server.mp")

    def _asgi_call_wrap(callback: Any, *args: Any) -> Any:
        return callback, args

    module._asgi_call_wrap = _asgi_call_wrap  # type: ignore[attr-defined]
    request_handlers._patch_granian(module)
    app = Proxy()
    assert module._asgi_call_wrap(app, 1) == (app, (1,))
    assert module._asgi_call_wrap is not _asgi_call_wrap
