"""Executors that are full now: who fills them and who waits."""

from traceloop.reading.decoding.decoded import Decoded, Executor, OffloadStep
from traceloop.reading.site_names import SiteNames
from traceloop.reading.statistics.executors import ExecutorStatistics
from traceloop.reading.statistics.full_executors import Calls, full_executors
from traceloop.reading.statistics.labels import BoundedLabels
from traceloop.record.sites import Site

SITES = SiteNames([Site("", "", "", 0), Site("app", "fill", "/app.py", 1), Site("app", "small", "/app.py", 2)])


def statistics(*steps):
    out = ExecutorStatistics(SITES, BoundedLabels())
    decoded = Decoded(None)
    decoded.executors.append(Executor(7, "db", 2))
    decoded.offloads += steps
    out.feed(decoded)
    return out


def submitted(number, when, function):
    return OffloadStep("submit", when, number, executor=7, ident=float(function))


def started(number, when):
    return OffloadStep("start", when, number, worker=number)


def test_who_fills_it_and_who_waits():
    steps = [submitted(1, 10.0, 1), started(1, 10.0), submitted(2, 11.0, 1), started(2, 11.0)]
    steps += [submitted(3, 12.0, 2), submitted(4, 13.0, 2), submitted(5, 13.0, 1)]
    (full,) = full_executors(statistics(*steps), 20.0)
    assert (full.executor, full.workers, full.full_s) == ("db", 2, 8.0)
    assert full.fillers == [Calls("app.fill", 2, 10.0)]
    assert full.waiters == [Calls("app.small", 2, 8.0), Calls("app.fill", 1, 7.0)]


def test_one_with_a_free_worker_is_not_full():
    assert full_executors(statistics(submitted(1, 10.0, 1), started(1, 10.0), submitted(2, 12.0, 2)), 20.0) == []
