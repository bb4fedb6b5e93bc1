"""What the spans of one callback have in common, as bytes that are made once, and how the rest of each is packed."""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from ..spans.model import Kind
from .encoder import DELAY, LINK, SPAN_ID, attributes_field, common_fields, varint

_BODY_SIZE: Final = 8 + 9 + 9
_DELAY_SIZE: Final = len(DELAY) + 8
_LINK_SIZE: Final = len(LINK) + 16 + len(SPAN_ID) + 8
_Packer = Any  # Struct.pack


class PackedKind(Kind):
    """A kind with what its spans begin with, and how they are packed, by their shape.

    shapes: by the length of the head (trace, flags, parent, tag of the id), for spans without a link and with one: the
    packer and the first piece, which is what all its spans have in common, with the length of the whole in front.
    """

    __slots__ = ("common", "shapes")

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind.name, kind.attributes)
        self.common = common_fields(kind)
        self.shapes: dict[int, tuple[_Packer, bytes, _Packer, bytes]] = {}

    def named(self, task_name: str) -> PackedKind:
        """The same for the task of this name."""
        made = PackedKind.__new__(PackedKind)
        made.name, made.packed = self.name, None
        made.attributes = {**self.attributes, "asyncio.task.name": task_name}
        made.common = self.common + _task_name_field(task_name)
        made.shapes = {}
        return made

    def shape(self, head: int) -> tuple[_Packer, bytes, _Packer, bytes]:
        """The shapes for heads of this length, made at their first use."""
        common = self.common
        size = len(common)
        pack_plain, plain, pack_linked, linked = _SHAPES.get((size, head)) or _make_shape(size, head)
        made = self.shapes[head] = pack_plain, plain + common, pack_linked, linked + common
        return made


# Tasks have names of their own, but few lengths: by the lengths of what a kind's spans have in common and of the head.
_SHAPES: Final[dict[tuple[int, int], tuple[_Packer, bytes, _Packer, bytes]]] = {}


def _make_shape(common: int, head: int) -> tuple[_Packer, bytes, _Packer, bytes]:
    if len(_SHAPES) >= 4096:
        _SHAPES.clear()
    size = common + head + _BODY_SIZE + _DELAY_SIZE
    plain, linked = b"\x12" + varint(size), b"\x12" + varint(size + _LINK_SIZE)
    rest = f"{head}sdcdcd{len(DELAY)}sd"
    made = _SHAPES[common, head] = (
        Struct(f"<{len(plain) + common}s{rest}").pack,
        plain,
        Struct(f"<{len(linked) + common}s{rest}{len(LINK)}s16s2sd").pack,
        linked,
    )
    return made


# By its length in bytes, what comes before a task's name: four fifths of the time that the whole field takes.
_BEFORE_TASK_NAME: Final[dict[int, bytes]] = {}


def _task_name_field(name: str) -> bytes:
    data = name.encode("utf-8", "backslashreplace")
    length = len(data)
    before = _BEFORE_TASK_NAME.get(length)
    if before is None:
        before = attributes_field(9, {"asyncio.task.name": "x" * length})
        before = before[: len(before) - length]
        if length < 1000:
            _BEFORE_TASK_NAME[length] = before
    return before + data
