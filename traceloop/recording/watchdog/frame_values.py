"""What the code of a running frame holds and waits for: the objects of its ``with`` blocks, and of the call under way.

The interpreter does not show a frame's value stack. But the bytecode tells where each value came from: ``with
self._lock`` loads a name and an attribute. We look names and plain attributes up again, without running any code of the
program: no property, no ``__getattr__``. Values that came from anything else (a call, a computed index) stay unknown.

The instructions of a call are found by their positions in the source (``co_positions``): the positions of a call's
parts lie within that of the call. Where the interpreter has no positions (``-X no_debug_ranges``), no call is known.
The exception table tells which ``with`` blocks a frame is in:
https://github.com/python/cpython/blob/main/InternalDocs/exception_handling.md

Everything here is called with the GIL held, and opens no file (``stacks`` says why).
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections.abc import Iterator, Sequence
from types import CodeType, FrameType, MemberDescriptorType
from typing import Any, Final, NamedTuple

# Larger functions (bytes of code) are left out, since their disassembly takes milliseconds.
_MAX_CODE: Final = 32_768
_MAX_BLOCKS: Final = 40
_NAMES: Final = ("LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_NAME", "LOAD_FROM_DICT_OR_")
_ATTRIBUTES: Final = ("LOAD_ATTR", "LOAD_METHOD")
# Instructions that enter a with block: up to 3.13, and after.
_ENTERS: Final = ("BEFORE_WITH", "LOAD_SPECIAL")
_ENTERING: Final = ("BEFORE_WITH", "LOAD_SPECIAL", "COPY", "SWAP", "PUSH_NULL", "NOP")
_OPTIMIZED: Final = inspect.CO_OPTIMIZED
# References to a dict that only its frame and we have: the frame's, our variable's, the count's argument.
_OWN_REFERENCES: Final = 3
# Before 3.13.6, the frame of a generator that was closed while it was suspended has dangling variables: reading them
# ends the process (https://github.com/python/cpython/issues/125723; 3.12.4 and later 3.12 have it too). The thread may
# close it between two of our looks at its frame.
_DANGLING: Final = (
    inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR if (3, 12) <= sys.version_info < (3, 13, 6) else 0
)


class _Range(NamedTuple):
    """An entry of the exception table. Exceptions raised from ``start`` on and before ``end`` go to ``target``."""

    start: int
    end: int
    target: int


def waited_for(frame: FrameType) -> list[Any]:
    """The objects through which ``frame`` reached the call that is under way, as far as they are known.

    For ``self.lock.acquire()``, and for ``with self.lock``, these are ``self`` and the lock.
    """
    instructions = _instructions(frame.f_code)
    index = _index_at(instructions, frame.f_lasti)
    if index is None:
        return []
    if any(each.opname in _ENTERS for each in instructions[max(0, index - 1) : index + 1]):
        return _evaluate(frame, _chain_before(instructions, index + 1))
    return _evaluate(frame, instructions[_begin_of(instructions, index) : index])


def held_in(frame: FrameType) -> Iterator[Any]:
    """The objects of the ``with`` blocks that ``frame`` is in, innermost first, as far as they are known."""
    for chain in _blocks(frame.f_code, frame.f_lasti):
        yield from _evaluate(frame, chain)[-1:]


def forget() -> None:
    """Drops the code objects that are cached between calls. Called at the end of a look."""
    _blocks.cache_clear()


@functools.lru_cache(maxsize=1024)
def _blocks(code: CodeType, offset: int) -> tuple[tuple[dis.Instruction, ...], ...]:
    """For each ``with`` block around ``offset``, innermost first: the instructions that loaded its object.

    The result is cached, so that a thousand tasks at the same line cost one disassembly.
    """
    if not code.co_exceptiontable or len(code.co_code) > _MAX_CODE:
        return ()
    table = list(_exception_table(code.co_exceptiontable))
    if not any(each.start <= offset < each.end for each in table):
        return ()
    found: list[tuple[dis.Instruction, ...]] = []
    instructions = _instructions(code)
    at = {each.offset: index for index, each in enumerate(instructions)}
    for _ in range(_MAX_BLOCKS):
        target = next((each.target for each in table if each.start <= offset < each.end), None)
        handler = at.get(target) if target is not None else None
        if target is None or handler is None:
            break
        if any(each.opname == "WITH_EXCEPT_START" for each in instructions[handler : handler + 2]):
            start = at.get(min(each.start for each in table if each.target == target))
            if start:
                found.append(_chain_before(instructions, start))
        offset = target
    return tuple(found)


def acquired_in(frame: FrameType, wanted: Any) -> bool:
    """Whether ``frame``, by the order of its code, has called ``acquire`` of ``wanted`` and no ``release`` since."""
    code = frame.f_code
    if "acquire" not in code.co_names or len(code.co_code) > _MAX_CODE:
        return False
    acquired = False
    instructions = _instructions(code)
    now = _index_at(instructions, frame.f_lasti)
    for index, instruction in enumerate(instructions[: _begin_of(instructions, now)] if now is not None else ()):
        if instruction.opname in _ATTRIBUTES and instruction.argval in ("acquire", "release"):
            values = _evaluate(frame, _chain_before(instructions, index))
            if values and values[-1] is wanted:
                acquired = instruction.argval == "acquire"
    return acquired


def local_value(frame: FrameType, name: str) -> Any:
    """A local variable of a frame; None where there is none of this name."""
    return _locals_of(frame, {name}).get(name)


def attribute_of(owner: Any, name: str) -> Any:
    """An attribute as it is stored; None where there is none, or where code would have to run to get it."""
    found = inspect.getattr_static(owner, name, None)
    if type(found) is MemberDescriptorType:
        try:
            return found.__get__(owner)
        except (AttributeError, TypeError):
            return None
    return None if isinstance(found, property) else found


def _instructions(code: CodeType) -> list[dis.Instruction]:
    if len(code.co_code) > _MAX_CODE:
        return []
    return [each for each in dis.get_instructions(code) if each.opname != "CACHE"]


def _index_at(instructions: list[dis.Instruction], offset: int) -> int | None:
    for index, each in enumerate(instructions):
        if each.offset > offset:
            return index - 1 if index else None
    return len(instructions) - 1 if instructions else None


def _begin_of(instructions: list[dis.Instruction], index: int) -> int:
    """The index of the first instruction of the expression that ends with instruction ``index``."""
    place = _place(instructions[index])
    first = index
    while first and place is not None:
        before = _place(instructions[first - 1])
        if before is None or before[0] < place[0] or before[1] > place[1]:
            break
        first -= 1
    return first


def _chain_before(instructions: list[dis.Instruction], index: int) -> tuple[dis.Instruction, ...]:
    """The instructions of the name and its attributes just before instruction ``index``.

    Where a ``with`` block is entered there: those just before the instructions that enter it.
    """
    last = index
    if any(each.opname == "LOAD_SPECIAL" for each in instructions[max(0, last - 2) : last - 1]):
        last -= 1  # the call of ``__enter__``
    while last and instructions[last - 1].opname in _ENTERING:
        last -= 1
    first = last - 1
    while first > 0 and instructions[first].opname in _ATTRIBUTES:
        first -= 1
    return tuple(instructions[max(0, first) : last])


def _place(instruction: dis.Instruction) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The place of an instruction in the source: line and column of its beginning, and of its end."""
    positions = instruction.positions
    if positions is None or positions.lineno is None or positions.end_lineno is None:
        return None
    if positions.col_offset is None or positions.end_col_offset is None:
        return None
    return (positions.lineno, positions.col_offset), (positions.end_lineno, positions.end_col_offset)


