"""Rules on one loop: saturated, congested, spinning, late polls, and what its transports say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ...record import layout
from ...record.sites import OWN_WORK
from ..stalls.parts import stalls_of
from ..statistics.histograms import Histogram
from ..units import count, counted, percent, seconds
from . import thresholds
from .model import NOTE, WARNING, Finding, place_of
from .scope import Scope, busiest

if TYPE_CHECKING:
    from ..statistics.loop import LoopStatistics

# A line that took less than this share of the profile is not named.
_LEAST_SHARE_OF_LINE: Final = 0.1
# So many callbacks in one iteration are very many, and short.
_MANY: Final = 50
# The kernel's timers alone make a poll this late, s.
_SHORT_SECONDS: Final = 0.005
# So many long runs are no accident.
_SEVERAL: Final = 5
_SHORT: Final = "Very many short callbacks run in one go"


def saturated(scope: Scope) -> Iterator[Finding]:
    """The loop is active nearly all the time, and callbacks wait for it."""
    for loop in scope.loops:
        active, idle = loop.times(scope.now)
        observed = active + idle
        delays = Histogram().merge(loop.callbacks.delays.values())
        late = delays.quantile(0.99)
        if active < thresholds.SATURATED_SECONDS or active < thresholds.SATURATED_UTILIZATION * observed:
            continue
        if late < thresholds.DELAY_P99:
            continue
        slow = sum(totals.seconds for totals in loop.callbacks.slow.values())
        if slow >= active / 2:
            continue  # the findings of the slow callbacks say this already, and name them
        most = busiest(loop)
        who = scope.who(most[0]) if most is not None else None
        waited = sum(totals.blocked_s for totals in loop.callbacks.slow.values())
        cost = max(0.0, delays.sum - waited)
        whose = f", {percent(most[2])} of it in {who.place}" if most is not None and who is not None else ""
        yield Finding(
            "loop-saturated",
            "",
            scope.severity(cost, observed),
            f"Loop {loop.label} is busy {percent(active / observed)} of the time{whose}",
            f"one callback in a hundred waits {seconds(late)} or longer before it runs",
            cost,
            scope.process.slot,
            loop.label,
            who,
            (
                f"active {seconds(active)} of {seconds(observed)}, {counted(loop.callbacks.runs, 'callback')}",
                f"{seconds(slow)} of it in slow callbacks",
                *_profiled(scope),
            ),
            "Find what takes the time in the table of callbacks"
            + ("" if scope.process.profile.rate else ", and its lines with `traceloop run --profile`")
            + "; move what computes to a process pool, or run more processes.",
        )


def busy(scope: Scope) -> Iterator[str]:
    """For a loop that is active nearly all the time without a finding: a sentence, without its full stop, that says
    where the time goes. The program computes, or all its callbacks are a little too long. For another loop: what holds
    it much of the time, though no run of it is slow.
    """
    for loop in scope.loops:
        active, idle = loop.times(scope.now)
        if active < thresholds.SATURATED_SECONDS or active < thresholds.SATURATED_UTILIZATION * (active + idle):
            yield from _held(scope, loop, active + idle)
            continue
        most = busiest(loop)
        if most is None or most[2] < _LEAST_SHARE_OF_LINE:
            continue
        text = f"Loop {loop.label} is busy {percent(active / (active + idle))} of the time: "
        line = _line(scope)
        if line is not None:
            yield f"{text}{percent(line[1])} of it at {line[0]}"
        else:
            hint = "" if scope.process.profile.rate else "; `traceloop run --profile` names the lines"
            who = scope.who(most[0])
            yield f"{text}{percent(most[2])} of it {'at' if who.file else 'in'} {who.place}{hint}"


def _held(scope: Scope, loop: LoopStatistics, observed: float) -> Iterator[str]:
    """A sentence for a loop that long runs hold much of the time, though none is slow. Delays of callbacks do not show
    it: a request that arrives during a run is ready only after the next poll.
    """
    lengths = [each for each in loop.callbacks.durations.values() if each.maximum >= thresholds.LONG_RUN]
    runs = sum(each.number_from(thresholds.LONG_RUN) for each in lengths)
    spent = sum(each.sum_from(thresholds.LONG_RUN) for each in lengths)
    longest = max(loop.callbacks.callbacks.values(), key=lambda each: each.longest_s, default=None)
    if runs < _SEVERAL or spent < max(thresholds.LONG_SHARE * observed, thresholds.LONG_SECONDS) or longest is None:
        return
    who = scope.who(longest.label)
    names_them = loop.callbacks.lowest_threshold <= thresholds.LONG_RUN
    hint = "" if names_them else f"; `--slow-threshold {thresholds.LONG_RUN:g}` names the lines"
    yield (
        f"{counted(runs, 'run')} of {seconds(thresholds.LONG_RUN)} or longer held loop {loop.label} for some "
        f"{percent(spent / observed)} of the time, the longest for {seconds(longest.longest_s)} "
        f"{'at' if who.file else 'in'} {who.place}: what arrives meanwhile waits, which no delay shows{hint}"
    )


def _profiled(scope: Scope) -> Iterator[str]:
    line = _line(scope)
    if line is not None:
        yield f"{percent(line[1])} of what the profile saw at {line[0]}"


def _line(scope: Scope) -> tuple[str, float] | None:
    """The line of the application that took most, and its share of the profile; None if no line stands out."""
    profile = scope.process.profile
    for line in profile.lines(1):
        share = line.seconds / profile.total_seconds if profile.total_seconds else 0.0
        if line.file and share >= _LEAST_SHARE_OF_LINE:
            return place_of(line.function, line.file, line.line), share
    return None


def _most_of(loop: LoopStatistics, callbacks: int) -> tuple[str, float, float] | None:
    """The busiest callback of those that ran often enough to make up most of so many callbacks in one iteration."""
    every = loop.callbacks.callbacks
    often = busiest(loop, lambda label: label in every and every[label].runs >= callbacks / 2)
    return often or busiest(loop)


def congested(scope: Scope) -> Iterator[Finding]:
    """Iterations are long because they run very many callbacks, none of them slow."""
    try:
        stalls = stalls_of(scope.process)
    except LookupError:
        return
    iterations, total, longest, callbacks = 0, 0.0, 0.0, 0
    for index in [*stalls.earlier, stalls.index]:
        for each in index.congestion.values():
            iterations += each.iterations
            total += each.seconds
            if each.longest > longest:
                longest, callbacks = each.longest, each.callbacks
    waited = scope.waiting_share() * total
    own = total - waited
    if own < thresholds.CONGESTED_SECONDS or own < thresholds.CONGESTED_SHARE * scope.observed_s:
        return
    # With a processor to itself the process would have had shorter iterations. On a busy machine this proves little.
    if waited and own < iterations * min((each.callbacks.threshold for each in scope.loops), default=0.0):
        return
    loop = max(scope.loops, key=lambda each: each.callbacks.runs, default=None)
    most = _most_of(loop, callbacks) if loop is not None else None
    who = scope.who(most[0]) if most is not None else None
    yield Finding(
        "congested",
        "",
        scope.severity(own),
        (_SHORT if callbacks >= _MANY else "The loop runs several fairly long callbacks one after the other")
        + (f", most of them {who.place}" if who is not None else ""),
        f"{counted(iterations, 'iteration')} took {seconds(total)}; the longest {seconds(longest)} with "
        f"{count(callbacks)} callbacks",
        own,  # the callbacks of the crowd wait for each other, which harms nothing else; what else waited is not known
        scope.process.slot,
        "",
        who,
        (
            "no single callback of these iterations was slow",
            *([f"some {seconds(waited)} of it waited for a processor"] if waited else ()),
            *([f"in the longest they took {seconds(longest / callbacks)} each"] if 0 < callbacks < _MANY else ()),
        ),
        "Start fewer tasks at once (`asyncio.Semaphore`, a bounded queue with some workers), or await between batches."
        if callbacks >= _MANY
        else "Each of them holds the loop for a good while: what computes belongs in a process pool, what waits in "
        "`asyncio.to_thread`. `--profile` names the lines.",
    )


_OWN_WORK: Final = {
    OWN_WORK[0].label: (
        "timers that fell due",
        "Let timers fall due at different times (add some jitter), or have one timer that looks after all of them.",
    ),
    OWN_WORK[1].label: (
        "cancelled timers",
        "Set fewer timers that are cancelled again: one time limit around many awaits, or a timer that is put off "
        "instead of set anew.",
    ),
    OWN_WORK[2].label: (
        "descriptors that became ready",
        "Serve fewer connections with one loop: run more processes.",
    ),
}


def own_work(scope: Scope) -> Iterator[Finding]:
    """The loop's own work takes long: it moves very many timers at once."""
    for loop in scope.loops:
        for label, longest in loop.own_work.longest.items():
            totals = loop.callbacks.slow.get((label, label))
            if totals is None:
                continue
            of_what, remedy = _OWN_WORK[label]
            times = "once" if totals.runs == 1 else f"in {totals.runs:,} goes, {seconds(totals.longest_s)} at most"
            yield Finding(
                "congested",
                "own-work",
                scope.severity(totals.seconds),
                f"The loop itself is held by {of_what}: {count(longest.size)} at once",
                f"{seconds(totals.seconds)} {times}",
                totals.seconds,
                scope.process.slot,
                loop.label,
                None,
                (f"{count(longest.size)} of them took {seconds(longest.seconds)}, and no callback ran meanwhile",),
                remedy,
            )


