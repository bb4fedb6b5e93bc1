"""Every rule has its page; the table of thresholds is the rules' own; alerts and rules share their values."""

from __future__ import annotations

import re

import pytest

from tests.helpers.paths import ROOT
from traceloop.reading.findings import thresholds, verdict

PAGES = ROOT / "docs" / "findings"
RULES = ROOT / "dashboards" / "prometheus" / "rules" / "traceloop-thresholds.rules.yml"


def test_every_kind_has_its_page_and_every_page_its_kind():
    assert {path.stem for path in PAGES.glob("*.md")} - {"README"} == set(verdict.KINDS)
    index = (PAGES / "README.md").read_text()
    assert all(f"[{kind}]({kind}.md)" in index for kind in verdict.KINDS)


def test_the_documented_thresholds_are_those_in_force():
    rows = re.findall(r"^\| ([A-Z_0-9]+) \| (\S+) \|", (PAGES / "README.md").read_text(), re.MULTILINE)
    assert {name: float(value) for name, value in rows} == thresholds.table()


@pytest.mark.parametrize(
    ("series", "value"),
    [
        ("job:asyncio_eventloop_running_seconds:threshold", thresholds.BLOCKED_SECONDS),
        ("job:asyncio_callback_schedule_delay_seconds:p99_threshold", thresholds.DELAY_P99),
        ("job:asyncio_eventloop_utilization:ratio_threshold", thresholds.SATURATED_UTILIZATION),
        ("job:asyncio_tasks:growth_threshold", thresholds.LEAK_TASKS),
        ("job:traceloop_records_dropped:ratio_threshold", thresholds.DROPPED_SHARE),
    ],
)
def test_alerts_and_rules_share_their_thresholds(series, value):
    found = re.search(rf"record: {re.escape(series)}\n\s+expr: (\S+) \+ 0", RULES.read_text())
    assert found is not None and float(found[1]) == value


def test_runbooks_and_findings_link_to_each_other():
    for page in PAGES.glob("*.md"):
        for folder, name in re.findall(r"\]\(\.\./(\w+)/([\w-]+\.md)\)", page.read_text()):
            assert (ROOT / "docs" / folder / name).exists(), page.name
