"""A checkout, beside which another one may be installed."""

import subprocess
import sys

from tests.helpers.paths import ROOT


def test_a_checkout_takes_nothing_of_another_one_that_is_installed():
    """An editable install's finder would bring the other's ``exporters`` for the ``traceloop`` of this folder."""
    code = """
import sys

class Other:
    def find_spec(name, path, target=None):
        assert not name.startswith("traceloop."), name

sys.meta_path.append(Other)
import traceloop.exporters, traceloop.cli, traceloop.dashboards
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