def _evaluate(frame: FrameType, instructions: Sequence[dis.Instruction]) -> list[Any]:
    """The values of the first chain of a name and its attributes among these instructions."""
    chain: list[Any] = []
    names: set[str] = set()
    for each in instructions:
        names.update(_variables(each))
    variables = _locals_of(frame, names)
    for each in instructions:
        if each.opname.startswith("LOAD_GLOBAL"):
            if chain:
                break
            chain.append(_global(frame, each.argval))
        elif each.opname.startswith(_NAMES):
            if chain:
                break
            name = _variables(each)[0]
            chain.append(variables[name] if name in variables else _global(frame, name))
        elif each.opname in _ATTRIBUTES:
            if not chain or chain[-1] is None:
                break
            chain.append(attribute_of(chain[-1], each.argval))
        elif each.opname not in ("PUSH_NULL", "NOP", "EXTENDED_ARG"):
            break
    return [each for each in chain if each is not None]


def _variables(instruction: dis.Instruction) -> tuple[str, ...]:
    if not instruction.opname.startswith(_NAMES):
        return ()
    return instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)


def _global(frame: FrameType, name: str) -> Any:
    return frame.f_globals.get(name)


def _locals_of(frame: FrameType, names: set[str]) -> dict[str, Any]:
    """The local variables of a frame with these names, as far as it has them and they can be read."""
    if not names or frame.f_code.co_flags & _DANGLING:
        return {}
    values = frame.f_locals
    try:
        return {name: values[name] for name in names if name in values}
    finally:
        # Up to 3.12 the frame keeps this dict, which would keep the values alive. But if the program has called
        # ``locals()``, the dict is the program's, and must stay as it is.
        mine = type(values) is dict and frame.f_code.co_flags & _OPTIMIZED
        if mine and sys.version_info < (3, 13) and sys.getrefcount(values) <= _OWN_REFERENCES:
            values.clear()
        del values


def _exception_table(table: bytes) -> Iterator[_Range]:
    numbers = _varints(table)
    for start in numbers:
        length, target, _ = next(numbers), next(numbers), next(numbers)
        yield _Range(2 * start, 2 * (start + length), 2 * target)


def _varints(table: bytes) -> Iterator[int]:
    """Numbers in bytes of six bits each, the highest first. The bit 0x40 tells that more bytes follow."""
    value = 0
    for byte in table:
        value = value << 6 | byte & 63
        if not byte & 64:
            yield value
            value = 0
