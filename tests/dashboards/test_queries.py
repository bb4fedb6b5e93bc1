"""Every query of panels, annotations, rules and alert texts: parsed by promtool, and asking for metrics that exist."""

import json
import re

import pytest

from tests.helpers.dashboard_files import (
    PROMETHEUS_OWN,
    annotation_queries,
    catalogue,
    dashboards,
    interpolate,
    metrics_of,
    queries,
    rules,
    selectors_of,
    series_names,
)
from traceloop.exporters.catalogue import CATALOGUE

PANEL_QUERIES = [(where, interpolate(query)) for board in dashboards().values() for where, query in queries(board)]
RULE_QUERIES = [
    (rule.get("alert") or rule["record"], query)
    for rule in rules()
    for query in (rule["expr"], *annotation_queries(rule))
]
LABELS = {metric.name: metric.labels for metric in CATALOGUE}
ALL = [pytest.param(query, id=where) for where, query in PANEL_QUERIES + RULE_QUERIES]


def test_promtool_parses_them(promtool, tmp_path):
    # promtool parses a lone query only with a server's help, but any number of them as rules. JSON is YAML.
    for index, (where, query) in enumerate(PANEL_QUERIES + RULE_QUERIES):
        tmp_path.joinpath(f"{index}.yml").write_text(
            json.dumps({"groups": [{"name": where, "rules": [{"record": f"query_{index}", "expr": query}]}]})
        )
    done = promtool("check", "rules", *sorted(tmp_path.iterdir()))
    assert done.returncode == 0, done.stdout


def test_a_wrong_query_would_be_seen(promtool, tmp_path):
    path = tmp_path / "wrong.yml"
    path.write_text(
        json.dumps({"groups": [{"name": "g", "rules": [{"record": "r", "expr": "sum by (job rate(x[1m])"}]}]})
    )
    assert promtool("check", "rules", path).returncode != 0


@pytest.mark.parametrize("query", ALL)
def test_metrics_are_in_the_catalogue(query):
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    names = metrics_of(query)
    assert names
    assert names <= series_names() | recorded | PROMETHEUS_OWN


def test_every_metric_of_the_catalogue_is_shown_somewhere():
    shown = {name for _, query in PANEL_QUERIES for name in metrics_of(query)}
    for name, kind in catalogue().items():
        parts = {name + part for part in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
        assert parts & shown, f"{name} is on no panel"


def test_the_exporters_catalogue_agrees_with_the_documentation():
    assert {metric.name for metric in CATALOGUE} == set(catalogue())


@pytest.mark.parametrize("query", ALL)
def test_labels_that_are_asked_for_are_those_of_the_metric(query):
    # A matcher on a label that a metric does not have selects nothing at all.
    for name, matchers in selectors_of(query):
        metric = LABELS.get(re.sub("_(bucket|count|sum)$", "", name), LABELS.get(name))
        if metric is not None:
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
            assert asked <= {*metric, "job", "instance", "le"}, name
