"""The rules and dashboards as Kubernetes objects: what the Prometheus operator and Grafana's sidecar read.

The files of this package are indented and put into their objects as they are, comments included: no YAML library is
needed, and what Prometheus checks in the file is what the cluster gets.
"""

from __future__ import annotations

import re
from pathlib import Path

#: What Grafana's sidecar (k8s-sidecar, in the kube-prometheus-stack and Grafana charts) looks for by default.
DASHBOARD_LABEL = 'grafana_dashboard: "1"'

_HEAD = """\
apiVersion: {version}
kind: {kind}
metadata:
  name: {name}
  labels:
    app.kubernetes.io/part-of: traceloop
"""

_PODMONITOR = (
    """\
# Scrapes every pod that has the label `traceloop-metrics: "true"` and a container port with the name `traceloop`.
"""
    + _HEAD.format(version="monitoring.coreos.com/v1", kind="PodMonitor", name="traceloop")
    + """\
spec:
  # The `job` of a pod's series is its label app.kubernetes.io/name: dashboards, thresholds and budgets go by job.
  jobLabel: app.kubernetes.io/name
  selector:
    matchLabels:
      traceloop-metrics: "true"
  namespaceSelector:
    any: true
  podMetricsEndpoints:
    - port: traceloop
      interval: 15s
"""
)

_KUSTOMIZATION = """\
# kubectl apply -n monitoring -k .
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
{resources}
# Most Prometheus operators select rules and monitors by a label. With the kube-prometheus-stack chart it is the name of
# the Helm release:
# labels:
#   - pairs:
#       release: kube-prometheus-stack
"""


def manifests(rules: dict[str, str], dashboards: dict[str, str]) -> dict[str, str]:
    """File name and text of every manifest.

    `rules`: texts of Prometheus' rule files by file name (`traceloop-alerts.rules.yml`); each becomes a
    PrometheusRule, so that the thresholds can be edited and kept apart. `dashboards`: texts of Grafana's JSON
    files by file name; each becomes a ConfigMap. With them come the PodMonitor and a kustomization of it all.
    """
    made = {"podmonitor.yaml": _PODMONITOR}
    for name, text in rules.items():
        title = name.removesuffix(".rules.yml")
        head = _HEAD.format(version="monitoring.coreos.com/v1", kind="PrometheusRule", name=title)
        made[f"prometheusrule-{title.removeprefix('traceloop-')}.yaml"] = head + "spec:\n" + _indented(text, 2)
    for name, text in dashboards.items():
        title = name.removesuffix(".json")
        title = title if title.startswith("traceloop-") else f"traceloop-{title}"
        head = _HEAD.format(version="v1", kind="ConfigMap", name=title) + f"    {DASHBOARD_LABEL}\n"
        made[f"dashboard-{title.removeprefix('traceloop-')}.yaml"] = f"{head}data:\n  {name}: |\n{_indented(text, 4)}"
    resources = "".join(f"  - {name}\n" for name in sorted(made))
    made["kustomization.yaml"] = _KUSTOMIZATION.format(resources=resources)
    return made


def _indented(text: str, width: int) -> str:
    return re.sub(r"(?m)^(?=.)", " " * width, text)


def read(folder: Path, pattern: str) -> dict[str, str]:
    """The texts of a folder's files that match a pattern, by name."""
    return {path.name: path.read_text("utf-8") for path in sorted(folder.glob(pattern))}
