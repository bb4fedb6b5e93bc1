"""`traceloop completion SHELL`: what a shell reads to complete our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

#: Set by the shell's function when it asks for completions; click looks for it.
VARIABLE = "_TRACELOOP_COMPLETE"

_INSTALLED = {
    "bash": 'eval "$(traceloop completion bash)"            in ~/.bashrc',
    "zsh": 'eval "$(traceloop completion zsh)"             in ~/.zshrc, after compinit',
    "fish": "traceloop completion fish >~/.config/fish/completions/traceloop.fish",
}


@click.command(
    "completion",
    help="Print the completion script for a shell.\n\n\b\n" + "\n".join(_INSTALLED.values()),
)
@click.argument("shell", type=click.Choice(list(_INSTALLED)))
def command(shell: str) -> None:
    # Not `source()`: for bash, it starts a bash to find its version, and prints about that on stdout.
    found = get_completion_class(shell)
    assert found is not None
    completion = found(command, {}, "traceloop", VARIABLE)
    click.echo(completion.source_template % completion.source_vars())
