"""Grafana dashboards and Prometheus rules for what traceloop measures, as files to load into your own."""

from pathlib import Path
from shutil import copyfile

_PACKAGE = Path(__file__).parent
# What each option writes: folder in this package, folder below the directory given. The rules' tests go with them:
# who changes a threshold wants to see what it does.
_DASHBOARDS = (("grafana", ""),)
_RULES = (("prometheus/rules", "rules"), ("prometheus/tests", "tests"), ("alertmanager", "alertmanager"))
_PROVISIONING = (("provisioning", "provisioning"), ("compose", ""))


def export(directory: Path, rules: bool = False, provisioning: bool = False) -> list[Path]:
    """Writes the dashboards into `directory` and returns the files written, in order.

    With `rules`, also the Prometheus rules, their promtool tests and an example for Alertmanager (folders rules,
    tests and alertmanager); with `provisioning`, Grafana's provisioning files and a compose file that runs it all
    with the demo (which needs the rules, too). Files of the same name are replaced, nothing is removed.
    Raises OSError where a file cannot be written.
    """
    parts = _DASHBOARDS + (_RULES if rules else ()) + (_PROVISIONING if provisioning else ())
    written = []
    for source, destination in parts:
        origin, folder = _PACKAGE / source, directory / destination
        for path in sorted(path for path in origin.rglob("*") if path.is_file() and not path.name.startswith(".")):
            target = folder / path.relative_to(origin)
            target.parent.mkdir(parents=True, exist_ok=True)
            copyfile(path, target)
            written.append(target)
    return written
