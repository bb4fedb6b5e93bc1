"""Servers and tools that some tests run: skipped without them, or failed where they have to be there."""

import os
import shutil

import pytest


def need(program: str) -> str:
    """The path of a program, or a skip that says how to get it.

    With OTEL_PYTHON_TRACELOOP_TESTS_NEED_PROMETHEUS=1 its lack is a failure.
    """
    path = shutil.which(program)
    if path is None:
        message = f"{program} is not installed (apt-get install prometheus prometheus-alertmanager)"
        if os.environ.get("OTEL_PYTHON_TRACELOOP_TESTS_NEED_PROMETHEUS"):
            pytest.fail(message)
        pytest.skip(message)
    return path
