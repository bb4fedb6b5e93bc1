"""Trees of tasks: who waits for whom, groups of those that stand alike, circles."""

import itertools

import pytest

from traceloop.exporters.text import task_view
from traceloop.exporters.text.tables import Style
from traceloop.reading.statistics.task_tree import (
    ACTIVE,
    BRIEF,
    UNSEEN,
    WAITING,
    TaskNow,
    _mark_circles,
    state_of,
    tree_of,
)
from traceloop.reading.statistics.waits import UNKNOWN, AwaitPlace

PLACE = AwaitPlace("/srv/app/views.py", 12, "app.views.show", "asyncio.Lock.acquire")


def task(number, name="", coroutine="app.work", place=PLACE, state=WAITING):
    return TaskNow(float(number), coroutine, name, state, 9.0, float(number), place, [], "app.main", "MainThread")


def link(*pairs):
    for one, other in pairs:
        one.awaits.append(other)
        other.awaited = True


def text_of(tasks, width=120):
    _mark_circles(tasks)
    return task_view.tree(tree_of(tasks), Style(False, width))


def test_who_is_awaited_stands_below_who_awaits():
    top, middle, low = task(1, "top", "app.main"), task(2, "m", "app.middle"), task(3, "l", "app.low")
    link((top, middle), (middle, low))
    lines = text_of([top, middle, low])
    assert [line.split(" (")[0] for line in lines] == ["app.main", "└─ app.middle", "   └─ app.low"]


def test_tasks_that_stand_alike_are_one_line():
    top = task(1, "top", "app.main")
    many = [task(10 + number) for number in range(1000)]
    link(*((top, each) for each in many))
    lines = text_of([top, *many])
    assert len(lines) == 2
    assert lines[1].startswith("└─ 1,000 x app.work  waits 10.0 s to 16 min 49 s at views.py:12 in show for asyncio.L")


def test_groups_are_alike_only_where_what_they_await_is():
    one, two, three = (task(number, coroutine="app.top") for number in (1, 2, 3))
    low, other, lonely = task(4), task(5), task(6, coroutine="app.other")
    link((one, low), (two, other), (three, lonely))
    groups = tree_of([one, two, three, low, other, lonely])
    assert sorted(len(group.tasks) for group in groups) == [1, 2]


@pytest.mark.parametrize("size", [1, 2, 3, 2000])
def test_a_circle_is_a_deadlock(size):
    circle = [task(number, f"t{number}", f"app.f{number}") for number in range(1, size + 1)]
    link(*zip(circle, [*circle[1:], circle[0]], strict=True))
    outside = task(9999, "outside", "app.outside")
    link((outside, circle[0]))
    lines = text_of([outside, *circle])
    assert all(each.in_circle for each in circle) and not outside.in_circle
    assert "DEADLOCK" not in lines[0] and "DEADLOCK" in lines[1]


def test_a_circle_that_nobody_waits_for_is_shown():
    one, two = task(1, "one"), task(2, "two")
    link((one, two), (two, one))
    assert "DEADLOCK" in text_of([one, two])[0]


def test_a_long_chain_is_no_recursion():
    chain = [task(number, coroutine=f"app.f{number}") for number in range(5000)]
    link(*itertools.pairwise(chain))
    assert text_of(chain)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_fit_and_are_harmless(width):
    hostile = task(1, "na\x1b[31mme" * 9, "app." + "x" * 200, AwaitPlace("/a/\x1b]0;b.py", 3, "f\ng" * 40, "h" * 90))
    active = task(2, "t", state=ACTIVE, place=UNKNOWN)
    for line in text_of([hostile, active], width) + task_view.flat([hostile, active], Style(False, width)):
        assert len(line) <= width
        assert "\x1b" not in line and "\n" not in line


def test_a_task_that_has_not_run_while_its_loop_polled_is_suspended_though_no_look_has_found_it():
    assert state_of(5, 0, 100.0, 130.0) == WAITING
    assert state_of(0, 0, 100.0, 130.0) == UNSEEN
    assert state_of(0, 0, 130.0, 129.0) == ACTIVE  # it may be ready, or its turn to be looked at may come


def test_a_task_that_looks_found_suspended_and_that_has_gone_on_waits_briefly():
    assert state_of(0, 5, 130.0, 100.0) == state_of(0, 5, 100.0, 130.0) == BRIEF
    brief = task(1, "t", state=BRIEF, place=AwaitPlace("/a/app.py", 7, "app.tick", "asyncio.sleep"))
    (line,) = text_of([brief], 120)
    assert "waits briefly, seen at app.py:7 in tick for asyncio.sleep" in line
