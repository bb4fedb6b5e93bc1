"""Grafana dashboards and Prometheus rules for what traceloop measures, as files to load into your own."""

import re
from pathlib import Path
from shutil import copyfile

from . import kubernetes as _kubernetes

# Where the rules in this package say that the runbooks are.
_RUNBOOK = re.compile(r"https://traceloop-eventloop\.readthedocs\.io/en/latest/runbooks/([\w-]+)\.html")
_PACKAGE = Path(__file__).parent
# What each option writes: folder in this package, folder below the directory given. The rules' tests go with them:
# who changes a threshold wants to see what it does.
_DASHBOARDS = (("grafana", ""),)
_RULES = (("prometheus/rules", "rules"), ("prometheus/tests", "tests"), ("alertmanager", "alertmanager"))
_PROVISIONING = (("provisioning", "provisioning"), ("compose", ""))
_GRAFANA_ALERTS = (("grafana_alerting", "provisioning/alerting"),)
# Files in which alerts say where their runbooks are.
_WITH_RUNBOOKS = ("prometheus/rules", "prometheus/tests", "grafana_alerting")


def export(
    directory: Path,
    rules: bool = False,
    provisioning: bool = False,
    runbooks: str = "",
    kubernetes: bool = False,
    grafana_alerts: bool = False,
) -> list[Path]:
    """Writes the dashboards into `directory` and returns the files written, in order.

    - `rules`: also the Prometheus rules, their promtool tests and an example for Alertmanager (folders rules, tests and
      alertmanager).
    - `provisioning`: also Grafana's provisioning files and a compose file that runs it all with the demo (which needs
      the rules, too).
    - `kubernetes`: also the rules and dashboards as Kubernetes objects, with a PodMonitor (folder kubernetes).
    - `grafana_alerts`: also the alerts for Grafana's own alerting (folder provisioning/alerting).
    - `runbooks`: the address where alerts shall find the runbooks (docs/runbooks of this project), with {page} for the
      name of one; without {page}, ``/NAME.html`` is added.

    Files of the same name are replaced, nothing is removed. Raises OSError where a file cannot be written.
    """
    parts = _DASHBOARDS + (_RULES if rules else ()) + (_PROVISIONING if provisioning else ())
    parts += _GRAFANA_ALERTS if grafana_alerts else ()
    written = []
    for source, destination in parts:
        origin, folder = _PACKAGE / source, directory / destination
        for path in sorted(path for path in origin.rglob("*") if path.is_file() and not path.name.startswith(".")):
            target = folder / path.relative_to(origin)
            target.parent.mkdir(parents=True, exist_ok=True)
            if runbooks and source in _WITH_RUNBOOKS:
                target.write_text(_with_runbooks(path.read_text("utf-8"), runbooks), "utf-8")
            else:
                copyfile(path, target)
            written.append(target)
    if kubernetes:
        written += _write_kubernetes(directory / "kubernetes", runbooks)
    return written


def _write_kubernetes(folder: Path, runbooks: str) -> list[Path]:
    rules = _kubernetes.read(_PACKAGE / "prometheus" / "rules", "*.yml")
    if runbooks:
        rules = {name: _with_runbooks(text, runbooks) for name, text in rules.items()}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in _kubernetes.manifests(rules, _kubernetes.read(_PACKAGE / "grafana", "*.json")).items():
        (folder / name).write_text(text, "utf-8")
        written.append(folder / name)
    return written


def _with_runbooks(text: str, address: str) -> str:
    pattern = address if "{page}" in address else address.rstrip("/") + "/{page}.html"
    return _RUNBOOK.sub(lambda match: pattern.replace("{page}", match[1]), text)
