"""The Perfetto trace, decoded with the published protobuf classes, read as trace processor reads it."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest

from tests.helpers.exported import record, traceloop

trace_pb2 = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")


class Slice:
    def __init__(self, track, start, name, notes):
        self.track, self.start, self.name, self.notes = track, start, name, notes
        self.end = None


class Trace:
    """Slices by track, counters by track, and the slices of each flow in the order of time."""

    def __init__(self, data):
        self.tracks, self.slices, self.flows, self.counters = {}, [], defaultdict(list), defaultdict(list)
        trace = trace_pb2.Trace()
        trace.ParseFromString(data)
        events = list(self._events(trace))
        events.sort(key=lambda each: each[:2])
        open_slices = defaultdict(list)
        for when, _, event, name, notes in events:
            track = self.tracks[event.track_uuid][0]
            if event.type == event.TYPE_COUNTER:
                self.counters[track].append((when, event.counter_value))
                continue
            stack = open_slices[event.track_uuid]
            if event.type == event.TYPE_SLICE_BEGIN:
                stack.append(Slice(track, when, name, notes))
                self.slices.append(stack[-1])
            elif event.type == event.TYPE_SLICE_END:
                stack[-1].end = when
                stack.pop().notes.update(notes)
                continue
            # An instant's arrow leaves the slice that it is in.
            for flow in (*event.flow_ids, *event.terminating_flow_ids):
                self.flows[flow].append(stack[-1])
        assert not any(open_slices.values())

    def _events(self, trace):
        now, names, notes = {}, {}, {}
        for index, packet in enumerate(trace.packet):
            sequence = packet.trusted_packet_sequence_id
            if packet.HasField("track_descriptor"):
                own = packet.track_descriptor
                self.tracks[own.uuid] = (own.name or own.thread.thread_name or own.process.process_name, own)
            if packet.trace_packet_defaults.timestamp_clock_id:
                clocks = {each.clock_id: each for each in packet.clock_snapshot.clocks}
                assert clocks[packet.trace_packet_defaults.timestamp_clock_id].is_incremental
                now[sequence] = clocks[6].timestamp
            for each in packet.interned_data.event_names:
                names[sequence, each.iid] = each.name
            for each in packet.interned_data.debug_annotation_names:
                notes[sequence, each.iid] = each.name
            if packet.HasField("track_event"):
                event = packet.track_event
                if sequence in now:
                    assert packet.sequence_flags == 2
                    now[sequence] += packet.timestamp
                values = {
                    each.name or notes[sequence, each.name_iid]: getattr(each, each.WhichOneof("value"))
                    for each in event.debug_annotations
                }
                name = names[sequence, event.name_iid] if event.name_iid else event.name
                yield now.get(sequence, packet.timestamp), index, event, name, values

    def on(self, track):
        return [each for each in self.slices if each.track == track]

    def arrows(self):
        return [[each.name for each in flow] for flow in self.flows.values()]


def exported(kept, path):
    done = traceloop("export", kept, "--format", "perfetto", "-o", path)
    assert done.returncode == 0, done.stderr
    return Trace(path.read_bytes())


@pytest.fixture(scope="module")
def trace(kept, tmp_path_factory):
    return exported(kept, tmp_path_factory.mktemp("perfetto") / "out")


def test_a_track_for_the_loop_each_task_and_each_worker(trace):
    runs = trace.on("MainThread")
    assert all(one.end <= other.start for one, other in pairwise(runs))
    tasks = [each for each in trace.on("__main__.child") if each.name != "step"]
    assert sorted(each.name for each in tasks) == [f"child-{n}" for n in range(4)]
    assert all(each.notes["outcome"] == "result" and each.notes["made by"] == "__main__.main" for each in tasks)
    # They were there at the same time: each has a row of its own.
    rows = [own.uuid for name, own in trace.tracks.values() if name == "__main__.child"]
    assert len(rows) == 4
    steps = [each for each in trace.on("__main__.child") if each.name == "step"]
    same = [each for each in runs if each.name == "__main__.child"]
    assert [(each.start, each.end) for each in steps] == [(each.start, each.end) for each in same]
    workers = [name for name, own in trace.tracks.values() if own.HasField("thread") and name.startswith("asyncio_")]
    assert workers and sum(len(trace.on(name)) for name in workers) == 4


def test_arrows_from_the_run_that_scheduled_and_through_the_worker(trace):
    arrows = trace.arrows()
    assert arrows.count(["__main__.main", "__main__.child"]) == 4
    through = [names for names in arrows if len(names) == 3]
    assert len(through) == 4
    assert {(first, second.rpartition(".")[2]) for first, second, _ in through} == {("__main__.child", "offloaded")}
    assert all(third.endswith("Offload.deliver") for *_, third in through)
    for flow in trace.flows.values():
        assert [each.start for each in flow] == sorted(each.start for each in flow)


def test_counters_and_what_was_slow(trace):
    assert max(value for _, value in trace.counters["tasks of MainThread"]) >= 5
    assert trace.counters["tasks of MainThread"][-1][1] <= 1
    assert max(value for _, value in trace.counters["ready queue of MainThread"]) >= 4
    assert trace.counters["allocated blocks"][0][1] > 1000
    # Three that are set for later, and that of the sleep beside them.
    assert trace.counters["timers of MainThread"][-1][1] in (3, 4)
    found = trace.on("slow callbacks of MainThread")  # on a busy machine others may be slow, too
    (slow,) = [each for each in found if each.notes["callback"] == "__main__.slow_one"]
    assert slow.name.startswith("__main__.spin (")
    assert "in __main__.spin" in slow.notes["stack 1"]
    (run,) = [each for each in trace.on("MainThread") if each.start == slow.start]
    assert (run.name, run.end) == ("__main__.slow_one", slow.end)
    assert any(each.name == "generation 2" for each in trace.on("garbage collector"))


def test_names_that_mean_harm_and_arrows_over_many_records(tmp_path):
    """A timer whose setter was written thousands of runs ago; a name that is as long as it may be."""
    text = """
async def spins():
    for _ in range(20_000):
        await asyncio.sleep(0)
def late():
    pass
late.__qualname__ = "x" * 5000 + "\\x1b[2J"
late.__code__ = late.__code__.replace(co_qualname=late.__qualname__)
async def main():
    loop = asyncio.get_running_loop()
    loop.call_later(0.05, late)
    await spins()
    await asyncio.sleep(0.1)
run(main())
"""
    trace = exported(record(tmp_path, text), tmp_path / "out")
    (late,) = [each for each in trace.on("MainThread") if "xxx" in each.name]
    assert len(late.name) < 400 and late.name.isprintable()
    (arrow,) = [flow for flow in trace.flows.values() if flow[-1] is late]
    assert arrow[0].name == "__main__.main"
    assert len(trace.on("MainThread")) > 20_000
