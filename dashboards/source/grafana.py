"""Builders for the part of Grafana's classic dashboard JSON that our dashboards use.

Functions return plain dictionaries in the classic model (schema version 39: Grafana 11 and later read it as it is, and
later ones migrate it). Units are Grafana's identifiers (`s`, `bytes`, `percentunit`), sizes are grid units: a
dashboard is 24 wide, and a unit of height is 30 pixels.
"""

from __future__ import annotations

from typing import Any

JSON = dict[str, Any]

# A data source variable rather than a name: the dashboards have to load into any Grafana.
DATASOURCE: JSON = {"type": "prometheus", "uid": "${datasource}"}

TARGET = 'job=~"$job", instance=~"$instance"'
PROCESS = TARGET + ', process=~"$process"'
LOOP = PROCESS + ', loop=~"$loop"'

GREEN, YELLOW, ORANGE, RED, BLUE = "green", "#EAB839", "orange", "red", "blue"


def new_or_increased(metric: str, selector: str, window: str) -> str:
    """PromQL: what a counter gained in `window`, counting in full a series that was born within it.

    `increase` of a series born at 1 is 0, and series by culprit are born at their first slow callback.
    """
    series = f"{metric}{{{selector}}}"
    return f"(({series} unless {series} offset {window}) or increase({series}[{window}]))"


def quantile(q: float, metric: str, selector: str, by: str) -> str:
    """PromQL: a quantile of the histogram `metric`, one series for each combination of the labels `by`."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{selector}}}[$__rate_interval])))"


def target(
    expr: str,
    legend: str = "",
    *,
    exemplar: bool = False,
    instant: bool = False,
    table: bool = False,
    heatmap: bool = False,
) -> JSON:
    """One query of a panel. With `exemplar`, the points that lead to a trace are asked for, too."""
    form = "table" if table else "heatmap" if heatmap else "time_series"
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": expr,
        "exemplar": exemplar,
        "format": form,
        "instant": instant,
        "range": not instant,
        "legendFormat": legend or "__auto",
    }


def thresholds(*steps: tuple[float, str], base: str = GREEN) -> JSON:
    """Colour `base` below the first of `steps`, each a lower limit with its colour."""
    return {
        "mode": "absolute",
        "steps": [{"color": base, "value": None}, *({"color": color, "value": value} for value, color in steps)],
    }


def _panel(kind: str, title: str, description: str, targets: list[JSON], w: int, h: int) -> JSON:
    for index, query in enumerate(targets):
        query["refId"] = chr(ord("A") + index)
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": targets,
        "gridPos": {"w": w, "h": h, "x": 0, "y": 0},
    }


def stat(
    title: str, description: str, expr: str, unit: str, steps: JSON, *, w: int = 4, decimals: int | None = None
) -> JSON:
    """One big number on a coloured ground, with a sparkline: what a wall shows."""
    panel = _panel("stat", title, description, [target(expr)], w, 4)
    defaults: JSON = {
        "unit": unit,
        "thresholds": steps,
        "color": {"mode": "thresholds"},
        "noValue": "no data",
        "min": 0,
    }
    if decimals is not None:
        defaults["decimals"] = decimals
    panel["fieldConfig"] = {"defaults": defaults, "overrides": []}
    panel["options"] = {
        "colorMode": "background",
        "graphMode": "area",
        "justifyMode": "center",
        "orientation": "auto",
        "textMode": "value",
        "wideLayout": True,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return panel


def timeseries(
    title: str,
    description: str,
    targets: list[JSON],
    unit: str,
    *,
    w: int = 12,
    h: int = 9,
    steps: JSON | None = None,
    stack: bool = False,
    bars: bool = False,
    log: bool = False,
    maximum: float | None = None,
    overrides: list[JSON] | None = None,
) -> JSON:
    """Lines (or bars) over time. `steps` draws the thresholds as lines, so that bad can be seen from afar."""
    panel = _panel("timeseries", title, description, targets, w, h)
    custom: JSON = {
        "drawStyle": "bars" if bars else "line",
        "lineWidth": 1 if bars else 2,
        # Areas that lie on each other on a logarithmic axis say nothing.
        "fillOpacity": 80 if bars else 40 if stack else 0 if log else 10,
        "gradientMode": "none",
        "showPoints": "never",
        "spanNulls": False,
        "lineInterpolation": "linear",
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
        "thresholdsStyle": {"mode": "dashed" if steps else "off"},
        "axisPlacement": "auto",
    }
    defaults: JSON = {
        "unit": unit,
        "custom": custom,
        "color": {"mode": "palette-classic"},
        "thresholds": steps or thresholds(),
    }
    if not log:
        # A logarithmic axis can't begin at 0.
        defaults["min"] = 0
    if maximum is not None:
        defaults["max"] = maximum
    panel["fieldConfig"] = {"defaults": defaults, "overrides": overrides or []}
    panel["options"] = {
        "legend": {
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
            "calcs": ["lastNotNull", "max"],
            "sortBy": "Max",
            "sortDesc": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel


def heatmap(title: str, description: str, expr: str, unit: str, *, w: int = 12, h: int = 9) -> JSON:
    """Distribution over time of a histogram: `expr` is a sum by (le) of its buckets' rates."""
    panel = _panel("heatmap", title, description, [target(expr, "{{le}}", exemplar=True, heatmap=True)], w, h)
    panel["fieldConfig"] = {
        "defaults": {"custom": {"scaleDistribution": {"type": "linear"}, "hideFrom": {}}},
        "overrides": [],
    }
    panel["options"] = {
        "calculate": False,
        "cellGap": 1,
        # Rates far below one a second are noise of the interpolation, not callbacks.
        "filterValues": {"le": 1e-9},
        # A few slow runs beside a million fast ones have to be seen: the colour grows with a low power of the rate.
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "exponent": 0.2,
            "scale": "exponential",
            "steps": 64,
            "fill": RED,
        },
        "yAxis": {"unit": unit, "axisPlacement": "left", "reverse": False},
        "rowsFrame": {"layout": "auto"},
        "cellValues": {"unit": "cps"},
        "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": False},
        "legend": {"show": True},
        "exemplars": {"color": "rgba(31,120,193,0.9)"},
    }
    return panel


