"""Requests are matched with their server spans by the task and the time of the run that answered."""

from traceloop.reading.decoding.decoded import Decoded
from traceloop.reading.requests.server_spans import ServerSpans
from traceloop.reading.requests.totals import Request, RequestTotals

TASK = 65536.0 + 1.0


def chunk(runs, marks):
    """``runs``: (number, start, end, ident)."""
    decoded = Decoded(None)
    decoded.runs.extend((*run, "task", 0.0, 0, 0, 0, 0) for run in runs)
    decoded.request_spans = marks
    return decoded


def request(begin, end, ident=TASK):
    return Request("app.f", begin, end - begin, {}, ident)


def test_each_of_a_connections_requests_has_its_own_span():
    totals = RequestTotals()
    spans = ServerSpans(totals)
    assert not totals.tells_all
    spans.feed(chunk([(1, 10.0, 10.5, TASK), (2, 11.0, 11.5, TASK), (3, 12.0, 12.5, TASK)], [(1, 7), (3, 9)]))
    assert totals.tells_all
    for begin in (10.0, 11.0, 12.0):
        spans.request_ended(request(begin, begin + 0.5))
    assert [(each.begin, number) for each, number in spans.take()] == [(10.0, 7), (12.0, 9)]
    assert spans.take() == []


def test_a_mark_that_is_read_before_its_run_is_over_counts_with_the_next_chunk():
    spans = ServerSpans(RequestTotals())
    spans.feed(chunk([(1, 10.0, 10.5, TASK)], [(2, 7)]))
    spans.feed(chunk([(2, 11.0, 11.5, TASK)], []))
    spans.request_ended(request(11.0, 12.0))
    assert [number for _, number in spans.take()] == [7]


def test_what_is_kept_is_bounded():
    spans = ServerSpans(RequestTotals())
    for number in range(1, 30_000):
        spans.feed(chunk([(number, float(number), number + 0.5, TASK * number)], [(number, number)]))
        if number % 2:
            spans.request_ended(request(number, number + 0.5, TASK * number))
    assert len(spans._marks) <= 20_000
    assert len(spans.take()) == 8192


def test_marks_of_what_is_never_answered_are_bounded():
    totals = RequestTotals()
    spans = ServerSpans(totals)
    for number in range(1, 2_000):
        spans.feed(chunk([(number, float(number), number + 0.5, 5.0)], [(number, number)]))
    assert sum(map(len, spans._marks.values())) <= 1_000
