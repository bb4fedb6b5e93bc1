"""The dashboards by the rules of grafana/dashboard-linter, put into our own words, and by some of our own."""

import json
import re
from pathlib import Path

import pytest

from tests.helpers.dashboard_files import DASHBOARDS, dashboards, panels, queries, selectors_of
from traceloop.dashboards.source.__main__ import render

BOARDS = dashboards()
PANELS = [pytest.param(board, panel, id=f"{name}: {panel['title']}") for name, board in BOARDS.items()
          for panel in panels(board)]  # fmt: skip
QUERIES = [pytest.param(query, id=where) for board in BOARDS.values() for where, query in queries(board)]

# Of the units that Grafana knows (its value formats), those that make sense here.
UNITS = {"string", "none", "short", "percentunit", "percent", "s", "bytes", "Bps", "ops", "cps", "cpm", "reqps"}


def test_the_committed_files_are_what_the_source_makes():
    committed = {path.name: path.read_text() for path in (DASHBOARDS / "grafana").glob("*.json")}
    assert committed == render(), "run: python -m traceloop.dashboards.source"


def test_titles_and_identities_are_unique():
    assert {board["title"] for board in BOARDS.values()} == {
        "Event loop overview",
        "Slow callbacks",
        "Executors and heaps",
        "traceloop itself",
    }
    assert len({board["uid"] for board in BOARDS.values()}) == 4
    for board in BOARDS.values():
        numbers = [panel["id"] for panel in board["panels"]]
        assert len(set(numbers)) == len(numbers)
        titles = [panel["title"] for panel in panels(board)]
        assert len(set(titles)) == len(titles), board["title"]


@pytest.mark.parametrize("name", BOARDS)
def test_grafanas_own_schema_knows_every_key(name):
    sdk = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="grafana-foundation-sdk==0.0.21")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    ours = BOARDS[name]
    again = json.loads(JSONEncoder(sort_keys=True).encode(sdk.Dashboard.from_json(ours)))
    assert list(_lost(ours, again)) == []


def _lost(ours, theirs, path=""):
    # What the schema fills in by itself is not of interest, what it does not take over is.
    if isinstance(ours, dict):
        for key, value in ours.items():
            if key in _OLDER_THAN_THE_SCHEMA:
                continue
            if not isinstance(theirs, dict) or key not in theirs:
                if value not in (None, [], {}, "", False):
                    yield f"{path}.{key}"
            else:
                yield from _lost(value, theirs[key], f"{path}.{key}")
    elif isinstance(ours, list):
        if not isinstance(theirs, list) or len(theirs) != len(ours):
            yield path
        else:
            for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                yield from _lost(a, b, f"{path}[{index}]")
    elif ours != theirs and not (isinstance(ours, float | int) and ours == theirs):
        yield f"{path}: {ours!r} became {theirs!r}"


# Grafana reads these, its published schema has no place for them.
_OLDER_THAN_THE_SCHEMA = {"titleFormat", "textFormat", "tagKeys", "step", "useValueForTime", "refresh_intervals"}


@pytest.mark.parametrize("name", BOARDS)
class TestTemplates:
    def test_data_source(self, name):
        first = BOARDS[name]["templating"]["list"][0]
        assert (first["type"], first["name"], first["label"], first["query"]) == (
            "datasource", "datasource", "Data source", "prometheus",
        )  # fmt: skip

    def test_variables(self, name):
        rest = BOARDS[name]["templating"]["list"][1:]
        assert [variable["name"] for variable in rest] == ["job", "instance", "process", "loop"]
        for variable in rest:
            assert variable["type"] == "query"
            assert variable["label"] == variable["name"].title()
            assert variable["datasource"]["uid"] == "${datasource}"
            assert variable["multi"] and variable["includeAll"] and variable["allValue"] == ".+"
            assert variable["refresh"] == 2, "when the time range changes"
            assert re.fullmatch(r"label_values\(\w+(\{.*\})?, \w+\)", variable["query"]["query"])

    def test_each_variable_is_narrowed_by_those_before_it(self, name):
        earlier = []
        for variable in BOARDS[name]["templating"]["list"][1:]:
            for other in earlier:
                assert f'{other}=~"${other}"' in variable["query"]["query"]
            earlier.append(variable["name"])

    def test_can_not_be_edited_where_it_would_be_lost(self, name):
        assert BOARDS[name]["editable"] is False

    def test_annotations_mark_stalls_and_restarts(self, name):
        assert {"Slow callbacks", "Loop blocked", "Restarts"} == {
            annotation["name"] for annotation in BOARDS[name]["annotations"]["list"]
        }