def table(
    title: str,
    description: str,
    columns: list[tuple[str, str, str]],
    labels: dict[str, str],
    *,
    w: int = 24,
    h: int = 9,
    sort: str = "",
    steps: dict[str, JSON] | None = None,
    hidden: tuple[str, ...] = (),
) -> JSON:
    """A table with one row for each combination of labels.

    `columns` are (name, unit, expression), `labels` the label columns in their order with their headings, `steps`
    thresholds that colour a column's cells, `hidden` labels of the query that are not shown.
    """
    queries = [target(expr, instant=True, table=True) for _, _, expr in columns]
    panel = _panel("table", title, description, queries, w, h)
    # Grafana calls the values of several joined queries Value #A, Value #B, of a single one Value.
    single = len(columns) == 1
    value = ["Value" if single else f"Value #{query['refId']}" for query in queries]
    rename = dict(labels) | {old: name for old, (name, _, _) in zip(value, columns, strict=True)}
    order = {name: index for index, name in enumerate([*labels, *value])}
    overrides: list[JSON] = []
    for name, unit, _ in columns:
        properties: list[JSON] = [{"id": "unit", "value": unit}]
        if steps and name in steps:
            properties.append({"id": "thresholds", "value": steps[name]})
            properties.append({"id": "custom.cellOptions", "value": {"type": "color-background", "mode": "gradient"}})
        overrides.append({"matcher": {"id": "byName", "options": name}, "properties": properties})
    panel["fieldConfig"] = {
        "defaults": {
            # Labels are texts: with a number's unit a process id of 18600 becomes 18.6 K.
            "unit": "string",
            "custom": {"align": "auto", "filterable": True, "inspect": False},
            "thresholds": thresholds(),
            "color": {"mode": "thresholds"},
        },
        "overrides": overrides,
    }
    panel["options"] = {
        "showHeader": True,
        "cellHeight": "sm",
        "footer": {"show": False, "reducer": ["sum"], "fields": ""},
        "sortBy": [{"displayName": sort, "desc": True}] if sort else [],
    }
    exclude = {"Time": True, "__name__": True} | dict.fromkeys(hidden, True)
    transformations: list[JSON] = [] if single else [{"id": "merge", "options": {}}]
    transformations.append(
        {"id": "organize", "options": {"excludeByName": exclude, "indexByName": order, "renameByName": rename}}
    )
    panel["transformations"] = transformations
    return panel


