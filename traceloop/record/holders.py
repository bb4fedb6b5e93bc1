"""What a blocked loop waits for, and which thread or task holds it: as a recorded value, and in words."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

from .frames import Frame

#: What it waits for: a lock; a thread's end; a call that a worker runs; a call that no worker has begun; the GIL.
LOCK: Final = "lock"
JOIN: Final = "join"
CALL: Final = "call"
QUEUED: Final = "queued"
GIL: Final = "gil"
#: The loop waits for itself: for a coroutine that only it can run; for a call of an executor whose workers wait for the
#: loop; for a lock that one of its own tasks holds, or that the blocked call holds already; for a server of its own.
OWN_COROUTINE: Final = "own_coroutine"
OWN_POOL: Final = "own_pool"
OWN_TASK: Final = "own_task"
OWN_LOCK: Final = "own_lock"
OWN_SERVER: Final = "own_server"

ITSELF: Final = frozenset((OWN_COROUTINE, OWN_POOL, OWN_TASK, OWN_LOCK, OWN_SERVER))
KINDS: Final = ITSELF | {LOCK, JOIN, CALL, QUEUED, GIL}

_NOBODY: Final[Frame] = ("", 0, "", "")


class Holder(NamedTuple):
    """The thread, task or executor that holds what a loop waits for.

    kind: one of ``KINDS``. name: "" if it is not known. frame: where it stands (in the application's code, if there is
    such a frame). guess: it is only probable.
    """

    kind: str
    name: str = ""
    frame: Frame = _NOBODY
    guess: bool = False

    @property
    def is_loop(self) -> bool:
        """Whether the loop waits for itself."""
        return self.kind in ITSELF

    @property
    def place(self) -> str:
        """``app/prices.py:31 in load_prices``; "" if it is not known."""
        file, line, _, name = self.frame
        if not file:
            return ""
        folder, base = os.path.split(file)
        parent = os.path.basename(folder)
        short = f"{parent}/{base}" if parent and not file.startswith("<") else base
        return f"{short}:{line} in {name}"

    def __str__(self) -> str:
        """Continues "it ...": ``waits for a lock that thread worker-1 holds, at app/prices.py:31 in load_prices``."""
        who = self.name or "another thread"
        at = f", at {self.place}" if self.place else ""
        probably = "probably " if self.guess else ""
        if self.kind == LOCK:
            return f"waits for a lock that thread {who} {probably}holds{at}"
        if self.kind == JOIN:
            return f"waits for thread {who} to end{', which stands' + at[1:] if at else ''}"
        if self.kind == CALL:
            return f"waits for a call that thread {who} runs{at}"
        if self.kind == QUEUED:
            stands = f"; a worker stands{at[1:]}" if at else ""
            return f"waits for a call that no worker of executor {who} has begun{stands}"
        if self.kind == GIL:
            return f"waits for the GIL, which thread {who} {probably}holds{at}"
        seems = "seems to wait" if self.guess else "waits"
        return f"{seems} for itself: {_ITSELF[self.kind].format(name=self.name, at=at)}"


_ITSELF: Final = {
    OWN_COROUTINE: "for a coroutine that only this loop can run",
    OWN_POOL: "for a call of executor {name}, whose workers wait for this loop{at}",
    OWN_TASK: "for a lock that task {name} of the same loop holds{at}",
    OWN_LOCK: "for a lock that it holds already{at}",
    OWN_SERVER: "it calls a server that this loop serves",
}
