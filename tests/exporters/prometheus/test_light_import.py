"""The collector's import of prometheus_client: without what it does not use, and with the same answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers.paths import ROOT

HEAVY = {"ssl", "http.client", "http.server", "email", "urllib.request", "wsgiref.simple_server"}
ANSWER = """
import json, sys
if "light" in sys.argv:
    from traceloop.exporters.prometheus.light_import import import_light
    import_light()
from prometheus_client import exposition
from traceloop.exporters.prometheus.server import serve
import traceloop.exporters.html.app
from prometheus_client import CollectorRegistry, Gauge, make_wsgi_app
registry = CollectorRegistry()
gauge = Gauge("gauge", 'A "gauge".', ["label"], registry=registry)
gauge.labels("\\n").set(0.1)
answers = []
for accept in ("", "application/openmetrics-text; version=1.0.0", "text/plain; version=1.0.0; escaping=allow-utf-8"):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "HTTP_ACCEPT": accept, "QUERY_STRING": "name[]=gauge"}
    body = make_wsgi_app(registry)(environ, lambda *given: answers.append(given))
    answers.append(b"".join(body).decode())
print(json.dumps([answers, sorted(sys.modules), [type(each).__name__ for each in sys.meta_path]]))
"""


def told(*arguments: str, path: str = "") -> Any:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (path, str(ROOT))))}
    code = [sys.executable, "-c", ANSWER, *arguments]
    return json.loads(subprocess.run(code, env=environ, cwd=ROOT, check=True, capture_output=True).stdout)


def test_the_answers_are_the_same_and_neither_tls_nor_http_clients_are_imported() -> None:
    answers, modules, finders = told("light")
    expected, usual, usual_finders = told()
    assert answers == expected and 'gauge{label="' in answers[1]
    assert HEAVY & set(usual) and not HEAVY & set(modules)
    assert finders == usual_finders


def test_a_version_that_needs_them_is_imported_as_usual(tmp_path: Path) -> None:
    import prometheus_client

    package = tmp_path / "prometheus_client"
    package.mkdir()
    for name in Path(prometheus_client.__file__).parent.iterdir():
        if name.name != "exposition.py" and name.name != "__pycache__":
            (package / name.name).symlink_to(name)
    text = Path(prometheus_client.__file__).with_name("exposition.py").read_text()
    (package / "exposition.py").write_text(text + "\n_limit = ssl.OP_NO_TLSv1 + 1\n")
    answers, modules, _ = told("light", path=str(tmp_path))
    assert answers == told()[0] and "ssl" in modules
