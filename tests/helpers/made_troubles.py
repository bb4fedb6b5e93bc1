"""Statistics made in memory that have one trouble each: one of every kind of finding."""

from __future__ import annotations

import asyncio
import json

from tests.helpers.made_statistics import ASKER, LOAD, PARSE, WATCH, Made
from traceloop.reading.decoding.decoded import Decoded, Executor, NewTask, Standing
from traceloop.reading.stalls.index import Congestion
from traceloop.reading.stalls.parts import stalls_of
from traceloop.reading.statistics.callbacks import SlowTotals
from traceloop.reading.statistics.saturation import Filler
from traceloop.record import layout

TASK_AWAITED = [[["/srv/shop/app/prices.py", 31, "app.prices", "load"]], "_asyncio.Task"]
LOCK_AWAITED = [[*TASK_AWAITED[0], [asyncio.locks.__file__, 9, "asyncio.locks", "Lock.acquire"]], "_asyncio.Future"]


def grown(heap, before, after, **more):
    """The event of a heap that was seen to grow."""
    return {"kind": "growth", "heap": heap, "start": 10.0, "end": 31.0, "before": before, "after": after, **more}


def full_executor(made, waited=3.0, longest=0.5, seconds=5.0, label="reports", workers=4):
    """An executor that was full for so many seconds."""
    decoded = Decoded(None)
    decoded.executors = [Executor(1, label, workers)]
    made.process.feed(decoded, None)
    totals = made.process.executors.executors[label]
    full = totals._saturation
    full.seconds, full.waits, full.longest = seconds, 10, longest
    filler = full.fillers["app.prices.load"] = Filler()
    filler.seconds, filler.waiters = waited, {"app.prices.parse": waited}


def task(number, site, start, end=None, outcome=layout.OUTCOME_RESULT):
    """A task's life."""
    ident = site + layout.SITE_LIMIT * number
    return NewTask(ident, f"Task-{number}", 0, start, 1, PARSE, False), end, outcome


def feed_tasks(made, tasks):
    """Tasks that lived as ``task`` says."""
    decoded = Decoded(None)
    decoded.tasks = [each for each, _, _ in tasks]
    decoded.finished = [(each.ident, outcome, end, 0) for each, end, outcome in tasks if end is not None]
    for totals, _, _ in tasks:
        made.loop.tasks._known.totals(int(totals.ident) % layout.SITE_LIMIT).count += 1
    for part in made.loop.parts:
        part.feed(decoded)


def two_that_wait(made, awaited, chain=None, second=WATCH):
    """Two tasks that stand at a line each since second 1; the first waits for the second, which may wait for it."""
    one, two = layout.SITE_LIMIT + LOAD, 2 * layout.SITE_LIMIT + second
    decoded = Decoded(None)
    decoded.tasks = [NewTask(ident, name, 1, 1.0, 0, 0.0, True) for ident, name in ((one, "one"), (two, "two"))]
    for number, ident in enumerate((one, two), 1):
        decoded.runs.append((number, 1.0, 1.0, ident, "task", 0.0, 0, 0, 1, 0))
    made.process.feed(decoded, made.loop)
    looks = Decoded(None)
    looks.look_period = 1.0
    looks.chains = [(1, json.dumps(chain or TASK_AWAITED))]
    looks.standing = [Standing(2.0, one, 1), Standing(2.0, two, 1)]
    looks.awaited = [(2.0, one, two)] + ([(2.0, two, one)] if awaited else [])
    made.process.feed(looks, None)
    return one


def slow(made):
    totals = made.loop.callbacks.slow["app.prices.load", "app.prices.load"] = SlowTotals()
    totals.runs, totals.seconds, totals.longest_s = 3, 2.0, 1.0


def congested(made):
    made.ran("app.prices.parse", 100_000, 0.9)
    each = stalls_of(made.process).index.congestion[0] = Congestion()
    each.iterations, each.seconds, each.longest, each.callbacks = 10, 2.5, 0.3, 900


def collected(made):
    made.collected(0.15, 0.15)


def pool_waits(made):
    full_executor(made)
    totals = made.loop.tasks._known.totals(int(WATCH))
    totals.count, totals.results, totals.creators = 5, 5, {int(ASKER): 5}


def lost(made):
    totals = made.loop.tasks._known.totals(int(WATCH))
    totals.count, totals.abandoned = 5, 2


def swallowed(made):
    place = ["/srv/shop/app/jobs.py", 14, "app.jobs", "Worker.watch"]
    made.events({"kind": "swallowed", "entries": [["not_retrieved", "app.jobs.Worker.watch", "ValueError", place, 3]]})


def saturated(made):
    made.loop.active_s, made.loop.idle_s = 95.0, 5.0
    made.ran("app.prices.load", 900, 85.0, 0.5)


def spinning(made):
    made.loop.active_s, made.loop.idle_s, made.loop.iterations = 99.5, 0.5, 250_000
    made.ran("app.jobs.Worker.watch", 250_000, 2.5)


def gil(made):
    made.loop.poll_delays.add_all([0.1] * 100)
    made.late("gil", 15.0)


#: By kind of finding.
TROUBLES = {
    "blocking-call": slow,
    "cancelled-timers": lambda made: made.counter(layout.W_COMPACTIONS, 600),
    "congested": congested,
    "connection-storm": lambda made: made.counter(layout.W_ACCEPTED, 6000),
    "connections-refused": lambda made: made.counter(layout.W_REFUSED, 3),
    "container-throttled": lambda made: made.events({"kind": "throttled", "held": [[10.0, 11.0, 15, 5.0]]}),
    "cpu-on-loop": lambda made: made.slow_run(0.5, 0.5, 0.0),
    "data-dropped": lambda made: made.process.count_records(0, 10_000, 20),
    "deadlock": lambda made: two_that_wait(made, awaited=True),
    "debug-mode": lambda made: setattr(made.loop, "debugged", True),
    "errors-swallowed": swallowed,
    "executor-full": full_executor,
    "gc-pauses": collected,
    "gil-contention": gil,
    "loop-saturated": saturated,
    "lost-tasks": lost,
    "memory-leak": lambda made: made.events(grown("memory", 10_000, 90_000, unit="blocks")),
    "poll-late": lambda made: made.loop.poll_delays.add_all([0.08] * 200),
    "pool-waits-for-itself": pool_waits,
    "processor-starved": lambda made: made.waited((5.0, 1.0, 1.0, 1.0, 0), (95.0, 5.0, 5.0, 9.0, 0)),
    "slow-peer": lambda made: made.counter(layout.W_PAUSED_SECONDS, 15.0),
    "spin": spinning,
    "task-leak": lambda made: feed_tasks(
        made, [task(n, WATCH, n * 0.02, 60.0, layout.OUTCOME_CANCELLED) for n in range(2000)]
    ),
    "timer-leak": lambda made: made.events(grown("timer", 0, 2500)),
    "waiting": lambda made: two_that_wait(made, awaited=False, chain=LOCK_AWAITED, second=LOAD),
}


def with_trouble(kind):
    """Statistics with this one, and no other."""
    made = Made()
    TROUBLES[kind](made)
    return made
