"""`export` writes what is in the package, no more and no less."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.helpers.dashboard_files import DASHBOARDS
from traceloop.dashboards import export


def names(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def test_dashboards_alone(tmp_path):
    written = export(tmp_path)
    assert names(tmp_path) == {path.name for path in (DASHBOARDS / "grafana").glob("*.json")}
    assert written == sorted(tmp_path.iterdir())
    for path in written:
        assert json.loads(path.read_text())["schemaVersion"] == 39


def test_into_a_folder_that_does_not_exist_and_again_over_it(tmp_path):
    first = export(tmp_path / "a" / "b", rules=True, provisioning=True)
    (tmp_path / "a" / "b" / "mine.txt").write_text("stays")
    assert export(tmp_path / "a" / "b", rules=True, provisioning=True) == first
    assert (tmp_path / "a" / "b" / "mine.txt").read_text() == "stays"


def test_rules_come_with_their_tests(tmp_path, promtool):
    export(tmp_path, rules=True)
    assert "alertmanager/alertmanager.yml" in names(tmp_path)
    assert len(names(tmp_path / "tests")) == len(list((DASHBOARDS / "prometheus" / "tests").glob("*.yml")))
    done = promtool("test", "rules", "slow-callback.test.yml", cwd=tmp_path / "tests")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("address", "page"),
    [
        ("https://wiki.example/ops/{page}", "https://wiki.example/ops/slow-callback"),
        ("https://runbooks.example/", "https://runbooks.example/slow-callback.html"),
    ],
)
def test_runbooks_of_ones_own(tmp_path, promtool, address, page):
    export(tmp_path, rules=True, runbooks=address)
    rules = (tmp_path / "rules" / "traceloop-alerts.rules.yml").read_text()
    assert f"runbook_url: {page}\n" in rules
    assert rules.count(address.partition("{")[0]) == rules.count("runbook_url")
    # Their tests expect the same.
    done = promtool("test", "rules", "slow-callback.test.yml", cwd=tmp_path / "tests")
    assert done.returncode == 0, done.stdout


def test_what_compose_mounts_is_there(tmp_path, promtool):
    export(tmp_path, rules=True, provisioning=True)
    services = yaml.safe_load((tmp_path / "compose.yml").read_text())["services"]
    assert set(services) == {"demo", "prometheus", "alertmanager", "tempo", "grafana"}
    for service in services.values():
        for volume in service.get("volumes", ()):
            assert (tmp_path / volume.split(":")[0]).exists(), volume
    done = promtool("check", "config", "prometheus.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "14 rules found" in done.stdout


def test_compose_installs_the_demo_from_the_checkout_that_it_is_exported_into():
    """The package is on no index."""
    folder = DASHBOARDS / "compose"
    demo = yaml.safe_load((folder / "compose.yml").read_text())["services"]["demo"]
    assert demo["volumes"] == ["..:/checkout:ro"]
    assert "cp -r /checkout /tmp/checkout && pip install --quiet '/tmp/checkout[otlp]' && exec" in demo["command"]
    (name,) = re.findall(r'^name = "(.+)"', (DASHBOARDS.parent / "pyproject.toml").read_text(), re.MULTILINE)
    assert name not in demo["command"]


def test_exemplars_lead_to_the_tempo_that_is_provisioned():
    text = (DASHBOARDS / "provisioning" / "datasources" / "traceloop.yml").read_text()
    prometheus, tempo = yaml.safe_load(text)["datasources"]
    assert prometheus["jsonData"]["exemplarTraceIdDestinations"] == [
        {"name": "trace_id", "datasourceUid": tempo["uid"], "urlDisplayLabel": "Trace"}
    ]
    scrapes = yaml.safe_load((DASHBOARDS / "compose" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert prometheus["jsonData"]["timeInterval"] == scrapes


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        export(tmp_path / "file")
