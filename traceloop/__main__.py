"""`python -m traceloop` is the `traceloop` command."""

from traceloop.cli.main import main

main()
