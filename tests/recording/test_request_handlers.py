"""What servers hand over while they are patched, whatever it is."""

from __future__ import annotations

import gc
import weakref
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


class Application:
    """ASGI, of this file: the application's own code."""

    async def __call__(self, *args: Any) -> None:
        """ASGI."""


class Middleware(Application):
    """Around one."""

    def __init__(self, app: Any) -> None:
        self.app = app


def test_what_is_known_of_an_application_is_not_believed_of_another_one_at_its_address() -> None:
    app = Application()
    request_handlers._own_code[id(app)] = (lambda: None, False)  # what was there is gone
    assert request_handlers._application_behind(Middleware(Middleware(app))) is app
    assert request_handlers._application_behind(app) is app


def test_a_middleware_that_is_given_another_application_is_looked_through_again() -> None:
    first, second = Application(), Application()
    middleware = Middleware(first)
    assert request_handlers._application_behind(middleware) is first
    middleware.app = second
    assert request_handlers._application_behind(middleware) is second


def test_applications_are_not_kept_alive_and_their_number_is_bounded() -> None:
    gone = []
    for _ in range(300):
        app = Application()
        assert request_handlers._application_behind(app) is app
        gone.append(weakref.ref(app))
        assert len(request_handlers._own_code) <= request_handlers._MOST_APPLICATIONS
    del app
    gc.collect()
    assert not [each for each in gone if each() is not None]
