"""Whatever is found, every face says the same: the run's last line, report, top, page, check, JSON and live lines."""

from __future__ import annotations

import json
import re

import pytest

from tests.helpers.made_statistics import Made
from tests.helpers.made_troubles import TROUBLES, with_trouble
from traceloop.exporters.html.page import write_page
from traceloop.exporters.json.report import report as json_report
from traceloop.exporters.text.live_view import LiveView
from traceloop.exporters.text.report import report, summary
from traceloop.exporters.text.tables import Style
from traceloop.reading.budgets import Budgets, judge
from traceloop.reading.findings.lasting import Lasting
from traceloop.reading.findings.model import NOTE
from traceloop.reading.findings.verdict import KINDS, verdict

WIDE = 2000
#: Those that last, of which a line is printed while the program runs.
LIVE = {"deadlock", "memory-leak", "task-leak", "timer-leak"}


def test_there_is_one_of_every_kind():
    assert set(TROUBLES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_face_says_the_same(kind, tmp_path):
    made = with_trouble(kind)
    statistics = made.statistics
    judged = verdict(statistics)
    assert [found.kind for found in judged.findings] == [kind]
    (found,) = judged.findings
    is_trouble = found.severity != NOTE

    line = summary(statistics)
    assert (f"; worst: {found.title} (" in line) == is_trouble
    assert ("; no trouble found (" in line) != is_trouble
    assert ("); 1 note" in line) != is_trouble

    text = report(statistics, width=WIDE)
    begin = text.splitlines()[2]
    assert begin.startswith("1 finding, the worst first" if is_trouble else "No trouble found: ")
    assert (f" 1  {found.title}\n" if is_trouble else f"note: {found.title}: ") in text
    assert found.remedy in text
    if is_trouble:
        assert f"More: traceloop explain {kind}\n" in text
        assert all(each in text for each in found.evidence[:2])
        assert all(each in report(statistics, width=WIDE, full=True) for each in found.evidence)

    view = "\n".join(LiveView(statistics).lines(Style(False, WIDE)))
    assert (f"worst so far: {found.title} (" in view) == is_trouble

    (data,) = json_report(statistics)["verdict"]["findings"]
    assert (data["kind"], data["detail"], data["severity"]) == (kind, found.detail, found.severity)
    assert (data["title"], data["remedy"]) == (found.title, found.remedy)
    assert json_report(statistics)["verdict"]["healthy"] != is_trouble

    write_page(str(tmp_path / "page.html"), statistics)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    inside = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert [each["title"] for each in json.loads(inside[1])["verdict"]["findings"]] == [found.title]

    (budget,) = judge(statistics, Budgets(findings=True))
    counts = is_trouble and not found.is_the_machines
    assert [each.name for each in budget.offenders] == ([found.title] if counts else [])
    assert budget.pardoned == (f"{found.title}: {found.harm}" if found.is_the_machines and is_trouble else "")

    said = Lasting().lines(judged, 0.0)
    assert [each.startswith(f"{kind}: {found.title}; ") for each in said] == ([True] if kind in LIVE else [])


def test_nothing_is_found_everywhere():
    made = Made()
    made.ran("app.prices.load", 1000, 0.9)
    basis = verdict(made.statistics).basis
    assert f"; no trouble found ({basis})" in summary(made.statistics)
    assert report(made.statistics, width=WIDE).splitlines()[2] == f"No trouble found: {basis}."
    assert "worst so far" not in "\n".join(LiveView(made.statistics).lines(Style(False, WIDE)))
    assert json_report(made.statistics)["verdict"]["healthy"]
    (budget,) = judge(made.statistics, Budgets(findings=True))
    assert budget.kept
