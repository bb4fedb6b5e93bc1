"""The rules by promtool, and by what a person who is paged needs."""

import re
import subprocess

import pytest
import yaml

from tests.helpers.dashboard_files import (
    DASHBOARDS,
    ROOT,
    RULES,
    alerts,
    annotation_queries,
    load,
    rule_groups,
    rules,
)
from tests.helpers.needed_programs import need

TESTS = DASHBOARDS / "prometheus" / "tests"
RUNBOOKS = "https://traceloop-eventloop.readthedocs.io/en/latest/runbooks/"
ALERTS = alerts()


def test_what_there_is_to_be_alerted_of():
    assert set(ALERTS) == {
        "AsyncioSlowCallback",
        "AsyncioLoopBlocked",
        "AsyncioLongCallback",
        "AsyncioSlowStartup",
        "AsyncioScheduleDelayHigh",
        "AsyncioLoopSaturated",
        "AsyncioCallbackBudgetBurningFast",
        "AsyncioCallbackBudgetBurningSlow",
        "AsyncioExecutorSaturated",
        "AsyncioTimerHeapGrowing",
        "AsyncioMemoryGrowing",
        "AsyncioTaskLeak",
        "TraceloopRecordsDropped",
        "TraceloopSpansDropped",
        "TraceloopTargetDown",
    }


@pytest.mark.parametrize("path", sorted(RULES.glob("*.yml")), ids=lambda path: path.name)
def test_promtool_checks(promtool, path):
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted(TESTS.glob("*.yml")), ids=lambda path: path.name)
def test_promtool_tests(promtool, path):
    done = promtool("test", "rules", path.name, cwd=TESTS)
    assert done.returncode == 0, done.stdout


def _cases():
    """(alert, expected alerts) of every promtool case."""
    for path in TESTS.glob("*.yml"):
        for case in load(path)["tests"]:
            for check in case["alert_rule_test"]:
                yield case["name"], check["alertname"], check["exp_alerts"]


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_has_a_firing_and_a_silent_case(name):
    firing = [case for case, alert, expected in _cases() if alert == name and expected]
    silent = {case for case, alert, expected in _cases() if alert == name and not expected} - set(firing)
    assert firing, "no case in which it fires"
    assert silent, "no case in which it never fires"


@pytest.mark.parametrize("path", sorted(TESTS.glob("*.yml")), ids=lambda path: path.name)
def test_cases_name_every_group(path):
    # promtool evaluates groups in a random order unless told: such a test passes on most days.
    order = load(path)["group_eval_order"]
    assert set(order) == {group["name"] for group in rule_groups()}


@pytest.mark.parametrize("name", ALERTS)
class TestAlert:
    def test_says_for_how_long_and_how_bad(self, name):
        rule = ALERTS[name]
        assert "for" in rule
        assert rule["labels"]["severity"] in ("critical", "warning", "info")

    def test_texts(self, name):
        texts = ALERTS[name]["annotations"]
        assert set(texts) == {"summary", "description", "runbook_url"}
        assert "$labels.job" in texts["summary"]
        assert "$labels.instance" in texts["description"] or ".Labels.instance" in texts["description"]

    def test_runbook_is_there_and_knows_the_alert(self, name):
        url = ALERTS[name]["annotations"]["runbook_url"]
        assert url.startswith(RUNBOOKS) and url.endswith(".html")
        page = ROOT / "docs" / "runbooks" / (url.removeprefix(RUNBOOKS).removesuffix(".html") + ".md")
        text = page.read_text()
        assert name in text
        for heading in ("## What it means", "## What to look at", "## What to do"):
            assert heading in text, f"{page.name} lacks {heading}"

    def test_a_case_shows_the_text(self, name):
        for _, alert, expected in _cases():
            for one in expected if alert == name else ():
                description = one["exp_annotations"]["description"]
                assert "no value" not in description.lower() and "<" not in description
                if name.startswith("Asyncio"):
                    # Where in the application, and in which loop, executor or process of it.
                    assert "process 0" in description
        described = ALERTS[name]["annotations"]["description"]
        if name.startswith("Asyncio"):
            assert "allback" in described and "rocess" in described
        if name in ("AsyncioSlowCallback", "AsyncioLoopBlocked", "AsyncioScheduleDelayHigh", "AsyncioLoopSaturated"):
            assert "ulprit" in described and "loop" in described


def test_recorded_names_say_level_metric_and_operations():
    for rule in rules():
        if "record" in rule:
            assert re.fullmatch(r"[a-z_]+:[a-z0-9_]+:[a-z0-9_]+", rule["record"]), rule["record"]


def test_what_is_read_is_recorded_and_what_is_recorded_is_read_or_of_use():
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    read = {
        name
        for rule in rules()
        for text in (rule["expr"], *annotation_queries(rule))
        for name in re.findall(r"[a-z_]+:[a-z0-9_]+:[a-z0-9_]+", text)
    }
    assert read <= recorded
    # Worth keeping for long though no alert reads them.
    assert recorded - read == {
        "instance_process_loop:asyncio_callback_schedule_delay_seconds:p50_rate5m",
        "instance_process_loop:asyncio_callback_schedule_delay_seconds:p999_rate5m",
        "instance_process_executor:asyncio_executor_saturation:ratio",
    }


def test_every_threshold_is_explained_beside_the_alert_that_uses_it():
    text = (RULES / "traceloop-thresholds.rules.yml").read_text()
    for group in yaml.safe_load(text)["groups"]:
        for rule in group["rules"]:
            users = [name for name, alert in ALERTS.items() if rule["record"] in alert["expr"]]
            assert users, rule["record"]
            comment = text[: text.index(rule["record"])].rpartition("\n\n")[2]
            families = {name.removesuffix("Fast").removesuffix("Slow") for name in users}
            assert any(name in comment for name in families), rule["record"]


def test_alertmanagers_example_is_valid():
    path = DASHBOARDS / "alertmanager" / "alertmanager.yml"
    done = subprocess.run([need("amtool"), "check-config", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "labels, receiver",
    [
        ("alertname=AsyncioSlowCallback environment=staging severity=warning", "team"),
        ("alertname=AsyncioSlowCallback environment=production severity=warning", "silent"),
        ("alertname=AsyncioLoopBlocked environment=production severity=critical", "on-call"),
        ("alertname=AsyncioLoopBlocked severity=critical", "on-call"),
        ("alertname=AsyncioLoopBlocked environment=staging severity=critical", "team"),
        ("alertname=AsyncioLongCallback environment=production severity=warning", "team"),
        ("alertname=AsyncioSlowStartup environment=production severity=info", "silent"),
        ("alertname=AsyncioTaskLeak environment=production severity=warning", "team"),
        ("alertname=TraceloopSpansDropped environment=production severity=info", "silent"),
    ],
)
def test_who_is_told(labels, receiver):
    path = DASHBOARDS / "alertmanager" / "alertmanager.yml"
    command = [need("amtool"), "config", "routes", "test", f"--config.file={path}", *labels.split()]
    assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == receiver
