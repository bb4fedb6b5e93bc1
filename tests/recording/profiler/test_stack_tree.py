"""The tree of stacks: each frame once, by line, within its bound, and without keeping any code alive."""

import gc

from traceloop.record import layout
from traceloop.record.layout import OUTCOME, SITE_LIMIT
from traceloop.recording.profiler import stack_tree
from traceloop.recording.profiler.stack_tree import Place, StackTree
from traceloop.recording.site_log import SiteLog


def made(text="def f():\n    a = 1\n    return a\n"):
    names = {}
    exec(compile(text, "app.py", "exec"), names)
    return names["f"].__code__


def place(code, line, *, awaits=False):
    instruction = next(start for start, _, at in code.co_lines() if at == line)
    return Place(code, instruction, "app", awaits)


def tree():
    log = SiteLog(None)
    return StackTree(log.number), log


def test_a_stack_is_numbered_once_and_its_frames_are_told_by_line():
    numbered, log = tree()
    outer, inner = made(), made()
    first = numbered.node_of([place(outer, 2), place(inner, 2)])
    assert numbered.node_of([place(outer, 2), place(inner, 2)]) == first
    other = numbered.node_of([place(outer, 2), place(inner, 3)])
    assert len({first, other, numbered.node_of([place(outer, 2)])}) == 3
    numbered.begin_anew()
    (a, kind, b), (c, _, d) = zip(*[iter(numbered.definitions(other))] * 3, strict=True)
    assert (a, kind, b % OUTCOME) == (1.0, layout.R_NODE, 0.0)
    assert (c, d % OUTCOME) == (float(other), 1.0)
    assert [log.sites[int(b // OUTCOME)].line for b in (b, d)] == [2, 3]
    assert numbered.definitions(other) == []  # told
    numbered.begin_anew()
    assert len(numbered.definitions(first)) == 6


def test_instructions_of_one_line_are_one_node():
    numbered, _ = tree()
    code = made("def f(): g(); h(); return 1\n")
    places = [Place(code, instruction, "app", False) for instruction in range(0, len(code.co_code), 2)]
    assert len({numbered.node_of([each]) for each in places}) == 1


def test_who_awaits_is_told_from_who_runs():
    numbered, _ = tree()
    code = made()
    assert numbered.node_of([place(code, 2)]) != (awaits := numbered.node_of([place(code, 2, awaits=True)]))
    numbered.begin_anew()
    assert numbered.definitions(awaits)[2] // OUTCOME >= SITE_LIMIT


def test_a_full_tree_gives_the_deepest_frame_that_it_knows(monkeypatch):
    monkeypatch.setattr(stack_tree, "MAX_NODES", 2)
    numbered, _ = tree()
    codes = [made() for _ in range(3)]
    stack = [place(code, 2) for code in codes]
    assert numbered.node_of(stack) == numbered.node_of(stack[:2]) == 2
    assert numbered.cut == 1


def test_no_code_is_kept_alive():
    numbered, _ = tree()
    for _ in range(50):
        numbered.node_of([place(made(), 2)])
    gc.collect()
    assert not numbered._known
    assert not numbered._references
