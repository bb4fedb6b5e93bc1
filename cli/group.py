"""The commands for click. Each is imported when it is used."""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.util
import os
import sys
from typing import Any

import click

from traceloop.parsing import did_you_mean
from traceloop.version import __version__

from .errors import one_line

#: Command name: (module, attribute, what `traceloop --help` says about it).
COMMANDS = {
    "run": ("run_help", "command", "Run a program on the traced event loop."),
    "top": ("top", "command", "Watch the loops of a running program."),
    "ps": ("ps", "command", "List the programs that are traced now, with their processes."),
    "tasks": ("tasks", "command", "Show the tasks of a program: where each waits, and for what."),
    "report": ("report", "command", "Print the report of a kept record."),
    "check": ("check", "command", "Hold a run to budgets: for CI."),
    "diff": ("diff", "command", "Say what became slower between two records."),
    "export": ("export", "command", "Write a kept record as a file for other tools."),
    "explain": ("explain", "command", "Explain a finding or an alert: what it means, what to do."),
    "dashboards": ("dashboards", "command", "Write the Grafana dashboards and Prometheus rules into a folder."),
    "demo": ("demo", "command", "Run a service with troubles to look at."),
    "completion": ("completion", "command", "Print the completion script for bash, zsh or fish."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and imports the one that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, (module, _, _) in COMMANDS.items() if _exists(module)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS or not _exists(COMMANDS[cmd_name][0]):
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        found: click.Command = getattr(importlib.import_module(f".{module}", __package__), attribute)
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            hint = did_you_mean(args[0], self.list_commands(ctx), nearness=0.6)
            if not hint and (os.path.exists(args[0]) or args[0].endswith(".py")):
                hint = f"; did you mean traceloop run {args[0]}?"
            raise click.UsageError(f"no such command: {args[0]}{hint}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][2]) for name in self.list_commands(ctx)])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if sys.stdout is None:  # closed (`>&-`)
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.ctx.get_help() if error.ctx is not None else "", err=True)
            raise SystemExit(2) from None
        except click.ClickException as error:
            click.echo(f"traceloop: {one_line(error)}", err=True)
            raise SystemExit(error.exit_code) from None
        except click.Abort:
            raise SystemExit(130) from None
        except OSError as error:
            # Where the error names a file, that file could not be opened, and stdout is not the cause.
            if error.filename is not None or error.errno not in _NO_ROOM:
                raise
            click.echo(f"traceloop: stdout cannot be written: {os.strerror(error.errno)}", err=True)
            with contextlib.suppress(OSError):
                sys.stdout.close()  # otherwise the interpreter tries to write the rest once more, and complains
            raise SystemExit(1) from None


#: The errors of a write to a full file system.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _exists(module: str) -> bool:
    return importlib.util.find_spec(f".{module}", __package__) is not None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="traceloop %(version)s")
def command() -> None:
    """An asyncio event loop that records everything it does, under any Python program.

    \b
    traceloop run app.py              run a program: serve its metrics, and name what blocks its loop
    traceloop run uvicorn app:app     a server with all its workers
    traceloop top                     watch the loops of a running program from another terminal
    curl localhost:9464/metrics       the metrics; `traceloop dashboards` writes dashboards for them
    traceloop demo                    a service with troubles, to try all of this on

    `traceloop COMMAND --help` shows the options of each.
    """
