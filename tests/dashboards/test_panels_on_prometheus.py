"""Every panel, asked of a real Prometheus that holds an hour of every metric: none is empty, and numbers are right."""

import re

import pytest

from tests.helpers.dashboard_files import PROMETHEUS_OWN, dashboards, interpolate, panels
from tests.helpers.needed_programs import need
from tests.helpers.prometheus_server import prometheus
from traceloop.exporters.catalogue import CATALOGUE

from .synthetic_service import hour

# Any moment, on a whole step.
END = 1_760_000_400
VALUES = {"$__rate_interval": "1m", "$__range": "1h", "$job": ".+", "$instance": ".+", "$process": ".+", "$loop": ".+"}
PANELS = [pytest.param(panel, id=f"{name}: {panel['title']}") for name, board in dashboards().items()
          for panel in panels(board)]  # fmt: skip
ANNOTATIONS = {a["name"]: a["expr"] for board in dashboards().values() for a in board["annotations"]["list"]}


@pytest.fixture(scope="module")
def text():
    return hour(END)


@pytest.fixture(scope="module")
def server(tmp_path_factory, promtool, text):
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "hour.txt").write_text(text)
    done = promtool("tsdb", "create-blocks-from", "openmetrics", folder / "hour.txt", folder / "data")
    assert done.returncode == 0, done.stdout
    with prometheus(need("prometheus"), folder) as server:
        yield server


@pytest.mark.parametrize("panel", PANELS)
def test_no_query_of_a_panel_is_empty(server, panel):
    for target in panel["targets"]:
        query = interpolate(target["expr"], VALUES)
        if target["instant"]:
            answer = server.query(query, END)
            numbers = [float(one["value"][1]) for one in answer]
        else:
            answer = server.query_range(query, END - 3600, END, 60)
            numbers = [float(value) for one in answer for _, value in one["values"]]
        assert numbers, query
        assert any(number == number for number in numbers), "nothing but NaN"
        if "{{" in target["legendFormat"]:
            names = {tuple(sorted(one["metric"].items())) for one in answer}
            assert len(names) == len(answer)


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_annotations_mark_something(server, name):
    assert server.query_range(interpolate(ANNOTATIONS[name], VALUES), END - 3600, END, 15)


@pytest.mark.parametrize("variable", ["job", "instance", "process", "loop"])
def test_variables_have_values(server, variable):
    for board in dashboards().values():
        (query,) = [v["query"]["query"] for v in board["templating"]["list"] if v["name"] == variable]
        selector, _, label = query.removeprefix("label_values(").removesuffix(")").rpartition(", ")
        answer = server.query(f"group by ({label}) ({interpolate(selector, VALUES)})", END)
        assert answer and all(one["metric"][label] for one in answer)


def panel(board, title):
    (found,) = [panel for panel in panels(dashboards()[board]) if panel["title"] == title]
    return found


def test_who_blocks_counts_the_first_slow_callback_of_a_culprit(server):
    # All three culprits were born within the hour; the table's counts are the counters' own values.
    queries = [interpolate(target["expr"], VALUES) for target in panel("slow-callbacks", "Who blocks")["targets"]]
    counts = {one["metric"]["culprit"]: float(one["value"][1]) for one in server.query(queries[2], END)}
    now = server.query("sum by (culprit) (asyncio_slow_callbacks_total)", END)
    kept = {one["metric"]["culprit"]: float(one["value"][1]) for one in now}
    assert counts["shop.prices.load"] == kept["shop.prices.load"] > 20
    assert set(counts) >= set(kept)


def test_a_slow_start_is_counted_as_such_and_is_not_among_the_longest(server):
    startup = interpolate(panel("slow-callbacks", "Who blocks")["targets"][4]["expr"], VALUES)
    counts = {one["metric"]["culprit"]: float(one["value"][1]) for one in server.query(startup, END)}
    assert {culprit: count for culprit, count in counts.items() if count} == {"shop.db.connect": 1}
    (longest,) = panel("slow-callbacks", "Longest slow callback, by culprit")["targets"]
    answer = server.query_range(interpolate(longest["expr"], VALUES), END - 3600, END, 60)
    assert {one["metric"]["culprit"] for one in answer} == {"shop.prices.load", "shop.pdf.render", "shop.cache.sweep"}


def test_the_hour_has_the_labels_of_the_catalogue(text):
    labels = {metric.name: {*metric.labels, "job", "instance"} for metric in CATALOGUE}
    labels |= {name: {"job", "instance"} for name in PROMETHEUS_OWN}
    for series in {line.rpartition("}")[0] for line in text.splitlines() if not line.startswith("#")}:
        name, _, rest = series.partition("{")
        metric = name if name in labels else re.sub("_(bucket|count|sum)$", "", name)
        assert set(re.findall(r'(\w+)="', rest)) - {"le"} == labels[metric], name


def test_slow_callbacks_are_none_rather_than_no_data_where_nothing_was_slow(server):
    for stat in ("Slow callbacks", "Loop time lost to them", "Waiting they caused"):
        (target,) = panel("slow-callbacks", stat)["targets"]
        query = interpolate(target["expr"], VALUES | {"$__range": "1m"})
        (answer,) = server.query(query, END - 3500)
        assert float(answer["value"][1]) == 0


def test_utilization_is_between_0_and_1(server):
    (target,) = panel("event-loop-overview", "Utilization by loop")["targets"]
    answer = server.query_range(interpolate(target["expr"], VALUES), END - 3600, END, 60)
    assert len(answer) == 2
    assert all(0 < float(value) < 1 for one in answer for _, value in one["values"])


def test_the_restart_is_counted_once(server):
    (target,) = panel("event-loop-overview", "Restarts in the range")["targets"]
    ((_, count),) = [one["value"] for one in server.query(interpolate(target["expr"], VALUES), END)]
    assert float(count) == 1
