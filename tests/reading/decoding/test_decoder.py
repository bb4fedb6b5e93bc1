"""Decoding records whose meaning is known: queue positions, kinds, gaps, iterations."""

from __future__ import annotations

import pytest

from traceloop.reading.decoding.ring_reader import Batch
from traceloop.reading.decoding.stream import LoopStream
from traceloop.record import layout as r

TASK = 7 * r.SITE_LIMIT + 3


def batch(*triples, text=(), gap=False, dropped=0, at=100.0):
    records = [float(value) for triple in triples for value in triple]
    return Batch(0, records, r.pack_text(list(text)), 0, at, dropped, gap)


def decode(*batches):
    stream = LoopStream()
    out = [decoded for one in batches for decoded in stream.feed([one])]
    out.append(stream.finish())
    return stream, out


def runs(out):
    return [run for decoded in out for run in decoded.runs]


BEGIN = ((0.0, r.R_LOOP, 1), (0.0, r.R_RUN, 1))


def test_the_run_in_between_scheduled_what_was_added():
    # The first run adds two handles; the first of these adds one more.
    _, out = decode(
        batch(*BEGIN, (1, 5, 2), (2, 6, 2), (3, 6, 1), (4, r.R_SPIN, 4.5), (5, 8, 0), (6, r.R_END, 1), text=["main"])
    )
    found = runs(out)
    assert [(run[0], run[1], run[2]) for run in found] == [(1, 1, 2), (2, 2, 3), (3, 3, 4), (4, 5, 6)]
    assert [run[6] for run in found] == [0, 1, 1, 2]
    assert [run[5] for run in found] == [1.0, 0.0, 1.0, 2.0]  # from R_RUN, then from the end of the run that added it
    assert [run[4] for run in found] == ["soon"] * 4
    assert out[-2].closed and out[-2].loop.thread == "main"


def test_descriptors_timers_and_writers_are_ready_when_the_poll_says_so():
    _, out = decode(
        batch(
            (0.0, r.R_LOOP, 1),
            (0.0, r.R_RUN, 0),
            (1.0, r.R_POLL, 9.0),
            (1, r.R_WRITER, 0),
            (1.5, r.R_TIMER, 0),
            (2.0, r.R_ACTIVE, 2),
            (0, r.R_DUE, 1),
            (2.5, 4, 2),
            (3.0, 5, 1),
            (4.0, 6, 0),
            (5.0, r.R_END, 0),
            text=["main"],
        )
    )
    found = runs(out)
    assert [run[4] for run in found] == ["reader", "writer", "timer"]
    assert [run[5] for run in found] == [0.5, 1.0, 2.5]
    assert sum(decoded.idle_s for decoded in out) == 1.0
    assert sum(decoded.active_s for decoded in out) == 4.0
    (iteration,) = [each for decoded in out for each in decoded.iterations]
    assert (iteration.start, iteration.end, iteration.callbacks, iteration.poll_duration) == (2.0, 5.0, 3, 1.0)


def test_a_stamp_overrules_the_place_in_the_queue_and_a_cancelled_handle_takes_one():
    _, out = decode(
        batch(
            *BEGIN,
            (1, 5, 2),
            (1.25, r.R_STAMP, 0),
            (2, 6, 1),
            (3, r.R_SKIP, 0),
            (3, r.R_END, 0),
            text=["main"],
        )
    )
    _, second = runs(out)
    assert (second[4], second[5], second[6]) == ("threadsafe", 0.75, 0)
    assert second[2] == 3


def test_a_task_names_its_creator_and_its_outcome():
    _, out = decode(
        batch(
            *BEGIN,
            (1, 5, 1),
            (TASK, r.R_TASK, 1),
            (2, TASK, r.OUTCOME * r.OUTCOME_CANCELLED),
            (3, r.R_END, 0),
            text=["main", "worker"],
        )
    )
    (task,) = [task for decoded in out for task in decoded.tasks]
    assert (task.name, task.first_run, task.creator, task.creator_ident, task.made_by_loop) == ("worker", 2, 1, 5, True)
    assert runs(out)[1][4] == "task" and runs(out)[1][9] == r.OUTCOME_CANCELLED
    assert [each[:2] for decoded in out for each in decoded.finished] == [(TASK, r.OUTCOME_CANCELLED)]


