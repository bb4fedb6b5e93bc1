"""Which findings are told while the program runs, when, and how often."""

from __future__ import annotations

from traceloop.reading.findings.lasting import LINES_A_MINUTE, REPEAT_SECONDS, Lasting
from traceloop.reading.findings.model import NOTE, WARNING, Finding, Verdict, Who
from traceloop.reading.statistics.executors import WorkersAt
from traceloop.reading.statistics.full_executors import Calls, FullExecutor


def found(kind, harm, name="app.load", severity=WARNING):
    who = Who(name, "/srv/app.py", 3)
    return Finding(kind, "", severity, f"{name} is bad", harm, 1.0, 0, "", who, (), "Mend it.")


def lines(lasting, now, *findings):
    return lasting.lines(Verdict(findings, ""), now)


def test_a_leak_is_told_at_once_and_again_when_it_is_worse():
    lasting = Lasting()
    assert lines(lasting, 0.0, found("memory-leak", "10 MiB")) == ["memory-leak: app.load is bad; 10 MiB"]
    assert lines(lasting, 5.0, found("memory-leak", "20 MiB")) == []
    assert lines(lasting, REPEAT_SECONDS, found("memory-leak", "10 MiB")) == []
    worse = lines(lasting, REPEAT_SECONDS + 5, found("memory-leak", "90 MiB"))
    assert worse == ["memory-leak: app.load is bad; 90 MiB"]


def test_a_pool_that_waits_for_itself_is_told_when_it_goes_on():
    lasting = Lasting()
    assert lines(lasting, 0.0, found("pool-waits-for-itself", "3 calls")) == []
    assert lines(lasting, 5.0, found("pool-waits-for-itself", "3 calls")) == []  # it was full, and is no more
    worse = lines(lasting, 10.0, found("pool-waits-for-itself", "5 calls"))
    assert worse == ["pool-waits-for-itself: app.load is bad; 5 calls"]
    assert lines(lasting, 15.0, found("pool-waits-for-itself", "8 calls")) == []


def test_a_full_executor_is_told_with_who_fills_it_and_who_waits():
    lasting = Lasting()
    place = ("/srv/app.py", 9, "app", "take"), ("/usr/lib/python3.13/threading.py", 1, "threading", "Condition.wait")
    fillers, waiters = [Calls("app.fill", 2, 1.4)], [Calls("app.small", 3, 1.1), Calls("app.fill", 1, 0.9)]

    def full(seconds, stacks=None):
        return lasting.full_lines(0, 4711, [FullExecutor("db", 2, seconds, fillers, waiters, stacks)], 0.1, now)

    now = 100.0
    stacks = WorkersAt(100.0, 1.0, 2, 4, ((2, *place),))
    assert full(0.9, stacks) == []
    assert full(1.1) == []  # where they stand comes soon
    assert full(1.1, stacks) == [
        "executor-full: executor db of process 4711 is full for 1.10 s: its 2 workers run app.fill (2) "
        "(2 stood at srv/app.py:9 in take); 4 calls wait: app.small (3), app.fill (1)"
    ]
    assert full(2.0, stacks) == []
    now = 100.0 + REPEAT_SECONDS
    assert len(full(300.0)) == 1


def test_what_the_process_tells_itself_is_not_told_twice_and_a_note_is_not_told():
    lasting = Lasting()
    assert lines(lasting, 0.0, found("blocking-call", "1 s"), found("deadlock", "2 tasks", severity=NOTE)) == []


def test_where_a_run_has_many_processes_the_line_names_the_one():
    worker = found("deadlock", "2 tasks")._replace(process=1)
    judged = Verdict((found("deadlock", "2 tasks"), worker), "")
    assert Lasting().lines(judged, 0.0, {0: 4711, 1: 4712}) == [
        "deadlock: app.load is bad; 2 tasks; in process 4711",
        "deadlock: app.load is bad; 2 tasks; in process 4712",
    ]


def test_many_of_them_are_few_lines():
    lasting = Lasting()
    many = [found("deadlock", "2 tasks", f"app.f{number}") for number in range(50)]
    assert len(lines(lasting, 0.0, *many)) == LINES_A_MINUTE
    assert lines(lasting, 30.0, *many) == []
    assert len(lines(lasting, 61.0, *many)) == LINES_A_MINUTE
