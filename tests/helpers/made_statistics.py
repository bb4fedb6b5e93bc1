"""Statistics made in memory, for the rules that judge them."""

from __future__ import annotations

from traceloop.reading.decoding.decoded import Collection, Decoded, Event
from traceloop.reading.findings.verdict import KINDS, verdict
from traceloop.reading.new_statistics import new_statistics
from traceloop.reading.site_names import SiteNames
from traceloop.reading.stalls.parts import stalls_of
from traceloop.reading.stalls.who_waited import SlowRun
from traceloop.reading.statistics.callbacks import CallbackTotals, SlowTotals
from traceloop.reading.statistics.counting import histogram_of
from traceloop.record.sites import Site

SITES = [
    Site("", "unknown", "", 0),
    Site("app.prices", "load", "/srv/shop/app/prices.py", 31),
    Site("app.prices", "parse", "/srv/shop/app/prices.py", 60),
    Site("app.jobs", "Worker.watch", "/srv/shop/app/jobs.py", 12),
    Site("asyncio.tasks", "run_coroutine_threadsafe.<locals>.callback", "/usr/lib/asyncio/tasks.py", 950),
]
LOAD, PARSE, WATCH, ASKER = 1.0, 2.0, 3.0, 4.0


class Made:
    """Statistics of one process with one loop that was observed for ``active`` + ``idle`` s."""

    def __init__(self, active=1.0, idle=99.0):
        self.statistics = new_statistics()
        self.process = self.statistics.attach(0, SiteNames(SITES))
        self.loop = self.process.open_loop("MainThread", 1, 0.0, None, None)
        self.loop.active_s, self.loop.idle_s, self.loop.iterations = active, idle, 1000

    def ran(self, label, runs, seconds, delay=0.001):
        totals = self.loop.callbacks.callbacks.setdefault(label, CallbackTotals(label))
        totals.runs += runs
        totals.seconds += seconds
        self.loop.callbacks.runs += runs
        histogram_of(self.loop.callbacks.delays, "task").add_all([delay] * runs)

    def counter(self, index, value):
        self.loop._ended_words[index] = value

    def events(self, *data):
        decoded = Decoded(None)
        decoded.events = [Event(1.0, number, each) for number, each in enumerate(data, 1)]
        self.process.feed(decoded, None)

    def slow_run(self, length, cpu, waited, others=0.0, site=LOAD):
        """A slow run of the loop's thread: CPU time, waiting for a processor, CPU time of other threads."""
        index = stalls_of(self.process).index
        start = 10.0 * (1 + len(index.slow_runs()))
        run = (1, start, start + length, site, start, 0, 0, 0, 0, 0)
        index.take_loop(1, Decoded(None), [SlowRun(run)], 0.1)
        samples = [(start, 0.0, 0.0, 0.0, 0), (start + length, cpu, cpu + others, waited, int(others * 200))]
        event = {"kind": "stall_end", "ring": 1, "run": start, "at": start + length, "samples": []}
        self.events({**event, "before": samples[0], "after": samples[1]})
        label = self.process.sites.label(int(site))
        slow = self.loop.callbacks.slow.setdefault((label, "unknown"), SlowTotals())
        slow.runs, slow.seconds, slow.longest_s = slow.runs + 1, slow.seconds + length, max(slow.longest_s, length)
        return slow

    def collected(self, *pauses, freed=0, start=0.0, within=True, called=False):
        """Full collections of so many s, one a second: within runs of the loop, or after them, while that sleeps."""
        every = [Collection(start + n, pause, 2, freed, 0, called) for n, pause in enumerate(pauses)]
        decoded = Decoded(None)
        decoded.collections = every
        self.process.feed(decoded, None)
        decoded = Decoded(None)
        for number, each in enumerate(every, 1):
            end = each.start + each.duration if within else each.start
            decoded.runs.append((number, each.start - 0.001, end, LOAD, "task", 0.0, 0, 0, number, 0))
        self.process.collections.feed(decoded)

    def late(self, reason, seconds, waited=0.0, computed=0.0):
        """The watchdog came late; its own waiting for a processor, and what the process computed meanwhile."""
        loops = [[1, (10.0, 0.0, 0.0, 0.0, 0), (10.0 + seconds, 0.0, computed, 0.0, 0)]]
        event = {"kind": "late", "reason": reason, "from": 10.0, "to": 10.0 + seconds, "held": 0.0, "loops": loops}
        self.events({**event, "waited": waited})

    def gil(self, passed, turns, waits, waited, others, own=0.0, threads=(), **more):
        """How the watchdog found the GIL in so many s, and what the other threads and the loop's computed meanwhile."""
        loops = [[1, (10.0, 0.0, 0.0, 0.0, 0), (10.0 + passed, own, own + others, 0.0, 0)]]
        event = {"kind": "gil", "from": 10.0, "to": 10.0 + passed, "turns": turns, "waits": waits, "waited": waited}
        self.events({**event, "loops": loops, "threads": list(threads), **more})

    def waited(self, first, last):
        """What was measured of the loop's thread when it began, and last."""
        self.events({"kind": "processor", "loops": [[1, first, last]]})

    def kinds(self):
        found = verdict(self.statistics).findings
        assert {each.kind for each in found} <= set(KINDS)
        return [(each.kind, each.detail) for each in found]

    def one(self, kind):
        found = [each for each in verdict(self.statistics).findings if each.kind == kind]
        assert len(found) == 1, self.kinds()
        return found[0]
