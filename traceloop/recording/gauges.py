"""The gauges in the head of a loop's ring: numbers that are current whenever a reader looks (``layout.W_*``)."""

from __future__ import annotations

from typing import Any

from ..record import layout
from .tasks import Tasks


def write_gauges(words: memoryview[float], loop: Any, tasks: Tasks, threshold: float) -> None:
    """Writes the counts of the loop, its tasks and its transports. ``threshold``: from which a run is slow, s."""
    words[layout.W_THRESHOLD] = threshold
    timers = loop._timer_heap
    words[layout.W_TIMERS] = len(timers)
    words[layout.W_TIMERS_CANCELLED] = timers.cancelled
    words[layout.W_COMPACTIONS] = timers.compactions
    words[layout.W_TASKS_CREATED] = tasks.made + len(tasks.fresh)
    words[layout.W_TASKS_RESULT] = tasks.finished - tasks.failed - tasks.cancelled
    words[layout.W_TASKS_EXCEPTION] = tasks.failed
    words[layout.W_TASKS_CANCELLED] = tasks.cancelled
    words[layout.W_TASKS_ABANDONED] = tasks.abandoned
    words[layout.W_DEBUG] = loop._debug
    io = getattr(loop, "_io_counters", None)
    if io is not None:
        words[layout.W_BYTES_IN] = io.bytes_in
        words[layout.W_BYTES_OUT] = io.bytes_out
        words[layout.W_TRANSPORTS] = io.open_transports
        words[layout.W_STREAMS] = io.stream
        words[layout.W_TLS] = io.tls
        words[layout.W_DATAGRAMS] = io.datagram
        words[layout.W_PIPES] = io.pipe
        words[layout.W_ACCEPTED] = io.accepted
        words[layout.W_REFUSED] = io.refused
        words[layout.W_PAUSED_SECONDS] = io.paused_s
        words[layout.W_PAUSED] = io.paused
        words[layout.W_PAUSED_SINCE] = io.paused_since
        words[layout.W_TLS_HANDSHAKES] = io.tls_handshakes
        words[layout.W_TLS_SECONDS] = io.tls_handshake_s