def spinning(scope: Scope) -> Iterator[Finding]:
    """One callback runs again and again without a pause: a loop over ``sleep(0)``, a timer of zero seconds."""
    for loop in scope.loops:
        active, idle = loop.times(scope.now)
        observed = active + idle
        if active < thresholds.SPIN_SECONDS or active < thresholds.SPIN_UTILIZATION * observed:
            continue
        every = loop.callbacks.callbacks.values()
        most = max(every, key=lambda each: each.runs, default=None)
        if most is None or most.runs < thresholds.SPIN_SHARE * loop.callbacks.runs:
            continue
        if most.runs < thresholds.SPIN_RATE * observed or most.seconds > thresholds.SPIN_MEAN * most.runs:
            continue
        per_iteration = loop.callbacks.runs / max(1, loop.iterations)
        if per_iteration > 20.0:
            continue  # much to do, and not one thing over and over
        who = scope.who(most.label)
        yield Finding(
            "spin",
            "",
            WARNING,
            f"{who.place} runs over and over without waiting for anything",
            f"{count(most.runs / observed)} runs a second, {percent(most.runs / loop.callbacks.runs)} of all; the loop "
            f"is never idle",
            most.seconds,
            scope.process.slot,
            loop.label,
            who,
            (
                f"{counted(most.runs, 'run')} of {seconds(most.seconds / max(1, most.runs))} each",
                f"{counted(round(per_iteration), 'callback')} an iteration",
            ),
            "Wait for what is polled for (`asyncio.Event`, a queue, `add_reader`), or at least sleep for some "
            "milliseconds: `asyncio.sleep(0)` comes back at once.",
        )


