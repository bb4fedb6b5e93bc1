"""The application's own OpenTelemetry spans: which one is current in a handle's context, written down as a number.

Nothing of OpenTelemetry is imported: where the application has not imported ``opentelemetry.context``, it has no spans.
The facts that shape it, of opentelemetry-api 1.25 to 1.45 and Python's ``contextvars``:

* The current context is an immutable ``Context`` (a dict) in the ContextVar of ``ContextVarsRuntimeContext``; the span
  lies in it under a key that is made anew in each process. With that dict the span is one look-up away.
* A handle that carries the same dict object as the one before it is in the same span: an ``is`` in the loop's hot path
  settles it, and ``changed`` is called for the others only.
* A span object lives as long as something refers to it, and its address may be given to the next one. So its number
  lies on the span's context, which lives as long, and nothing here keeps a span alive. It does not lie on the span
  itself: the SDK's spans have as many attributes as the interpreter keeps in line, and with one more each of them gets
  a dict, which took a twentieth of a request's CPU time. Several loops may meet one span, and a pickled one may come to
  another process: the number goes with a mark of the process that gave it.
* A reader remembers only the latest spans (32,768 at least), and it may lose records, and definitions with them. So
  spans are defined in generations: a long-lived span (a connection's, a background task's) is defined again, under the
  same number, when it is met in a new generation. Each batch states at its beginning which span is current.
"""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from typing import Any, Final

from ..core.buffer import Record
from ..record import layout
from . import failures

REMOTE: Final = 0x200  # beside the W3C trace flags: the span is another process's
GENERATION: Final = 16384  # definitions: a reader knows the latest 32,768 at least (exporters/spans/builder.py)
_GENERATION_BITS: Final = 20
_MAX_STATE: Final = 512  # characters of a trace state, the most that has to be carried (W3C Trace Context, 3.3.1.5)


def flags_of(flags: int, is_remote: bool) -> int:
    """The W3C trace flags of a span's context, and REMOTE."""
    return int(flags) & 0xFF | (REMOTE if is_remote else 0)


def state_of(state: Any) -> str:
    """The trace state of a span's context, as its header has it."""
    return state.to_header()[:_MAX_STATE] if state else ""


def _is_span(span: Any) -> bool:
    """Whether ``span`` is of the API's class. By its type: a mock says in ``__class__`` that it is, and has no ids."""
    kind = getattr(sys.modules.get("opentelemetry.trace"), "Span", object)
    return not isinstance(kind, type) or issubclass(type(span), kind)


