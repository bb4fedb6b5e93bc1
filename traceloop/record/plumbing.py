"""Names of code as people read them: functions of asyncio and ours are called by what they do."""

from __future__ import annotations

import functools
import re
from typing import Final

from .sites import in_words, is_own_work

#: By the label's module prefix and end: what the code does.
_PLUMBING: Final = (
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
    (r"asyncio\.tasks\.run_coroutine_threadsafe\..*$", "starting a coroutine for a thread"),
    (r"traceloop\.loop\..*_create_server_getaddrinfo$", "starting a server"),
    (r"asyncio\.base_events\._run_until_complete_cb$", "ending run_until_complete"),
    (r"(traceloop\.loop|asyncio)\..*shutdown_(default_executor|asyncgens)$", "shutting the loop down"),
    (r"(traceloop\.loop|asyncio)\..*sock_\w+(_done|_cb)?$", "socket calls"),
    (r"traceloop\.(loop|recording|core)\..*$", "the loop itself"),
)

#: Those of them that call no code of the program.
_CALLS_NOTHING: Final = frozenset(
    {"waking the loop", "ending a sleep", "a time limit (wait_for, timeout)", "a time limit (timeout)"}
)


@functools.cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    # Compiled at the first use, which never comes in a program whose loop never stalls.
    return tuple((re.compile(pattern), name) for pattern, name in _PLUMBING)


def readable(label: str) -> str:
    """The label; for plumbing, what it does."""
    if is_own_work(label):
        return in_words(label)
    if label.startswith(("traceloop.", "asyncio.", "_asyncio.")):
        for pattern, name in _patterns():
            if pattern.match(label):
                return name
    return label


def calls_the_program(label: str) -> bool:
    """False for plumbing that runs no code of the program: something else held it up."""
    return readable(label) not in _CALLS_NOTHING
