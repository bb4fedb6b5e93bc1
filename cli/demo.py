"""`traceloop demo`: a small service with a load of its own and a menu of troubles, under `traceloop run`."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from pathlib import Path

import click

from .errors import unwritable


@click.command("demo")
@click.option("--host", default="localhost", show_default=True, help="Where the service listens.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Its port, 0 for any free one; the menu is at http://localhost:PORT/.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Port of the metrics (default: OTEL_EXPORTER_PROMETHEUS_PORT or 9464).",
)
@click.option(
    "--users",
    type=click.IntRange(0, 10_000),
    default=10,
    show_default=True,
    help="Clients of the load, each about ten requests a second.",
)
@click.option(
    "--trouble",
    "troubles",
    multiple=True,
    metavar="NAME",
    callback=lambda context, option, value: _known(value),
    help="A trouble of the menu that is on from the start, or all; may be repeated. Without it they come by turns.",
)
@click.option(
    "--prometheus",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="First write a Prometheus configuration, with alerts that fire within two minutes, into this folder.",
)
def command(
    host: str, port: int, metrics_port: int | None, users: int, troubles: tuple[str, ...], directory: Path | None
) -> None:
    """Run a service with a load of its own, whose troubles can be switched on and off by HTTP.

    Its troubles take turns, a quarter of a minute each; `traceloop: stall: ...` lines report some of
    them. Look at the rest with `traceloop top`, in the metrics, and in the report at the end (Ctrl-C).
    """
    options: list[str] = ["--report"]
    if directory is not None:
        # Prometheus has to know the port beforehand; otherwise `run` takes a free one where the usual one is taken.
        if metrics_port is None:
            configured = os.environ.get("OTEL_EXPORTER_PROMETHEUS_PORT", "")
            metrics_port = int(configured) if configured.isdecimal() else 9464
        try:
            importlib.import_module("traceloop.dashboards.shortened").write(directory, metrics_port)
        except OSError as error:
            raise unwritable(directory, error) from None
        click.echo(f"traceloop: now run: prometheus --config.file={directory}/prometheus.yml", err=True)
    if metrics_port is not None:
        options += ["--metrics-port", str(metrics_port)]
    words = [*options, str(_script()), "--host", host, "--port", str(port)]
    words += ["--users", str(users), *(word for name in troubles for word in ("--trouble", name))]
    # Becomes the service. Returns only if that was refused.
    raise SystemExit(importlib.import_module(".run", __package__).main(words))


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    there = [*importlib.import_module("traceloop.dashboards.demo.troubles").TROUBLES, "all"]
    for name in names:
        if name not in there:
            raise click.BadParameter(f"there is no {name!r}; expected one of {', '.join(there)}")
    return names


def _script() -> Path:
    # A copy, since a culprit has to be the application's own code, and code in site-packages never counts as that. The
    # service removes the copy when it ends.
    source = Path(importlib.import_module("traceloop.dashboards").__file__ or "").parent / "demo" / "troubles.py"
    return Path(shutil.copy(source, Path(tempfile.mkdtemp(prefix="traceloop-demo-")) / "troubles.py"))
