"""`traceloop export RECORD --format F -o FILE`: a record for other tools."""

from __future__ import annotations

import gc
import importlib
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import click

from .errors import unwritable
from .output import STDOUT, opened
from .progress import Progress
from .runs import RECORD_OR_PID, command_of, open_record, settings_of, tell_problems

if TYPE_CHECKING:
    from traceloop.exporters.timelines.model import Writer
    from traceloop.reading.follower import RunFollower


class Format(NamedTuple):
    """One format. module: under ``traceloop.exporters``, with a ``make`` as in ``timelines/model.py``.

    suffix: of the file's name where none is given.
    """

    module: str
    suffix: str
    title: str


FORMATS = {
    "perfetto": Format("timelines.perfetto", ".pftrace", "A trace for https://ui.perfetto.dev and trace processor."),
    "chrome": Format(
        "timelines.chrome", ".json", "Chrome's trace events, as JSON, for tools that read no Perfetto trace."
    ),
    "otlp": Format(
        "timelines.otlp_lines", ".otlp.jsonl", "OTLP as JSON lines: the spans, for OpenTelemetry's collector."
    ),
    "jsonl": Format("timelines.json_lines", ".jsonl", "JSON lines: an object for everything that happened."),
    "collapsed": Format("profiles.collapsed", ".collapsed.txt", "The profile as collapsed stacks, for flamegraph.pl."),
    "speedscope": Format("profiles.speedscope", ".speedscope.json", "The profile for https://www.speedscope.app."),
    "pprof": Format("profiles.pprof", ".pb.gz", "The profile for pprof."),
    "otlp-profiles": Format(
        "profiles.otlp", ".otlp-profiles.pb", "The profile as OpenTelemetry's ProfilesData, still in development."
    ),
}


def _formats() -> str:
    width = max(map(len, FORMATS))
    return "\b\n" + "\n".join(f"{name:<{width}}  {each.title}" for name, each in FORMATS.items())


_HELP = f"""Write RECORD as a file for another tool.

RECORD is the folder of one run, which a crash leaves behind and `traceloop run --record DIR` keeps, or the DIR itself:
then its newest run is taken. PID is a process that runs under `traceloop run`. Of a run that goes on, what its rings
hold by now is exported.

{_formats()}
"""


@click.command("export", help=_HELP)
@click.argument("record", metavar="RECORD|PID", type=RECORD_OR_PID)
@click.option("--format", "which", type=click.Choice(list(FORMATS)), required=True, help="What to write.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True),
    default=None,
    help="The file; - is stdout. By default traceloop.SUFFIX in the current folder.",
)
def command(record: str, which: str, output: str | None) -> None:
    folder = open_record(record)
    chosen = FORMATS[which]
    path = output if output is not None else f"traceloop{chosen.suffix}"
    if path == STDOUT and sys.stdout.isatty():
        raise click.UsageError("a record is long: name a file with -o, or send stdout elsewhere")
    from traceloop.exporters.timelines.model import NothingToWriteError, Source
    from traceloop.reading.follower import RunFollower
    from traceloop.reading.new_statistics import make_statistics

    # An export makes tuples and text in great number, and hardly any cycles. The search for cycles took a tenth of the
    # time.
    gc.set_threshold(100_000, *gc.get_threshold()[1:])
    make = importlib.import_module(f"traceloop.exporters.{chosen.module}").make
    statistics = make_statistics(settings_of(folder))
    follower = RunFollower(folder, statistics)
    try:
        with opened(path) as out:
            writer = make(out, Source(statistics, command_of(folder)))
            nothing, runs = "", 0
            try:
                runs = _copy(follower, writer, Progress())
            except NothingToWriteError as error:
                nothing = str(error)
            tell_problems(follower.problems, folder, statistics)
            if nothing:
                raise click.ClickException(nothing)
    except BrokenPipeError as error:
        if path == STDOUT:
            raise  # the reader has closed the pipe: click ends quietly, with status 1
        raise unwritable(path, error) from None
    except OSError as error:
        raise unwritable(path, error) from None
    dropped = sum(process.dropped for process in statistics.processes.values())
    missing = f"; {dropped:,} records had been overwritten or were damaged, and are missing" if dropped else ""
    still = "; the run goes on" if len(follower.ended) < len(follower.processes) else ""
    if path != STDOUT:
        click.echo(f"traceloop: wrote {path}: {runs:,} callbacks{missing}{still}", err=True)
    for notice in writer.notices:
        click.echo(f"traceloop: {notice}", err=True)


def _copy(follower: RunFollower, writer: Writer, progress: Progress) -> int:
    """Reads the record to its end; of one that grows, what is there now. Returns the number of handle runs."""
    began = time.monotonic()
    runs = 0
    ended: set[str] = set()
    with follower.statistics.lock:
        reached = False
        while not reached:
            reached = True
            # A record that grows is read in bounded parts, until everything from before the command's start was read.
            for chunks in follower.chunks():
                writer.take(chunks)
                for chunk in chunks:
                    decoded = chunk.decoded
                    runs += len(decoded.runs)
                    if not decoded.runs or decoded.runs[-1][1] < began:
                        reached = False
                progress.show(follower)
            for name in follower.ended - ended:
                writer.end_process(follower.processes[name])
            ended = set(follower.ended)
        progress.close()
        writer.finish()
    return runs
