"""Methods that a program replaces on asyncio's own classes of loops: its replacement runs here too.

Tests put something else in the place of ``asyncio.BaseEventLoop.create_connection``, or wrap it, and expect every loop
to follow. A replacement may call what it has replaced: the standard method works on our loop. It is looked for where
the method is taken from the loop, which costs some 0.3 us; so the methods that are called for each callback,
``add_reader`` and its like, and reads and writes of sockets are not among these. Nor are ``set_debug`` and those by
which a loop runs and is closed.
"""

from __future__ import annotations

import asyncio
from types import FunctionType, MethodType
from typing import Any, Final

from .loop_part import LoopPart

_StandardLoop: Final[Any] = asyncio.SelectorEventLoop

_FOLLOWED: Final = (
    "add_signal_handler",
    "call_exception_handler",
    "connect_accepted_socket",
    "connect_read_pipe",
    "connect_write_pipe",
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "default_exception_handler",
    "get_exception_handler",
    "get_task_factory",
    "getaddrinfo",
    "getnameinfo",
    "remove_signal_handler",
    "run_in_executor",
    "sendfile",
    "set_default_executor",
    "set_exception_handler",
    "set_task_factory",
    "shutdown_asyncgens",
    "shutdown_default_executor",
    "sock_accept",
    "sock_connect",
    "sock_sendfile",
    "start_tls",
    "subprocess_exec",
    "subprocess_shell",
)


class _Followed:
    """One of them, in our class's dictionary. function: ours; standard: the one that stood in asyncio's class."""

    __slots__ = ("__wrapped__", "_name", "_standard")

    def __init__(self, name: str, function: Any, standard: Any) -> None:
        self._name = name
        self._standard = standard
        self.__wrapped__ = function

    def __get__(self, loop: Any, owner: type) -> Any:
        if getattr(_StandardLoop, self._name) is not self._standard:
            # What stands behind our own parts in the order of the bases, bound as the standard loop would bind it.
            return getattr(super(LoopPart, owner if loop is None else loop), self._name)
        return self.__wrapped__ if loop is None else MethodType(self.__wrapped__, loop)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """``mock.create_autospec`` and ``inspect`` tell by the class's dictionary what is a method."""
        return FunctionType

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __call__(self, loop: Any, *given: Any, **named: Any) -> Any:
        return self.__get__(loop, type(loop))(*given, **named)


def follow_replaced(loop_class: type) -> None:
    """Makes the methods of ``loop_class`` give way. asyncio's classes are taken to be as they were made."""
    for name in _FOLLOWED:
        setattr(loop_class, name, _Followed(name, getattr(loop_class, name), getattr(_StandardLoop, name)))
