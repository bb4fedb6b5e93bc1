"""What is known of one executor."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

from .. import own_threads


class ExecutorEntry:
    """What is known of one executor. ``workers``: as last recorded. ``shared_label``: its label, or what it shares with
    all later ones where many were made under one name.
    """

    __slots__ = (
        "active_numbers",
        "defined_at",
        "executor_type",
        "in_call_queue",
        "in_threads",
        "label",
        "limit",
        "lock",
        "number",
        "reference",
        "shared_label",
        "workers",
    )

    def __init__(self, number: int, label: str, limit: int, executor_type: type, shared_label: str = "") -> None:
        self.number = number
        self.label = label
        self.shared_label = shared_label or label
        self.limit = limit
        self.executor_type = executor_type
        self.reference: weakref.ref[Any] | None = None
        self.defined_at = -1e9
        self.workers = 0
        #: Whether a thread pool's ``submit`` gives its calls to threads of this interpreter.
        self.in_threads = False
        self.lock = own_threads.allocate_lock()
        # Calls (offload.py) of a process pool: those that a process has, and those that wait in the shared queue.
        self.active_numbers: set[int] = set()
        self.in_call_queue: deque[Any] = deque()


def stored(executor: Any, name: str) -> Any:
    """An attribute that ``executor`` itself has, else None. No code of the program runs for it: mocks, and executors
    that pass everything on, would answer to any name and note that they were asked.
    """
    try:
        return object.__getattribute__(executor, "__dict__").get(name)
    except AttributeError:
        return None