def poll_late(scope: Scope) -> Iterator[Finding]:
    """The kernel woke the loop late, and neither the GIL nor a busy processor explains it."""
    for loop in scope.loops:
        delays = loop.poll_delays
        late = delays.quantile(0.99)
        if not is_poll_late(loop):
            continue
        yield Finding(
            "poll-late",
            "",
            scope.severity(delays.sum),
            f"Loop {loop.label} wakes too late from its poll",
            f"one poll in a hundred returns {seconds(late)} or more after its time",
            delays.sum,
            scope.process.slot,
            loop.label,
            None,
            (f"{counted(delays.count, 'poll')} with a timeout, {seconds(delays.sum)} late in all",),
            "Other threads that hold the GIL, a busy machine and a suspended virtual machine do this: look for those.",
        )


def late_polls(scope: Scope) -> float:
    """Seconds by which polls were late in all, without those that the kernel's timers explain."""
    return sum(_above(loop.poll_delays, _SHORT_SECONDS) for loop in scope.loops)


def _above(histogram: Histogram, least: float) -> float:
    """The sum of a histogram's values from ``least`` on, each taken as its bucket's lower bound."""
    bounds = histogram.bounds.fine
    counts = histogram.counts
    return sum(bounds[index - 1] * counts[index] for index in range(1, len(counts)) if bounds[index - 1] >= least)


def is_poll_late(loop: LoopStatistics) -> bool:
    """Whether one poll in a hundred returns as late as ``poll_late`` reports."""
    delays = loop.poll_delays
    return delays.count >= thresholds.POLL_LATE_COUNT and delays.quantile(0.99) >= thresholds.POLL_LATE_P99


def storms(scope: Scope) -> Iterator[Finding]:
    """Connections or TLS handshakes are so frequent that clients cannot keep them open; or connections are refused."""
    for loop in scope.loops:
        observed = max(sum(loop.times(scope.now)), 1e-9)
        handshakes, spent = loop.counter(layout.W_TLS_HANDSHAKES), loop.counter(layout.W_TLS_SECONDS)
        accepted, refused = loop.counter(layout.W_ACCEPTED), loop.counter(layout.W_REFUSED)
        if handshakes >= thresholds.STORM_COUNT and handshakes >= thresholds.STORM_RATE * observed:
            yield _storm(
                scope, loop, "tls", f"{count(handshakes / observed)} TLS handshakes a second", spent,
                f"{counted(handshakes, 'handshake')} took {seconds(spent)} in all",
            )  # fmt: skip
        elif accepted >= thresholds.STORM_COUNT and accepted >= thresholds.STORM_RATE * observed:
            yield _storm(
                scope, loop, "connections", f"{count(accepted / observed)} new connections a second", 0.0,
                f"{counted(accepted, 'connection')} accepted in {seconds(observed)}",
            )  # fmt: skip
        if refused >= thresholds.REFUSED:
            yield Finding(
                "connections-refused",
                "",
                WARNING,
                "Connections could not be accepted",
                f"{counted(refused, 'accept')} failed, {count(accepted)} succeeded",
                refused,
                scope.process.slot,
                loop.label,
                None,
                (f"{scope.process.usage.open_fds} descriptors open",) if scope.process.usage is not None else (),
                "Raise the limit of open files (`ulimit -n`, LimitNOFILE=), and look for connections that are never "
                "closed.",
            )


def _storm(scope: Scope, loop: LoopStatistics, detail: str, harm: str, cost: float, evidence: str) -> Finding:
    return Finding(
        "connection-storm",
        detail,
        NOTE if not cost else scope.severity(cost),
        "Clients open a connection for each request" if detail != "tls" else "TLS connections are made over and over",
        harm,
        cost,
        scope.process.slot,
        loop.label,
        None,
        (evidence,),
        "Keep connections alive and share them: one client session for the whole program, keep-alive in the proxy.",
    )
