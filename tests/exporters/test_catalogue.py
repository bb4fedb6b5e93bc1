"""The catalogue is what docs/telemetry.md says."""

from __future__ import annotations

import re

import pytest

from tests.helpers.paths import ROOT
from traceloop.exporters.catalogue import BY_NAME, CATALOGUE

DOCUMENT = ROOT / "docs" / "telemetry.md"


def documented():
    """Name -> (types, labels) of the document's table."""
    found = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and re.match(r"`?[a-z]+_[a-z_]+", cells[0]) and cells[0] != "name":
            for name in re.findall(r"[a-z]+_[a-z_]+", cells[0]):
                found[name] = (cells[1], cells[2])
    return found


def test_every_documented_metric_is_in_the_catalogue():
    assert set(documented()) - set(BY_NAME) == set()


def test_every_metric_of_the_catalogue_is_documented():
    assert set(BY_NAME) - set(documented()) == set()


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_types_and_labels_are_the_documents(metric):
    types, labels = documented()[metric.name]
    if not types.startswith("as prometheus"):
        assert metric.type in types
    for label in metric.labels:
        if label not in ("process", "loop"):
            assert re.search(rf"\b{label}\b", labels), label


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_names_are_made_by_the_rules(metric):
    assert metric.name.endswith("_total") == (metric.type == "counter")
    if metric.unit:
        assert metric.name.removesuffix("_total").endswith("_" + metric.unit)
    assert not re.search("milli|_ms(_|$)|micro", metric.name)
    assert metric.help.endswith(".") and "\n" not in metric.help
    assert len(set(metric.labels)) == len(metric.labels)
