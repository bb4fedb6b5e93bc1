"""Grafana dashboards and Prometheus rules for what traceloop measures, as files to load into your own."""

import re
from pathlib import Path
from shutil import copyfile

# Where the rules in this package say that the runbooks are.
_RUNBOOK = re.compile(r"https://traceloop-eventloop\.readthedocs\.io/en/latest/runbooks/([\w-]+)\.html")
_PACKAGE = Path(__file__).parent
# What each option writes: folder in this package, folder below the directory given. The rules' tests go with them:
# who changes a threshold wants to see what it does.
_DASHBOARDS = (("grafana", ""),)
_RULES = (("prometheus/rules", "rules"), ("prometheus/tests", "tests"), ("alertmanager", "alertmanager"))
_PROVISIONING = (("provisioning", "provisioning"), ("compose", ""))


def export(directory: Path, rules: bool = False, provisioning: bool = False, runbooks: str = "") -> list[Path]:
    """Writes the dashboards into `directory` and returns the files written, in order.

    With `rules`, also the Prometheus rules, their promtool tests and an example for Alertmanager (folders rules,
    tests and alertmanager); with `provisioning`, Grafana's provisioning files and a compose file that runs it all
    with the demo (which needs the rules, too). Files of the same name are replaced, nothing is removed.
    ``runbooks``: the address where alerts shall find the runbooks (docs/runbooks of this project), with {page} for
    the name of one; without {page}, ``/NAME.html`` is added.
    Raises OSError where a file cannot be written.
    """
    parts = _DASHBOARDS + (_RULES if rules else ()) + (_PROVISIONING if provisioning else ())
    written = []
    for source, destination in parts:
        origin, folder = _PACKAGE / source, directory / destination
        for path in sorted(path for path in origin.rglob("*") if path.is_file() and not path.name.startswith(".")):
            target = folder / path.relative_to(origin)
            target.parent.mkdir(parents=True, exist_ok=True)
            if runbooks and path.suffix == ".yml" and origin.parts[-2:-1] == ("prometheus",):
                target.write_text(_with_runbooks(path.read_text("utf-8"), runbooks), "utf-8")
            else:
                copyfile(path, target)
            written.append(target)
    return written


def _with_runbooks(text: str, address: str) -> str:
    pattern = address if "{page}" in address else address.rstrip("/") + "/{page}.html"
    return _RUNBOOK.sub(lambda match: pattern.replace("{page}", match[1]), text)