def test_a_task_of_a_factory_has_waited_since_the_run_that_made_it():
    _, out = decode(
        batch(
            *BEGIN,
            (1, 5, 0),
            (TASK, r.R_TASK, -1.5),
            (1.5, r.R_POLL, 7),
            (4, r.R_ACTIVE, 0),
            (0, r.R_DUE, 1),
            (4, TASK, r.OUTCOME * r.OUTCOME_RESULT),
            (5, r.R_END, 0),
            text=["main", "worker"],
        )
    )
    (task,) = [task for decoded in out for task in decoded.tasks]
    assert (task.creator, task.creator_ident, task.made_by_loop, task.waited_from) == (1, 5, True, 1.5)


def test_a_first_step_defines_its_task():
    made, other = TASK + r.SITE_LIMIT, TASK + 2 * r.SITE_LIMIT
    _, out = decode(
        batch(
            *BEGIN,
            (1, 5, 3),
            (2, TASK, 2 + r.FIRST + r.OUTCOME * r.OUTCOME_RESULT),
            (3, made, 1 + r.FIRST),
            (4, other, 0 + r.FIRST),
            (5, r.R_END, 0),
            text=["main", "Task-7", "", "mine"],
        ),
        batch((6, other + r.SITE_LIMIT, r.FIRST), gap=True, dropped=1, text=[""]),
    )
    tasks = [task for decoded in out for task in decoded.tasks]
    assert [(task.ident, task.name, task.creator, task.creator_ident) for task in tasks] == [
        (TASK, "Task-7", 1, 5), (made, "Task-8", 1, 5), (other, "mine", 1, 5), (other + r.SITE_LIMIT, "", 0, 0.0),
    ]  # fmt: skip
    assert [each[:2] for decoded in out for each in decoded.finished] == [(TASK, r.OUTCOME_RESULT)]
    assert [run[4] for run in runs(out)] == ["soon", "task", "task", "task", "task"]


def test_after_a_gap_nothing_is_guessed():
    _, out = decode(
        batch(*BEGIN, (1, 5, 3), text=["main"], at=1.5),
        batch(
            (8, 6, 2), (9, 6, 1), (10, 6, 0), (11, r.R_SPIN, 12), (12, 6, 1), (13, 6, 0), gap=True, dropped=40, at=14
        ),
    )
    found = runs(out)
    assert found[0][2] == 1.5  # it ended when its batch was written
    # What was in the queue then is unknown. The reading after the first run is where knowledge starts again.
    assert [run[5] for run in found[1:4]] == [-1, -1, -1]
    assert [run[6] for run in found[1:4]] == [0, 0, 0]
    assert sum(decoded.dropped for decoded in out) == 40
    assert found[-1][5] == 0.0 and found[-1][6] == found[-2][0]
    assert found[-1][2] == 14


def test_records_split_anywhere_between_batches_mean_the_same():
    triples = [
        *BEGIN,
        (1, 5, 2),
        (TASK, r.R_TASK, 1),
        (2, TASK, 1),
        (2.5, r.R_STAMP, 0),
        (3, 5, 2),
        (4, r.R_POLL, 0.5),
        (4.75, r.R_ACTIVE, 0),
        (5, 5, 1),
        (6, 5, 0),
        (7, r.R_GC, 0.1),
        (2, r.R_GC_INFO, 5),
        (8, r.R_END, 1),
    ]
    texts = {r.R_LOOP: "main", r.R_TASK: "t"}

    def cut(at):
        parts = [part for part in (triples[:at], triples[at:]) if part]
        return [batch(*part, text=[texts[kind] for _, kind, _ in part if kind in texts]) for part in parts]

    def everything(out):
        return [
            [item for decoded in out for item in getattr(decoded, name)]
            for name in ("runs", "iterations", "tasks", "collections")
        ] + [sum(decoded.active_s for decoded in out), sum(decoded.idle_s for decoded in out)]

    whole = everything(decode(*cut(0))[1])
    assert len(whole[0]) == 5 and whole[1][0].poll_delay == 0.25
    for at in range(1, len(triples)):
        assert everything(decode(*cut(at))[1]) == whole, at


