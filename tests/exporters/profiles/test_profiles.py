"""The profile's export formats, read back by their published definitions.

``speedscope_schema.json`` is the schema in the npm package speedscope 1.25.0 (MIT), ``pprof_profile.desc`` the
descriptor of github.com/google/pprof's profile.proto (Apache 2.0), compiled by protoc.
"""

import gzip
import importlib
import io
import json
from pathlib import Path

import fastjsonschema
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from opentelemetry.proto.profiles.v1development import profiles_pb2

from traceloop.exporters.timelines.model import NothingToWriteError, Source
from traceloop.reading.decoding.decoded import Decoded, StackNode, StackSample
from traceloop.reading.site_names import SiteNames
from traceloop.reading.statistics.run import Statistics
from traceloop.record.sites import UNKNOWN_SITE, Site

HERE = Path(__file__).parent
SITES = [
    UNKNOWN_SITE,
    Site("app", "handler", "/srv/app.py", 3),
    Site("app", "handler", "/srv/app.py", 9),
    Site("app", "a;b\n<script>", "/srv/a;b.py", 31),
    Site("json", "\udcffloads", "/usr/lib/python3.13/json/__init__.py", 5),
]
NODES = [StackNode(1, 0, 2, True), StackNode(2, 1, 3, False), StackNode(3, 2, 4, False)]
SAMPLES = [
    StackSample(5.0, 0.25, 1.0, 3, 0),
    StackSample(5.5, 0.5, 1.0, 3, 0),
    StackSample(6.0, 0.01, 1.0, 1, 0),
    StackSample(6.0, 4.0, 0.0, 2, -1),
]


def exported(form, *, profiles=2):
    statistics = Statistics()
    for pid in (11, 12):
        process = statistics.attach(pid, SiteNames(SITES), {})
        if pid - 10 <= profiles:
            decoded = Decoded(None)
            decoded.nodes, decoded.samples, decoded.profile_rate = list(NODES), list(SAMPLES), 100.0
            process.feed(decoded, None)
    out = io.BytesIO()
    writer = importlib.import_module(f"traceloop.exporters.profiles.{form}").make(out, Source(statistics, "app.py"))
    writer.finish()
    return out.getvalue(), writer.notices


def test_collapsed():
    data, notices = exported("collapsed", profiles=1)
    stacks = dict(line.rsplit(" ", 1) for line in data.decode().splitlines())
    assert len(stacks) == 3
    assert all(len(stack.split(";")) in (2, 3, 4) for stack in stacks)
    (deepest,) = [stack for stack in stacks if len(stack.split(";")) == 4]
    assert deepest.startswith("app.handler;app.handler (awaits) (app.py:9);app.a,b")
    assert stacks[deepest] == "750000"
    assert notices == ("4 samples of 4.8 s",)


def test_speedscope_by_its_schema():
    document = json.loads(exported("speedscope")[0])
    fastjsonschema.compile(json.loads((HERE / "speedscope_schema.json").read_text()))(document)
    names = [each["name"] for each in document["profiles"]]
    title = "process 0 (pid 11)"
    assert names[:2] == [title, f"{title}, worker threads"]
    assert len(names) == 4
    first = document["profiles"][0]
    assert first["endValue"] == pytest.approx(0.76)
    heaviest = first["samples"][first["weights"].index(0.75)]
    frames = [document["shared"]["frames"][number] for number in heaviest]
    assert [frame.get("line") for frame in frames] == [None, 9, 31, 5]
    assert frames[1]["file"] == "/srv/app.py"


def pprof(data):
    files = descriptor_pb2.FileDescriptorSet.FromString((HERE / "pprof_profile.desc").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for each in files.file:
        pool.Add(each)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("perftools.profiles.Profile"))
    return made.FromString(gzip.decompress(data))


def test_pprof_by_its_published_definition():
    profile = pprof(exported("pprof")[0])
    text = profile.string_table
    assert text[0] == ""
    assert [(text[each.type], text[each.unit]) for each in profile.sample_type] == [
        ("samples", "count"),
        ("wall", "nanoseconds"),
    ]
    assert profile.period == 10_000_000
    assert profile.duration_nanos == 1_000_000_000
    locations = {each.id: each for each in profile.location}
    functions = {each.id: each for each in profile.function}
    assert 0 not in locations and 0 not in functions
    assert len(profile.sample) == 6
    (heaviest,) = [each for each in profile.sample[:3] if each.value[1] == 750_000_000]
    assert heaviest.value[0] == 2
    lines = [locations[number].line[0] for number in heaviest.location_id]
    assert [line.line for line in lines] == [5, 31, 9, 0]  # the innermost one first
    assert text[functions[lines[2].function_id].filename] == "/srv/app.py"
    labels = {text[label.key]: text[label.str] for label in heaviest.label}
    assert labels == {"process": "process 0 (pid 11)", "thread": "loop"}


def test_opentelemetrys_profiles_by_their_published_definition():
    data, _ = exported("otlp")
    got = profiles_pb2.ProfilesData.FromString(data)
    tables = got.dictionary
    text = tables.string_table
    # The entry 0 of every table is empty: an index that is not set means none.
    assert text[0] == "" and len(got.resource_profiles) == 2
    for table in ("mapping", "location", "function", "link", "attribute", "stack"):
        first = getattr(tables, f"{table}_table")[0]
        assert first.ByteSize() == 0, table
    for pid, resource in zip((11, 12), got.resource_profiles, strict=True):
        attributes = {each.key: each.value for each in resource.resource.attributes}
        assert attributes["process.pid"].int_value == pid and attributes["service.name"].string_value
        (scope,) = resource.scope_profiles
        assert scope.scope.name == "traceloop"
        (profile,) = scope.profiles
        assert (text[profile.sample_type.type_strindex], text[profile.sample_type.unit_strindex]) == (
            "wall", "nanoseconds",
        )  # fmt: skip
        assert (profile.period, profile.duration_nano, len(profile.profile_id)) == (10_000_000, 1_000_000_000, 16)
        assert profile.period_type == profile.sample_type and profile.time_unix_nano == 5 * 10**9
        assert len(profile.samples) == 3
        (heaviest,) = [each for each in profile.samples if list(each.values) == [750_000_000]]
        stack = tables.stack_table[heaviest.stack_index]
        lines = [tables.location_table[index].lines[0] for index in stack.location_indices]
        assert [line.line for line in lines] == [5, 31, 9, 0]  # the innermost one first
        function = tables.function_table[lines[2].function_index]
        assert (text[function.name_strindex], text[function.filename_strindex]) == (
            "app.handler (awaits)", "/srv/app.py",
        )  # fmt: skip
        (attribute,) = [tables.attribute_table[index] for index in heaviest.attribute_indices]
        assert (text[attribute.key_strindex], attribute.value.string_value) == ("asyncio.profile.thread", "loop")
        threads = [
            tables.attribute_table[each.attribute_indices[0]].value.string_value for each in profile.samples
        ]
        assert sorted(threads) == ["loop", "loop", "worker"]


@pytest.mark.parametrize("form", ["collapsed", "speedscope", "pprof", "otlp"])
def test_a_record_without_a_profile_says_so(form):
    with pytest.raises(NothingToWriteError, match="--profile"):
        exported(form, profiles=0)
