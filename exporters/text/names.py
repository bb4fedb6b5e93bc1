"""Names of code as people read them: what is asyncio's or ours is called by what it does."""

from __future__ import annotations

import re
from typing import Final

from traceloop.record.sites import in_words, is_own_work

#: By the label's module prefix and end: what the code does.
_PLUMBING: Final = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"(traceloop\.loop|asyncio)\..*[Aa]ccept\w*$", "accepting connections"),
        (r"(traceloop\.loop|asyncio)\..*(sslproto|tls)\..*(handshake|connection_made).*$", "TLS handshake"),
        (r"(traceloop\.loop|asyncio)\..*(sslproto|tls)\..*$", "TLS"),
        (r"(traceloop\.loop|asyncio)\..*_read_ready\w*$", "reading from connections"),
        (r"(traceloop\.loop|asyncio)\..*_write_ready\w*$", "writing to connections"),
        (r"(traceloop\.loop|asyncio)\..*(_call_connection_lost|connection_lost|_close\w*)$", "closing connections"),
        (r"(traceloop\.loop|asyncio)\..*connection_made$", "starting connections"),
        (r"(traceloop\.loop|asyncio)\..*_(add_reader|add_writer)$", "starting connections"),
        (r"(traceloop\.loop|asyncio)\.(.*\.)?(_read_from_self|wakeup\..*|WakeupMixin\..*)$", "waking the loop"),
        (r"traceloop\.recording\.offloads\..*deliver$", "delivering an executor's result"),
        (r"(asyncio\.futures|_asyncio)\..*(_set_result_unless_cancelled|set_result)$", "ending a sleep"),
        (r"asyncio\.tasks\._release_waiter$", "a time limit (wait_for, timeout)"),
        (r"asyncio\.timeouts\.Timeout\._on_timeout$", "a time limit (timeout)"),
        (r"asyncio\.futures\._chain_future\..*$", "delivering a thread's result"),
        (r"(asyncio\.tasks|_asyncio)\..*(gather|_wait|_on_completion).*$", "ending gather or wait"),
        (r"asyncio\.base_events\._run_until_complete_cb$", "ending run_until_complete"),
        (r"(traceloop\.loop|asyncio)\..*shutdown_(default_executor|asyncgens)$", "shutting the loop down"),
        (r"(traceloop\.loop|asyncio)\..*sock_\w+(_done|_cb)?$", "socket calls"),
        (r"traceloop\.(loop|recording|core)\..*$", "the loop itself"),
    )
)


def readable(label: str) -> str:
    """A label, or what the plumbing of that name does."""
    if is_own_work(label):
        return in_words(label)
    if label.startswith(("traceloop.", "asyncio.", "_asyncio.")):
        for pattern, name in _PLUMBING:
            if pattern.match(label):
                return name
    return label


def shorten_name(name: str, width: int) -> str:
    """A dotted name cut so that its end stays: modules go first, then classes, then the middle of the function."""
    if len(name) <= width:
        return name
    if width < 5:
        return name[:width]
    parts = name.split(".")
    for first in range(1, len(parts)):
        rest = "…" + ".".join(parts[first:])
        if len(rest) <= width:
            return rest
    last = parts[-1]
    if len(last) + 1 <= width:
        return "…" + last
    tail = (width - 1) * 2 // 3
    return last[: width - 1 - tail] + "…" + last[-tail:]
