"""The profile as the reader adds it up: bounded, and sound whatever the record says."""

import pytest

from traceloop.reading.decoding.decoded import Decoded, StackNode, StackSample
from traceloop.reading.site_names import SiteNames
from traceloop.reading.statistics import profile as profile_module
from traceloop.reading.statistics.run import Statistics
from traceloop.record.sites import UNKNOWN_SITE, Site

SITES = [
    UNKNOWN_SITE,
    Site("app", "handler", "/srv/app.py", 3),
    Site("app", "handler", "/srv/app.py", 9),
    Site("app", "price", "/srv/app.py", 31),
    Site("json.decoder", "decode", "/usr/lib/python3.13/json/decoder.py", 5),
]
NODES = [StackNode(1, 0, 2, False), StackNode(2, 1, 3, False), StackNode(3, 2, 4, False)]


def profile_with(nodes, samples):
    statistics = Statistics()
    process = statistics.attach(1, SiteNames(SITES), {})
    feed(process, nodes, samples)
    return process


def feed(process, nodes, samples):
    decoded = Decoded(None)
    decoded.nodes, decoded.samples, decoded.profile_rate = list(nodes), list(samples), 100.0
    process.feed(decoded, None)


def at(node, seconds=0.01, ident=1.0, ring=0):
    return StackSample(5.0, seconds, ident, node, ring)


def test_lines_are_of_the_innermost_frame_of_the_application():
    profile = profile_with(NODES, [at(3), at(3, 0.5), at(1)]).profile
    first, second = profile.lines(10)
    assert first[:4] == ("app.price", "/srv/app.py", 31, "app.handler")
    assert (first.seconds, first.samples) == (pytest.approx(0.51), 2)
    assert (second.line, second.samples) == (9, 1)
    assert profile.total_seconds == pytest.approx(0.52)


def test_the_number_of_nodes_is_bounded(monkeypatch):
    monkeypatch.setattr(profile_module, "MAX_NODES", 3)
    profile = profile_with(NODES, [at(3), at(2)]).profile
    assert len(profile.parents) == 3
    assert profile.cut == 2
    assert profile.total_samples == 2
    assert profile.lines(10)[0].line == 9


def test_a_stack_whose_definition_is_lost_counts_for_its_callback():
    profile = profile_with(NODES[2:], [at(3)]).profile
    (line,) = profile.lines(10)
    assert (line.function, line.file, profile.lost) == ("app.handler", "", 1)


@pytest.mark.parametrize("nodes", [[StackNode(1, 1, 2, False)], [StackNode(1, 2, 2, False), StackNode(2, 1, 3, False)]])
def test_a_circle_of_a_damaged_record_ends(nodes):
    profile = profile_with(nodes, [at(1)]).profile
    assert (profile.total_samples, profile.lost) == (1, 1)


def test_the_numbers_of_another_process_are_its_own():
    process = profile_with(NODES, [at(3)])
    process.detach()
    process.attach(2, SiteNames(SITES), {})
    feed(process, [StackNode(1, 0, 1, False)], [at(1)])
    assert [line.line for line in process.profile.lines(10)] == [31, 3]
    feed(process, [], [at(3)])
    assert process.profile.lost == 1


def test_workers_stand_apart():
    profile = profile_with(NODES, [at(3), at(2, ring=-1, ident=0.0, seconds=4.0)]).profile
    assert profile.total_seconds == pytest.approx(0.01)
    assert len(profile.lines(10)) == 1
    assert profile.frames[profile.stack_of(7)[0]].site.qualname == profile_module.WORKERS