@pytest.mark.parametrize("outcome", [r.OUTCOME_RESULT, r.OUTCOME_EXCEPTION, r.OUTCOME_CANCELLED])
def test_offload_steps_carry_worker_and_outcome(outcome):
    _, out = decode(
        batch(
            *BEGIN,
            (0.5, r.R_SUBMIT, 9),
            (2, r.R_SUBMIT_INFO, 77),
            (1, 5, 0),
            (3, r.R_START, 9 + r.OUTCOME * 4),
            (4, r.R_FINISH, 9 + r.OUTCOME * outcome),
            (5, r.R_END, 0),
            text=["main"],
        )
    )
    submit, start, finish = [step for decoded in out for step in decoded.offloads]
    assert (submit.number, submit.executor, submit.ident, submit.run) == (9, 2, 77, 1)
    assert (start.number, start.worker) == (9, 4)
    assert (finish.number, finish.outcome) == (9, outcome)


@pytest.mark.parametrize("moved", [1, 3])
def test_a_poll_that_found_handles_is_told_in_one_record_as_in_three(moved):
    rest = [(3.0 + place, 4 + place, moved - 1 - place) for place in range(moved)]
    before, after = ((0.0, r.R_LOOP, 1), (0.0, r.R_RUN, 1), (0.5, 9, 0)), (*rest, (8.0, r.R_END, 0))
    writer = [(0, r.R_WRITER, 0)]
    three = [(1.0, r.R_POLL, -1.0), *writer, (2.5, r.R_ACTIVE, moved), (0, r.R_DUE, 0)]
    one = [*writer, (1.0, r.R_FOUND - moved, 2.5)]
    seen = []
    for poll in (three, one):
        stream, out = decode(batch(*before, *poll, *after, text=["main"]))
        iterations = [each for decoded in out for each in decoded.iterations]
        spent = sum(each.active_s for each in out), sum(each.idle_s for each in out)
        seen.append((runs(out), iterations, spent, stream.damaged))
    assert seen[0] == seen[1]
    assert [run[4] for run in seen[1][0]] == ["soon", "writer"] + ["reader"] * (moved - 1)
    assert seen[1][2] == (0.0 + 1.0 + 8.0 - 2.5, 1.5)


def test_a_count_of_handles_that_makes_no_sense_is_damage():
    records = (*BEGIN, (1, 5, 0), (2.0, float("-inf"), 3.0), (4.0, 5, 0), (5.0, r.R_END, 0))
    stream, out = decode(batch(*records, text=["main"]))
    assert stream.damaged == 1
    assert len(runs(out)) == 2


@pytest.mark.parametrize(
    ("end", "running_since", "idle", "active"),
    [
        (7.0, 0.0, 6.0, 0.0),  # it ended within its poll
        (7.0, 3.0, 2.0, 4.0),  # it had left it, and what then ran never ended
        (2.0, 3.0, 2.0, 0.0),  # it was seen for the last time before that
        (7.0, 0.5, 6.0, 0.0),  # a word of before the poll
        (7.0, float("nan"), 6.0, 0.0),
    ],
)
def test_a_last_poll_ends_when_the_loop_was_off_it(end, running_since, idle, active):
    stream = LoopStream()
    fed = stream.feed([batch((0.0, r.R_LOOP, 1), (0.0, r.R_RUN, 0), (1.0, r.R_POLL, 9.0), text=["main"])])
    before = sum(decoded.active_s for decoded in fed)
    last = stream.finish(end, running_since)
    assert sum(decoded.idle_s for decoded in fed) + last.idle_s == pytest.approx(idle)
    assert before + last.active_s == pytest.approx(1.0 + active)
