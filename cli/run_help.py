"""`traceloop run --help`: made from the same table as the parser; parsing itself is left to `cli.run`."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from traceloop.settings import Field

from . import run
from .options import OPTIONS, HelpRequested, is_program

_TEXT = """Run a program on the traced event loop; it behaves as under `python`.

PROGRAM is what `python` takes (app.py, a folder or zip file, -m module, -c code), a console script such as
uvicorn, or an interpreter with its own options. Put traceloop's options before it: everything after it belongs
to the program. Processes that the program starts are traced too.

\b
What you get:
  while it runs      http://localhost:9464/ is a page of the run, and /metrics there is for Prometheus;
                     `traceloop top` shows it in a terminal; a line on stderr names the code that blocks a loop
  when it has ended  one line sums it up; --report prints the whole report
  after a crash      one line names what ran; `traceloop report` reads the record
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
  OTEL_EXPORTER_OTLP_*                           where spans go
  OTEL_TRACES_EXPORTER, OTEL_TRACES_SAMPLER      which exporter, which sampler
  OTEL_METRICS_EXPORTER=otlp                     pushes metrics to that receiver too
  OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES    the service that the spans and metrics belong to
  OTEL_SDK_DISABLED=true                         run the program untraced

\b
Exit status:
  the program's own, also if a signal ends it; 2 if the program could not be started:
  a bad option, a taken metrics port that you asked for, no such program, or an
  interpreter without traceloop's startup hook (install traceloop in the program's environment)
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
    """Whether one of the words is the program, and not an option or its value."""
    with_value = {field.option for field in OPTIONS if field.metavar and not field.bare}
    before = ""
    for word in words:
        if before not in with_value and is_program(word):
            return True
        before = word
    return False


class RunCommand(click.Command):
    """Passes its words to ``cli.run`` unparsed."""

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
        """Completes our options before the program's name, and file names from there on."""
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
