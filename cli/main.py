"""The `traceloop` command. `run` goes past click, because its user waits for it at every start."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    """The entry point of the console script and of `python -m traceloop`."""
    words = sys.argv[1:]
    if words[:1] == ["run"]:
        from . import options, run

        try:
            status = run.main(words[1:])
        except options.HelpRequested:
            pass
        except KeyboardInterrupt:
            status = 130
        else:
            raise SystemExit(status)
    elif words == ["--version"]:
        from traceloop.core.choose import core
        from traceloop.reading.decoding.choose import extension, problem, reader_name
        from traceloop.version import __version__

        chosen = core()
        in_c = {
            "core": chosen.native,
            "reader": reader_name() == "c",
            "packer": extension("traceloop.exporters.otlp._packer") is not None,
        }
        if line := chosen.problem or problem():
            print(f"traceloop: {line}", file=sys.stderr)
        parts = ", ".join(f"{'C' if native else 'Python'} {part}" for part, native in in_c.items())
        print(f"traceloop {__version__} ({parts})")
        raise SystemExit(0)
    from .group import command

    command_with_click: Any = command
    command_with_click(prog_name="traceloop")
