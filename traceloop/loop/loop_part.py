"""What the parts of the event loop share while they are being type-checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


class LoopPart:
    """Base of the mixins that `EventLoop` is composed of; empty at run time.

    Each part uses attributes and methods of its siblings. Declaring all of them in every part would say the
    same thing many times and tie the parts to the order of the bases, so for the type checker what a part
    does not define itself is `Any`.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
