"""What is exported for Kubernetes and Grafana's own alerting, checked with published schemas and the rules' tests."""

import json
import shutil
import subprocess
from functools import cache

import fastjsonschema
import pytest
import yaml
from click.testing import CliRunner

from tests.helpers.dashboard_files import DASHBOARDS, RULES, alerts, load, rule_groups
from tests.helpers.paths import ROOT
from traceloop.cli.dashboards import command
from traceloop.dashboards import export
from traceloop.dashboards.source import grafana_alerts

SCHEMAS = ROOT / "tests" / "data" / "kubernetes"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
GRAFANA = DASHBOARDS / "grafana_alerting" / "traceloop.yml"


@cache
def schema(kind):
    """A function that raises for what the API server would refuse of an object of this kind."""
    return fastjsonschema.compile(json.loads((SCHEMAS / f"{kind}.json").read_text()))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    done = CliRunner().invoke(command, ["export", str(folder), "--kubernetes"])
    assert done.exit_code == 0, done.output
    return folder / "kubernetes"


@pytest.fixture(scope="module")
def objects(exported):
    found = [yaml.load(path.read_text(), LOADER) for path in sorted(exported.glob("*.yaml"))]
    return [one for one in found if one["kind"] != "Kustomization"]


def test_each_object_is_as_the_api_server_wants_it(objects):
    assert [one["kind"] for one in objects] == ["ConfigMap"] * 4 + ["PodMonitor"] + ["PrometheusRule"] * 3
    for one in objects:
        schema(one["kind"])(one)
    assert len({(one["kind"], one["metadata"]["name"]) for one in objects}) == len(objects)


@pytest.mark.parametrize(
    "kind, spoil",
    [
        ("PrometheusRule", lambda spec: spec["groups"][0].update(intervall="15s")),
        ("PrometheusRule", lambda spec: spec["groups"][0].update(interval="soon")),
        ("PodMonitor", lambda spec: spec["podMetricsEndpoints"][0].update(port=9464)),
    ],
)
def test_a_wrong_object_would_be_seen(objects, kind, spoil):
    wrong = json.loads(json.dumps(next(one for one in objects if one["kind"] == kind)))
    spoil(wrong["spec"])
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        schema(kind)(wrong)


def test_the_rules_are_those_of_prometheus(objects):
    groups = [group for one in objects if one["kind"] == "PrometheusRule" for group in one["spec"]["groups"]]
    assert groups == list(rule_groups())


def test_the_dashboards_are_those_of_grafana_with_the_label_of_its_sidecar(objects):
    for one in objects:
        if one["kind"] == "ConfigMap":
            assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
            ((name, text),) = one["data"].items()
            assert text == (DASHBOARDS / "grafana" / name).read_text()


def test_kustomize_takes_them_all(exported):
    made = yaml.load((exported / "kustomization.yaml").read_text(), LOADER)
    assert set(made["resources"]) == {path.name for path in exported.glob("*.yaml")} - {"kustomization.yaml"}
    if kubectl := shutil.which("kubectl"):
        done = subprocess.run([kubectl, "kustomize", exported], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len(list(yaml.load_all(done.stdout, LOADER))) == len(made["resources"])


def test_runbooks_of_ones_own(tmp_path):
    export(tmp_path, kubernetes=True, grafana_alerts=True, runbooks="https://wiki.example/{page}")
    for path in (
        tmp_path / "kubernetes" / "prometheusrule-alerts.yaml",
        tmp_path / "provisioning/alerting/traceloop.yml",
    ):
        text = path.read_text()
        assert text.count("https://wiki.example/") == text.count("runbook_url") == len(alerts())


class TestGrafanaAlerts:
    """Grafana's file is made from the rules."""

    def test_is_what_the_source_makes(self):
        assert GRAFANA.read_text() == grafana_alerts.render(), "run python -m traceloop.dashboards.source"

    def test_every_alert_with_its_severity(self):
        made = {rule["title"]: rule for group in load(GRAFANA)["groups"] for rule in group["rules"]}
        assert {name: rule["labels"] for name, rule in made.items()} == {
            name: rule["labels"] for name, rule in alerts().items()
        }
        for rule in made.values():
            assert len(rule["uid"]) <= 40 and [query["refId"] for query in rule["data"]] == ["A", "B"]
            for text in rule["annotations"].values():
                # Grafana's templates have no lookups, and $value is a text there.
                assert "| query" not in text and "$value " not in text
                opened = text.count("{{ if ") + text.count("{{ with ") + text.count("{{ range ")
                assert opened == text.count("{{ end }}"), text

    def test_no_series_of_a_recording_rule_is_needed(self):
        recorded = {rule["record"] for group in rule_groups() for rule in group["rules"] if "record" in rule}
        text = GRAFANA.read_text()
        assert not [name for name in recorded if name in text]

    @pytest.mark.slow
    def test_its_queries_pass_the_tests_of_the_rules(self, promtool, tmp_path):
        # The alerts with Grafana's queries in place of their own: the same cases, the same alerts.
        rules = tmp_path / "rules"
        shutil.copytree(RULES, rules)
        shutil.copytree(DASHBOARDS / "prometheus" / "tests", tmp_path / "tests")
        path = rules / "traceloop-alerts.rules.yml"
        content = yaml.load(path.read_text(), LOADER)
        queries = {
            rule["title"]: rule["data"][0]["model"]["expr"]
            for group in load(GRAFANA)["groups"]
            for rule in group["rules"]
        }
        for group in content["groups"]:
            for rule in group["rules"]:
                rule["expr"] = queries[rule["alert"]]
        path.write_text(yaml.safe_dump(content, sort_keys=False, width=10_000))
        for case in sorted((tmp_path / "tests").glob("*.yml")):
            done = promtool("test", "rules", case.name, cwd=case.parent)
            assert done.returncode == 0, done.stdout
