"""The application's own OpenTelemetry spans: which one is current in a handle's context, written down as a number.

Nothing of OpenTelemetry is imported: where the application has not imported ``opentelemetry.context``, it has no spans.
The facts that shape it, of opentelemetry-api 1.25 to 1.45 and Python's ``contextvars``:

* The current context is an immutable ``Context`` (a dict) in the ContextVar of ``ContextVarsRuntimeContext``; the span
  lies in it under a key that is made anew in each process. Whoever has that dict has the span: one look-up.
* A handle that carries the same dict object as the one before it is in the same span: an ``is`` in the loop's hot path
  settles it, and ``changed`` is called for the others only.
* A span object lives as long as somebody holds it, and its address may be given to the next one. So a number is given
  back when its span dies (a weak reference tells), and nothing here keeps a span alive.
* A reader remembers some ten thousand spans, not all that there ever were, and it may lose records, definitions with
  them. So spans are defined in generations: one that is met in a new generation (a connection's, a background task's)
  is defined again, under its number. And each batch begins with the span that it begins in.
"""

from __future__ import annotations

import logging
import sys
import weakref
from contextvars import ContextVar
from typing import Any, Final

from . import layout

_logger = logging.getLogger("traceloop")

REMOTE: Final = 0x200  # beside the W3C trace flags: the span is another process's
GENERATION: Final = 16384  # definitions: a reader knows the latest 32,768 at least (exporters/spans.py)
_MAX_STATE: Final = 512  # characters of a trace state, the most that has to be carried (W3C Trace Context, 3.3.1.5)


def flags_of(context: Any) -> int:
    """The W3C trace flags of a span's context, and REMOTE."""
    return int(context.trace_flags) & 0xFF | (REMOTE if context.is_remote else 0)


def state_of(context: Any) -> str:
    """The trace state of a span's context, as its header has it."""
    state = context.trace_state
    return state.to_header()[:_MAX_STATE] if state else ""


class ApplicationSpans:
    """What one loop knows of the application's spans. All of it runs in the loop's thread.

    ``variable``: the ContextVar to ask a handle's context for, None while the application has no OpenTelemetry.
    """

    __slots__ = (
        "_defined",
        "_generation",
        "_module",
        "_next",
        "_numbers",
        "_records",
        "_span_key",
        "_text",
        "_written",
        "current",
        "variable",
    )

    def __init__(self, records: list[float], text: list[str]) -> None:
        # The recorder's own lists, not the recorder: that would be a cycle.
        self._records = records
        self._text = text
        self._module: Any = None
        self._span_key = ""
        # By the id of a span: the span, its number, the generation that it was last defined in.
        self._numbers: dict[int, tuple[weakref.ref[Any], int, int]] = {}
        self._next = 1
        self._generation = 0
        self._defined = self._written = 0  # definitions and records of this generation
        self.variable: ContextVar[Any] | None = None
        #: The number that was recorded last.
        self.current = 0

    def refresh(self) -> ContextVar[Any] | None:
        """Looks whether the application has imported OpenTelemetry by now; once a flush. Returns ``variable``."""
        module = sys.modules.get("opentelemetry.context")
        if module is self._module:
            return self.variable
        self._module = module
        self.variable = None
        propagation = sys.modules.get("opentelemetry.trace.propagation")
        if module is None or propagation is None:
            self._module = None  # half imported: asked again
            return None
        variable = getattr(getattr(module, "_RUNTIME_CONTEXT", None), "_current_context", None)
        key = getattr(propagation, "_SPAN_KEY", None)
        if isinstance(variable, ContextVar) and isinstance(key, str):
            self._span_key = key
            self.variable = variable
        return self.variable

    def changed(self, otel_context: Any) -> None:
        """The next handle's context holds ``otel_context`` (None: none), which the one before it did not."""
        try:
            number = 0
            if otel_context:
                # What ``_number`` finds at once, written out: handles of different requests take turns.
                span = otel_context.get(self._span_key)
                known = self._numbers.get(id(span))
                if known is not None and known[2] == self._generation and known[0]() is span:
                    number = known[1]
                else:
                    number = self._number(otel_context)
        except Exception as error:
            self.variable = None
            number = 0
            _logger.error("traceloop: the application's spans cannot be followed any more", exc_info=error)
        if number != self.current:
            self.current = number
            append = self._records.append
            append(number)
            append(layout.R_CONTEXT)
            append(0.0)

    def enter_active(self) -> float | None:
        """Something that is recorded next belongs to the span that is current right now, which the code under way may
        have opened itself. Returns what ``leave_active`` is to be given afterwards, None where nothing is to be done.
        """
        variable = self.variable or self.refresh()
        if variable is None:
            return None
        before = self.current
        self.changed(variable.get(None))
        # -1: nothing was recorded yet for the loop, which readers take for no span.
        return None if self.current in (before, 0 if before < 0 else before) else float(before)

    def leave_active(self, before: float) -> None:
        """The run under way is again in the span of its handle's context."""
        self.current = int(before)
        self._records += (max(before, 0.0), layout.R_CONTEXT, 0.0)

    def batch_written(self, records: int, hold: int) -> None:
        """So many records have gone out, which a reader may lose: what the next ones need is said again.
        ``hold``: records for which a definition holds, so few that the ring has one of each span in use.
        """
        self._written += records
        if self._written >= hold:
            self._begin_generation()
        if self.current > 0:
            self._records += (float(self.current), layout.R_CONTEXT, 0.0)

    def _begin_generation(self) -> None:
        self._generation += 1
        self._defined = self._written = 0

    def forget_current(self) -> None:
        """The loop begins or ends to run: what was recorded last holds no longer."""
        self.current = -1

    def _number(self, otel_context: Any) -> int:
        span = otel_context.get(self._span_key)
        if span is None:
            return 0
        context = span.get_span_context()
        if not context.is_valid:
            return 0
        key = id(span)
        known = self._numbers.get(key)
        if known is not None and known[0]() is span:
            reference, number, _ = known
        else:
            reference, number = None, self._next
            self._next += 1
        self._defined += 1
        if self._defined >= GENERATION:
            self._begin_generation()
        self._records += (float(number), layout.R_SPAN, float(flags_of(context)))
        self._text.append(f"{context.trace_id:032x} {context.span_id:016x} {state_of(context)}")
        try:
            reference = reference or weakref.ref(span, _Forget(self._numbers, key))
            self._numbers[key] = (reference, number, self._generation)
        except TypeError:
            pass  # cannot be referred to weakly: it gets a number each time it is met
        return number


class _Forget:
    """Takes a dead span's number away. Called wherever the last reference goes, perhaps within a collection."""

    __slots__ = ("_key", "_numbers")

    def __init__(self, numbers: dict[int, tuple[weakref.ref[Any], int, int]], key: int) -> None:
        self._numbers = numbers
        self._key = key

    def __call__(self, reference: object) -> None:
        known = self._numbers.get(self._key)
        if known is not None and known[0] is reference:
            del self._numbers[self._key]
