"""`traceloop dashboards`: what there is to load into Grafana and Prometheus, written into a folder."""

from __future__ import annotations

import importlib
from pathlib import Path

import click


@click.command("dashboards")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--rules/--no-rules", default=True, help="Prometheus' recording and alerting rules too (the default).")
@click.option("--provisioning", is_flag=True, help="Also the files by which Grafana finds them all by itself.")
def command(directory: Path, rules: bool, provisioning: bool) -> None:
    """Write the Grafana dashboards into DIRECTORY, with the Prometheus rules that go with them."""
    export = importlib.import_module("traceloop.dashboards").export
    try:
        written = export(directory, rules=rules, provisioning=provisioning)
    except OSError as error:
        raise click.ClickException(f"cannot write to {directory}: {error.strerror}") from None
    for path in written:
        click.echo(path)