class ApplicationSpans:
    """The application's spans, as one loop knows them. Called in the loop's thread only.

    ``variable``: the ContextVar to ask a handle's context for, None while the application has no OpenTelemetry.
    """

    __slots__ = (
        "_defined",
        "_generation",
        "_module",
        "_next",
        "_plain",
        "_record",
        "_span_key",
        "_stateless",
        "_written",
        "current",
        "variable",
    )

    def __init__(self, record: Record) -> None:
        # Not the recorder, which would be a cycle.
        self._record = record
        self._module: Any = None
        self._span_key = ""
        # ``_loop_span`` is a pair: the generation in which the span was last defined, and its number. Generations
        # of one loop differ in their last 20 bits only.
        self._generation = int.from_bytes(os.urandom(5), "little") << _GENERATION_BITS  # fits a C integer
        self._next = 1
        # The class of span contexts that was seen to be a tuple of its six fields, as the API's is.
        self._plain: type | None = None
        # A trace state that was seen to be empty: the API's default, which nearly all spans share.
        self._stateless: Any = None
        self._defined = self._written = 0  # definitions and records of this generation
        self.variable: ContextVar[Any] | None = None
        #: The number that was recorded last.
        self.current = 0

    def refresh(self) -> ContextVar[Any] | None:
        """Checks whether the application has imported OpenTelemetry; called at each flush. Returns ``variable``."""
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
        """Records that the next handle's context holds another OpenTelemetry context than the handle before it.

        ``otel_context``: the new one; None where the handle's context holds none.
        """
        span = None
        try:
            number = 0
            span = otel_context.get(self._span_key) if otel_context else None
            if span is not None:  # number_of, without the call
                context = getattr(span, "_context", None)
                bearer = context if type(context) is self._plain else span
                known = getattr(bearer, "_loop_span", None)
                if known is not None and known[0] is self._generation:
                    number = known[1]
                else:
                    number = self._number(span, bearer, known)
        except Exception as error:
            if span is None or _is_span(span):
                failures.report("the application's spans cannot be followed any more", error)
                self.variable = None
            number = 0
        if number != self.current:
            self.current = number
            self._record.add(number, layout.R_CONTEXT, 0.0)

    def number_of(self, span: Any) -> int:
        """The number of ``span`` in the record; defines the span where that is needed. 0 for one without a context."""
        bearer = self._bearer(span)
        known = getattr(bearer, "_loop_span", None)  # an AttributeError would take 300 ns for each new one
        return known[1] if known is not None and known[0] is self._generation else self._number(span, bearer, known)

    def _bearer(self, span: Any) -> Any:
        """What the number lies on: the span's context; or the span, where it has none of its own of the API's class."""
        context = getattr(span, "_context", None)
        return context if type(context) is self._plain else span

    def enter_active(self) -> float | None:
        """What is recorded next belongs to the span that is current now; the running code may have opened it itself.

        Returns the argument for the call of ``leave_active`` that follows, or None where no such call is needed.
        """
        variable = self.variable or self.refresh()
        if variable is None:
            return None
        before = self.current
        self.changed(variable.get(None))
        # -1: nothing was recorded yet for the loop, which readers take for no span.
        return None if self.current in (before, 0 if before < 0 else before) else float(before)

    def leave_active(self, before: float) -> None:
        """Sets the span of the running handle's context again. ``before``: what ``enter_active`` returned."""
        self.current = int(before)
        self._record.add(max(before, 0.0), layout.R_CONTEXT, 0.0)

    def batch_written(self, records: int, hold: int) -> None:
        """Called after a batch of ``records`` records. A reader may lose it, so the next batch states its span again.

        ``hold``: after this many records, spans are defined again, so that the ring holds the definition of each
        span in use.
        """
        self._written += records
        if self._written >= hold:
            self._begin_generation()
        if self.current > 0:
            self._record.add(float(self.current), layout.R_CONTEXT, 0.0)

    def _begin_generation(self) -> None:
        self._generation += 1
        self._defined = self._written = 0

    def forget_current(self) -> None:
        """Called when the loop begins or stops running: the span that was recorded last is not current any more."""
        self.current = -1

    def _number(self, span: Any, bearer: Any, known: tuple[int, int] | None) -> int:
        """Defines ``span`` and returns its number, 0 where it has no valid context. ``known``: its last definition,
        which lies on ``bearer``, and may be another loop's.
        """
        context: Any = bearer if bearer is not span else span.get_span_context()
        kind = type(context)
        if kind is self._plain:
            # Its six properties, each a call, cost as much as all the rest of this.
            trace_id, span_id, is_remote, flags, state, is_valid = context
        else:
            trace_id, span_id, is_remote = context.trace_id, context.span_id, context.is_remote
            flags, state, is_valid = context.trace_flags, context.trace_state, context.is_valid
            # One class for good: two that took turns would leave the numbers of each other's spans unseen. With a dict,
            # or the number could not lie there.
            may_be_plain = self._plain is None and isinstance(context, tuple) and hasattr(context, "__dict__")
            if may_be_plain and tuple(context) == (trace_id, span_id, is_remote, flags, state, is_valid):
                self._plain = kind
        if state is not self._stateless and not state:
            self._stateless = state
        if not is_valid:
            number = 0
        else:
            if known is not None and known[0] >> _GENERATION_BITS == self._generation >> _GENERATION_BITS and known[1]:
                number = known[1]
            else:
                number = self._next
                self._next += 1
            self._defined += 1
            if self._defined >= GENERATION:
                self._begin_generation()
            self._record.add(number, layout.R_SPAN, flags_of(flags, is_remote))
            header = "" if state is self._stateless else state_of(state)
            # 60 ns less than an f-string.
            self._record.add_text("%032x %016x %s" % (trace_id, span_id, header))  # noqa: UP031
        if bearer is span:  # perhaps the first one whose context is of that class
            bearer = self._bearer(span)
        try:
            # A context's own method ignores all names.
            (setattr if bearer is span else object.__setattr__)(bearer, "_loop_span", (self._generation, number))
        except Exception:
            pass  # takes no attribute: it gets a number each time it is met
        return number
