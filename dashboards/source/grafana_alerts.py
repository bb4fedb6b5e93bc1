"""Prometheus' alerts as Grafana's own: the file that Grafana reads from conf/provisioning/alerting.

Grafana evaluates these against any Prometheus data source, also a hosted one into which no rule file can be loaded. So
each alert is made complete: what a recording rule would have recorded stands in its query. Grafana's texts know no
``query`` function; what the Prometheus alerts look up with it (file and line, who waited) is left out here.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

_RULES = Path(__file__).parent.parent / "prometheus" / "rules"
_RECORDED = re.compile(r"[a-z_]+:[a-z0-9_]+:[a-z0-9_]+")
_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)

#: How Grafana names the data source of the provisioned files, and its own for expressions.
DATASOURCE, EXPRESSION = "prometheus", "__expr__"

_HEAD = """\
# For Grafana's conf/provisioning/alerting: traceloop's alerts, evaluated by Grafana itself (11 or later).
# Made from the Prometheus rules by `python -m traceloop.dashboards.source`. No recording rules are needed: the
# thresholds stand in the queries. Replace `datasourceUid: prometheus` if your data source has another uid.
# Use either these or the Prometheus rules, not both: each alert would be sent twice.
"""


def render() -> str:
    """The text of the provisioning file, the same for the same rules."""
    yaml = importlib.import_module("yaml")  # a tool of the development
    groups = [group for path in sorted(_RULES.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
    made = [
        {
            "orgId": 1,
            "name": group["name"],
            "folder": "traceloop",
            "interval": "1m",
            "rules": [grafana_rule(rule, complete(rule["expr"], groups)) for rule in group["rules"] if "alert" in rule],
        }
        for group in groups
        if any("alert" in rule for rule in group["rules"])
    ]
    text: str = yaml.safe_dump({"apiVersion": 1, "groups": made}, sort_keys=False, width=110, allow_unicode=True)
    return _HEAD + text


def complete(expression: str, groups: list[dict[str, Any]]) -> str:
    """The expression with what the rules record put in place of the recorded series."""
    recorded = {rule["record"]: rule["expr"] for group in groups for rule in group["rules"] if "record" in rule}

    def expand(match: re.Match[str]) -> str:
        return "(" + _RECORDED.sub(expand, recorded[match[0]]).strip() + ")"

    return re.sub(r"\s+", " ", _RECORDED.sub(expand, expression)).strip()


def grafana_rule(rule: dict[str, Any], expression: str) -> dict[str, Any]:
    """One alert as Grafana provisions it: a query A, and a condition B that holds for each series that A returns.

    The comparison is in the query, as in Prometheus; what it returns are numbers from 0 on.
    """
    always = {"evaluator": {"type": "gt", "params": [-1]}}
    made = {
        "uid": "tl-" + rule["alert"].lower(),
        "title": rule["alert"],
        "condition": "B",
        "data": [
            {
                "refId": "A",
                "relativeTimeRange": {"from": 600, "to": 0},
                "datasourceUid": DATASOURCE,
                "model": {"refId": "A", "expr": expression, "instant": True, "range": False},
            },
            {
                "refId": "B",
                "relativeTimeRange": {"from": 600, "to": 0},
                "datasourceUid": EXPRESSION,
                "model": {"refId": "B", "type": "threshold", "expression": "A", "conditions": [always]},
            },
        ],
        # No series is the healthy state of these queries.
        "noDataState": "OK",
        "execErrState": "Error",
        "for": rule.get("for", "0s"),
    }
    if "keep_firing_for" in rule:
        made["keepFiringFor"] = rule["keep_firing_for"]
    made["annotations"] = {name: annotation(text) for name, text in rule["annotations"].items()}
    made["labels"] = dict(rule["labels"])
    return made


def annotation(text: str) -> str:
    """A Prometheus template as one of Grafana's: without lookups, and with the number as Grafana names it."""
    kept: list[str] = []
    place = 0
    skipping = 0  # depth of blocks inside the lookup that is left out
    for match in _ACTION.finditer(text):
        action = match[1]
        if not skipping:
            kept.append(text[place : match.start()])
        place = match.end()
        if skipping:
            skipping += action.startswith(("with ", "if ", "range ")) - (action == "end")
        elif (action.startswith("with ") and action.endswith("query")) or "| query |" in action:
            skipping = 1
        else:
            kept.append(re.sub(r"\$value\b", "$values.A.Value", match[0]))
    kept.append(text[place:])
    # A space before punctuation, where a lookup stood between them; never inside of an action.
    return re.sub(r"(?<!\{) (?=[,.;:](?:\s|$))", "", re.sub(r"\s+", " ", "".join(kept))).strip()
