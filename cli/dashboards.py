"""`traceloop dashboards`: what there is to load into Grafana and Prometheus, written into a folder."""

from __future__ import annotations

import importlib
from pathlib import Path

import click

from .errors import unwritable


@click.group("dashboards")
def command() -> None:
    """Dashboards for Grafana, rules and alerts for Prometheus and Kubernetes."""


@command.command("export")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--rules", is_flag=True, help="Also Prometheus' rules and alerts, their tests, and Alertmanager's example."
)
@click.option("--provisioning", is_flag=True, help="Also Grafana's provisioning files, and a compose file for it all.")
@click.option(
    "--kubernetes",
    is_flag=True,
    help="Also Kubernetes objects: PrometheusRules, a PodMonitor, the dashboards as ConfigMaps.",
)
@click.option("--grafana-alerts", is_flag=True, help="Also the alerts as Grafana's own, as a provisioning file.")
@click.option(
    "--runbooks",
    metavar="URL",
    default="",
    help="Where the alerts' runbooks are, with {page} for the name of one: https://wiki.example/ops/{page}",
)
def export(
    directory: Path, rules: bool, provisioning: bool, kubernetes: bool, grafana_alerts: bool, runbooks: str
) -> None:
    """Write the Grafana dashboards into DIRECTORY."""
    write = importlib.import_module("traceloop.dashboards").export
    try:
        written = write(
            directory,
            rules=rules,
            provisioning=provisioning,
            runbooks=runbooks,
            kubernetes=kubernetes,
            grafana_alerts=grafana_alerts,
        )
    except OSError as error:
        raise unwritable(directory, error) from None
    for path in written:
        click.echo(path)