def text(title: str, content: str, *, w: int = 24, h: int = 3) -> JSON:
    """A panel of Markdown, where one sentence saves a look into the documentation."""
    return {
        "type": "text",
        "title": title,
        "description": content.partition(".")[0] + ".",
        "gridPos": {"w": w, "h": h, "x": 0, "y": 0},
        "options": {"mode": "markdown", "content": content},
    }


def row(title: str) -> JSON:
    """A heading over the panels that follow."""
    return {
        "type": "row",
        "title": title,
        "collapsed": False,
        "panels": [],
        "gridPos": {"w": 24, "h": 1, "x": 0, "y": 0},
    }


def annotation(name: str, expr: str, color: str, title: str, body: str) -> JSON:
    """Marks on every panel's time axis wherever `expr` has a value; `title` and `body` may name {{labels}}."""
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "expr": expr,
        "iconColor": color,
        "titleFormat": title,
        "textFormat": body,
        "tagKeys": "job,instance,process,loop",
        "step": "15s",
        "useValueForTime": False,
    }


def _query_variable(name: str, label: str, description: str, query: str) -> JSON:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "description": description,
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"variable-{name}", "qryType": 1},
        # When the time range changes: a process of last week is found when last week is looked at.
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        # Not the list of all values, which outgrows a URL and a regular expression.
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
        "regex": "",
        "hide": 0,
        "skipUrlSync": False,
    }


def variables() -> list[JSON]:
    """The variables that all dashboards share; each narrows the ones after it."""
    info, runs = "traceloop_process_info", "asyncio_eventloop_iterations_total"
    return [
        {
            "type": "datasource",
            "name": "datasource",
            "label": "Data source",
            "description": "The Prometheus that scrapes traceloop. Its exemplars lead to the Tempo configured in it.",
            "query": "prometheus",
            "current": {},
            "options": [],
            "regex": "",
            "refresh": 1,
            "multi": False,
            "includeAll": False,
            "hide": 0,
            "skipUrlSync": False,
        },
        _query_variable("job", "Job", "The service.", f"label_values({info}, job)"),
        _query_variable("instance", "Instance", "One run of it.", f'label_values({info}{{job=~"$job"}}, instance)'),
        _query_variable(
            "process", "Process", "Slot number of a process.", f"label_values({info}{{{TARGET}}}, process)"
        ),
        _query_variable("loop", "Loop", "The loop's thread.", f"label_values({runs}{{{PROCESS}}}, loop)"),
    ]


def dashboard(uid: str, title: str, description: str, annotations: list[JSON], panels: list[JSON]) -> JSON:
    """The whole dashboard: places the panels from left to right, and below where the width of 24 is used up."""
    x = y = line = 0
    for number, panel in enumerate(panels, 1):
        place = panel["gridPos"]
        if panel["type"] == "row" or x + place["w"] > 24:
            x, y, line = 0, y + line, 0
        panel["id"] = number
        place["x"], place["y"] = x, y
        x, line = x + place["w"], max(line, place["h"])
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["asyncio", "python", "traceloop"],
        "schemaVersion": 39,
        "version": 1,
        # Provisioned from files: an edit in the browser would be lost at the next update.
        "editable": False,
        "graphTooltip": 1,
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {"refresh_intervals": ["5s", "10s", "30s", "1m", "5m", "15m"]},
        "refresh": "30s",
        "timezone": "browser",
        "weekStart": "",
        "fiscalYearStartMonth": 0,
        "liveNow": False,
        "links": [
            {
                "type": "dashboards",
                "title": "traceloop",
                "tags": ["traceloop"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
                "url": "",
            }
        ],
        "templating": {"list": variables()},
        "annotations": {"list": annotations},
        "panels": panels,
    }
