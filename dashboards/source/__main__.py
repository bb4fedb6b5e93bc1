"""Writes the committed dashboards and Grafana's alerts anew: `python -m traceloop.dashboards.source`."""

import json
from pathlib import Path

from . import executors_heaps, grafana_alerts, itself, overview, slow_callbacks

DASHBOARDS = {
    "event-loop-overview": overview.build,
    "slow-callbacks": slow_callbacks.build,
    "executors-and-heaps": executors_heaps.build,
    "traceloop-itself": itself.build,
}


def render() -> dict[str, str]:
    """File name and text of every dashboard, the same for the same sources."""
    return {
        f"{name}.json": json.dumps(build(), indent=2, ensure_ascii=False) + "\n" for name, build in DASHBOARDS.items()
    }


def main() -> None:
    """Replaces the files in dashboards/grafana/ and dashboards/grafana_alerting/."""
    package = Path(__file__).parent.parent
    for name, text in render().items():
        (package / "grafana" / name).write_text(text, encoding="utf-8")
    (package / "grafana_alerting" / "traceloop.yml").write_text(grafana_alerts.render(), encoding="utf-8")


if __name__ == "__main__":
    main()
