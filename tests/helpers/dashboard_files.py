"""What the tests know about the files in dashboards/ and about PromQL: just enough to check one against the other."""

import json
import re
from functools import cache

import yaml

from tests.helpers.paths import ROOT

DASHBOARDS = ROOT / "dashboards"
RULES = DASHBOARDS / "prometheus" / "rules"

# Prometheus makes these itself for every target.
PROMETHEUS_OWN = {"up", "scrape_duration_seconds"}

# Stand-ins for what Grafana puts in, chosen so that the text stays valid PromQL and a window can be told apart.
GRAFANA_VALUES = {
    "$__rate_interval": "1m1s",
    "$__range": "1h1s",
    "$job": ".+",
    "$instance": ".+",
    "$process": ".+",
    "$loop": ".+",
}

_WORDS = {
    "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "and", "or", "unless", "offset", "atan2",
    "inf", "nan",
}  # fmt: skip


def dashboards():
    """Name and content of every committed dashboard."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((DASHBOARDS / "grafana").glob("*.json"))}


def panels(dashboard):
    """All panels but rows, those inside of collapsed rows too."""
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            yield panel
        yield from (inner for inner in panel.get("panels", ()) if inner["type"] != "row")


def interpolate(query, values=GRAFANA_VALUES):
    """The query as Prometheus gets it from Grafana. Longest names first: `$__range` begins other names."""
    for name in sorted(values, key=len, reverse=True):
        query = query.replace(name, values[name])
    return query


def queries(dashboard):
    """Every (where, PromQL) of a dashboard: panels, annotations."""
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            yield f"{dashboard['title']} / {panel['title']} / {target['refId']}", target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield f"{dashboard['title']} / annotation {annotation['name']}", annotation["expr"]


@cache
def load(path):
    """A YAML file as data, read once: PyYAML takes seconds for a file of cases."""
    return yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def rule_groups():
    """Every rule group of every rules file."""
    for path in sorted(RULES.glob("*.yml")):
        yield from load(path)["groups"]


def rules():
    """Every rule, recording or alerting."""
    for group in rule_groups():
        yield from group["rules"]


def alerts():
    """The alerting rules by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def annotation_queries(rule):
    """PromQL inside of an alert's texts, with the labels of some alert put in."""
    for text in rule.get("annotations", {}).values():
        for query in re.findall(r'printf "((?:[^"\\]|\\.)*)"[^|}]*\| query', text):
            yield query.replace("%q", '"x"')


def metrics_of(query):
    """Names of the metrics that a PromQL query reads."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"' + r"|'(?:[^'\\]|\\.)*'", '""', query)
    text = re.sub(r"\{[^}]*\}", " {} ", text)
    text = re.sub(r"\[[^\]]*\]", " [] ", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    text = re.sub(r"\boffset\s+\S+", " ", text)
    found = set()
    for match in re.finditer(r"(?<![\w:.])[A-Za-z_:][\w:]*", text):
        word, rest = match.group(), text[match.end() :].lstrip()
        if word.lower() not in _WORDS and not rest.startswith("("):
            found.add(word)
    return found


def selectors_of(query):
    """Every (metric, text between its braces) of a query; the text is empty where there are no braces."""
    for name in metrics_of(query):
        for match in re.finditer(rf"(?<![\w:]){re.escape(name)}(?![\w:])\s*(\{{[^}}]*\}})?", query):
            yield name, (match.group(1) or "{}")[1:-1]


@cache
def catalogue():
    """Metric name and type from the table in docs/telemetry.md."""
    found = {}
    for line in (ROOT / "docs" / "telemetry.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if (
            not line.startswith("|")
            or len(cells) < 3
            or not re.match(r"(asyncio|cpython|process|traceloop)_", cells[0])
        ):
            continue
        names = [name.strip() for name in cells[0].split(",")]
        kinds = [kind.strip() for kind in cells[1].replace("always 1", "").split(",") if kind.strip()]
        for index, name in enumerate(names):
            kind = kinds[min(index, len(kinds) - 1)]
            if kind not in ("counter", "gauge", "histogram"):
                kind = "counter" if name.endswith("_total") else "gauge"
            found[name] = kind
    return found


@cache
def series_names():
    """Names of all series that the catalogue's metrics make, histograms spelt out."""
    names = set()
    for name, kind in catalogue().items():
        names |= {name + part for part in ("_bucket", "_sum", "_count")} if kind == "histogram" else {name}
    return names