@pytest.mark.parametrize("board, panel", PANELS)
class TestPanels:
    def test_title_and_description_that_helps(self, board, panel):
        assert panel["title"]
        # One sentence says what it is, and at least one more what to do.
        assert len(re.findall(r"[.:](?:\s|$)", panel["description"])) >= 2, panel["description"]

    def test_data_source_is_the_variable(self, board, panel):
        for holder in (panel, *panel["targets"]):
            assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}

    def test_has_queries(self, board, panel):
        assert panel["targets"] and all(target["expr"] for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])

    def test_unit(self, board, panel):
        if panel["type"] == "heatmap":
            assert panel["options"]["yAxis"]["unit"] in UNITS
            return
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        for override in panel["fieldConfig"]["overrides"]:
            for item in override["properties"]:
                assert item["id"] != "unit" or item["value"] in UNITS

    def test_legends_name_labels_that_are_left(self, board, panel):
        for target in panel["targets"]:
            grouped = re.match(r"\d* ?\*? ?(?:histogram_quantile\([\d.]+, )?sum by \(([^)]*)\)", target["expr"])
            if grouped:
                labels = set(re.findall(r"\w+", grouped.group(1)))
                assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels

    def test_fits_the_grid(self, board, panel):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        # Narrower than a sixth of a laptop's screen, numbers and legends are cut off.
        assert place["w"] >= 4

    def test_quantiles_lead_to_traces(self, board, panel):
        asked = [target for target in panel["targets"] if "0.99, sum" in target["expr"]]
        if any("callback_duration" in target["expr"] or "_delay_" in target["expr"] for target in asked):
            assert panel["type"] == "stat" or panel["title"] == "Iterations" or any(t["exemplar"] for t in asked)


@pytest.mark.parametrize("query", QUERIES)
class TestQueries:
    def test_job_and_instance_matchers(self, query):
        for name, matchers in selectors_of(query):
            assert 'job=~"$job"' in matchers and 'instance=~"$instance"' in matchers, name

    def test_rates_use_the_rate_interval(self, query):
        for function, window in re.findall(r"(\w+)\([^()\[]*\[([^\]]*)\]", query):
            # Sums over the whole range are what the tables are for.
            allowed = {"$__rate_interval"} if function in ("rate", "irate") else {"$__rate_interval", "$__range"}
            assert window in allowed

    def test_counters_are_rated(self, query):
        # Left alone where it is asked whether the series exists at all, or for a mean since the start.
        rest = re.sub(r"\(\(\w+\{[^}]*\} unless \w+\{[^}]*\} offset \$\w+\) or ", "(", query)
        rest = re.sub(r"0 \* sum\(\w+\{[^}]*\}\)|group\(\w+\{[^}]*\}\)|count by \([^)]*\) \(\w+\{[^}]*\}\)", "", rest)
        if re.search(r"_time_seconds_total\{[^}]*\}\) / sum", rest):
            return
        for match in re.finditer(r"(\w+)\((\w+_total)\{[^}]*\}(\[)?", rest):
            assert match.group(3) and match.group(1) in ("rate", "irate", "increase"), query
        assert not re.search(r"(?<![\w(])\w+_total\{[^}]*\}(?!\[)", rest), query

    def test_quantiles_are_of_rates_and_keep_le(self, query):
        for inner in re.findall(r"histogram_quantile\([^,]*, (.*)", query):
            assert re.match(r"sum by \([^)]*\ble\) \(rate\(\w+_bucket\{", inner)


def test_overlaps_nowhere():
    for board in BOARDS.values():
        taken = {}
        for panel in board["panels"]:
            place = panel["gridPos"]
            for x in range(place["x"], place["x"] + place["w"]):
                for y in range(place["y"], place["y"] + place["h"]):
                    assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                    taken[x, y] = panel["title"]


def test_every_file_is_small_enough_to_read_in_a_review():
    for path in Path(DASHBOARDS / "grafana").glob("*.json"):
        assert path.stat().st_size < 100_000, path.name
