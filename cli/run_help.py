"""`traceloop run --help`: made from the same table as the parser; parsing itself is left to `cli.run`."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from traceloop.settings import Field

from . import run
from .options import OPTIONS, HelpRequested, is_program

_TEXT = """Run a program on the traced event loop; it behaves as under `python`.

PROGRAM is what `python` takes (app.py, a folder or zip file, -m module, -c code), or a console script such
as uvicorn, or an interpreter with its own options. traceloop's options stand before it; whatever follows it
belongs to it. Processes that it starts are traced too.

\b
What you get:
  while it runs      http://localhost:9464/metrics for Prometheus; `traceloop top` for the eye; a line on
                     stderr when a callback blocks its loop, with the line of code that does
  when it has ended  one line that sums it up; a whole report with --report
  after a crash      one line that names what ran, and a record for `traceloop report`
  spans              to an OTLP receiver (Tempo, Jaeger, ...) with --otlp-endpoint

\b
Examples:
  traceloop run app.py --its-own option
  traceloop run -m package.module
  traceloop run uvicorn app:app --workers 4
  traceloop run python -X dev app.py                 options of the interpreter
  traceloop run --report --no-metrics -m pytest      a report at the end, no port
  traceloop run --otlp-endpoint http://localhost:4318 app.py
  traceloop run --slow-threshold 0.05 --slow-threshold 'app.batch.*=1' app.py

\b
Environment:
  OTEL_PYTHON_TRACELOOP_<OPTION>                 an option's default: ..._SLOW_THRESHOLD=0.05, ..._REPORT=true;
                                                 --no-metrics is ..._METRICS=false, --no-children ..._CHILDREN=false
  OTEL_EXPORTER_PROMETHEUS_HOST, ..._PORT        where /metrics is served
  OTEL_EXPORTER_OTLP_ENDPOINT and its like       where spans go
  OTEL_TRACES_EXPORTER, OTEL_TRACES_SAMPLER      which exporter, which sampler
  OTEL_METRICS_EXPORTER=otlp                     metrics are pushed there too
  OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES    whose spans they are
  OTEL_SDK_DISABLED=true                         run the program untraced

\b
Exit status:
  that of the program, ends by a signal included; 2 where it could not be started:
  a bad option, a metrics port that was asked for and is taken, no such program, an
  interpreter without traceloop's startup hook (traceloop must be installed beside the program)
"""


def documented() -> str:
    """The table of the options, as docs/cli.md has it."""
    lines = ["| option | variable `OTEL_PYTHON_TRACELOOP_…` | default | |", "|---|---|---|---|"]
    for field in OPTIONS:
        variable = field.name.upper()
        if not field.metavar:
            variable += f"={str(field.flag).lower()}"
        option = f"{field.option}[={field.metavar}]" if field.bare else f"{field.option} {field.metavar}".strip()
        option = option.replace("|", "\\|")
        lines.append(f"| `{option}` | `{variable}` | {field.shown} | {field.help} |")
    return "\n".join(lines) + "\n"


def _help_of(field: Field) -> str:
    return f"{field.help} (default: {field.shown})" if field.shown else field.help


def _has_program(words: list[str]) -> bool:
    """Whether the program is among the words, and not only options with their values."""
    with_value = {field.option for field in OPTIONS if field.metavar and not field.bare}
    before = ""
    for word in words:
        if before not in with_value and is_program(word):
            return True
        before = word
    return False


class RunCommand(click.Command):
    """Hands its words on unparsed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = args
        return args

    def invoke(self, ctx: click.Context) -> None:
        try:
            status = run.main(ctx.args)
        except HelpRequested:
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit(0)
        raise SystemExit(status)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Our options up to the program's name; files for all that may be one, since what follows is the program's."""
        if incomplete.startswith("-") and not _has_program(ctx.args):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(incomplete, type="file")]

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] PROGRAM [ARGUMENTS]...")


command = RunCommand(
    "run",
    help=_TEXT,
    short_help="Run a program on the traced event loop.",
    context_settings={"max_content_width": 120},
    params=[
        click.Option(
            [field.option],
            metavar=f"[={field.metavar}]" if field.bare else field.metavar or None,
            is_flag=not field.metavar,
            help=_help_of(field),
        )
        for field in OPTIONS
    ],
)
