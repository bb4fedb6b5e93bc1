"""What is asyncio's or ours is called by what it does, wherever people read it."""

from __future__ import annotations

import pytest

from traceloop.reading.findings.model import Who
from traceloop.record.plumbing import readable
from traceloop.record.sites import OWN_WORK

LISTENING = "traceloop.loop.network.listening.ListeningMixin._create_server_getaddrinfo"


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("traceloop.loop.network.transports.stream.StreamTransport._read_ready", "reading from connections"),
        ("asyncio.selector_events._SelectorSocketTransport._read_ready", "reading from connections"),
        ("traceloop.loop.scheduling.SchedulingMixin.call_soon", "the loop itself"),
        ("asyncio.tasks.run_coroutine_threadsafe.<locals>.callback", "starting a coroutine for a thread"),
        (LISTENING, "starting a server"),
        (OWN_WORK[0].label, "the loop itself (timers that fell due)"),
        ("app.loop._read_ready", "app.loop._read_ready"),
        ("asyncio.threads.to_thread", "asyncio.threads.to_thread"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_in_words(label: str, words: str) -> None:
    assert readable(label) == words


def test_a_finding_names_no_file_of_ours() -> None:
    assert Who(LISTENING, "/opt/site-packages/traceloop/loop/network/listening.py", 88).place == "starting a server"
    assert Who("app.prices.load", "/srv/app/prices.py", 31).place == "app/prices.py:31 in load"
