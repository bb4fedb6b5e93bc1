"""The rule on peers that do not read what is written to them."""

from __future__ import annotations

from collections.abc import Iterator

from ..statistics import wait_kinds
from ..statistics.wait_series import Waited
from ..units import counted, seconds, size
from . import thresholds
from .model import WARNING, Finding, Who, short_path
from .scope import Scope


def slow(scope: Scope) -> Iterator[Finding]:
    """Writing is paused for long because peers do not read."""
    for loop in scope.loops:
        paused = loop.paused_seconds(scope.now)
        observed = sum(loop.times(scope.now))
        # A busy loop does not go on writing, although the peer may have read everything. Only idle time counts.
        cost = paused * (1.0 - loop.utilization(scope.now))
        if cost < thresholds.PAUSED_SECONDS or cost < thresholds.PAUSED_SHARE * observed:
            continue
        waited = _drains(scope)
        place = waited[0].place if waited else None
        who = Who(place.function, place.file, place.line) if place is not None else None
        yield Finding(
            "slow-peer",
            "",
            WARNING,
            "Peers do not read what is written to them: their connections are paused"
            + (f", and {who.place} waits for them" if who is not None else ""),
            f"writing was paused for {seconds(paused)}, summed over connections, in {seconds(observed)}",
            cost,
            scope.process.slot,
            loop.label,
            who,
            (*_paused(scope), *(_drain(each) for each in waited[:3])),
            "Put a limit on how long `await writer.drain()` may take (`asyncio.timeout`) and drop peers that are too "
            "slow; bound what is queued for each.",
        )


def _drains(scope: Scope) -> list[Waited]:
    """Where tasks wait in ``drain`` for a peer to read, most first."""
    every = scope.process.wait_series.most(scope.now, running=scope.process.attached)
    return [each for each in every if each.place.kind == wait_kinds.PEER]


def _drain(waited: Waited) -> str:
    place = waited.place
    some = "some " if waited.rough else ""
    now = f", {counted(waited.now, 'task')} now" if waited.now else ""
    where = f"{short_path(place.file)}:{place.line}, in {place.inside}"
    return f"tasks of {waited.coroutine} waited {some}{seconds(waited.shown_s)} at {where}{now}"


def _paused(scope: Scope) -> Iterator[str]:
    """The transports paused now by kind; if there are none, the most that were paused at once."""
    peers = scope.process.peers
    now = peers.now(scope.now) if scope.process.attached else {}
    for kind, each in (now or peers.most).items():
        when = "now" if now else "at most"
        yield (
            f"{counted(each.transports, f'{kind} connection')} paused {when}, {size(each.waiting_bytes)} wait to be "
            f"read, the longest pause {seconds(each.longest_s)}"
        )
    if now and not any(each.now for each in _drains(scope)):
        yield "no task waits in `drain`: what is written goes on piling up in memory"
