"""`traceloop explain`: every finding and alert has a page that comes with the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from tests.cli.test_completion import completed
from tests.helpers.dashboard_files import rules
from tests.helpers.paths import ROOT
from tests.helpers.traced import Traced
from traceloop.cli import pages
from traceloop.cli.group import command
from traceloop.reading.findings.verdict import KINDS

ALERTS = sorted({rule["alert"] for rule in rules() if "alert" in rule})


def explain(*words: str, columns: int = 80) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(command, ["explain", *words])


@pytest.mark.parametrize("name", [*KINDS, *ALERTS])
def test_every_finding_and_every_alert_is_explained(name: str) -> None:
    done = explain(name)
    assert done.exit_code == 0, done.output
    folder = "findings" if name in KINDS else "runbooks"
    known = pages.names_of(pages.pages())
    page = (ROOT / "docs" / f"{known[name].stem}.md").read_text("utf-8")
    assert known[name].stem.startswith(f"{folder}/") and f"`{name}`" in page
    assert done.output.startswith(page.partition("\n")[0].lstrip("# ") + "\n")
    assert "What to do" in done.output
    # Nothing of Markdown's links is left, no word of the page is lost, and lines fit.
    assert "](" not in done.output and ".md" not in done.output
    words = set(re.findall(r"\w+", re.sub(r"\]\([^)]*\)|```\w+", "]", page)))
    assert words - set(re.findall(r"\w+", done.output)) <= {"md"}
    assert max(map(len, done.output.partition("\nSee also\n")[0].splitlines())) <= 80


def test_every_page_that_is_named_below_another_can_be_asked_for() -> None:
    every = pages.pages()
    known = pages.names_of(every)
    for page in every:
        text = "\n".join(map(click.unstyle, pages.rendered(page, every, 100)))
        for name in re.findall(r"(?m)^    traceloop explain (\S+)  ", text.partition("\nSee also\n")[2]):
            assert name in known, f"{page.name} -> {name}"
            assert known[name] is not page


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("waiting", "findings/waiting"),
        ("docs/waiting", "waiting"),
        ("docs/findings/blocking-call.md", "findings/blocking-call"),
        ("runbooks/task-leak", "runbooks/task-leak"),
        ("asyncioloopBLOCKED", "runbooks/loop-blocked"),
        ("loop-blocked", "runbooks/loop-blocked"),
        ("glossary", "glossary"),
    ],
)
def test_names_that_several_pages_have_and_paths(name: str, stem: str) -> None:
    title = (ROOT / "docs" / f"{stem}.md").read_text("utf-8").partition("\n")[0]
    assert explain(name).output.startswith(title.lstrip("# ") + "\n")


def test_without_a_name_all_are_listed() -> None:
    done = explain()
    assert done.exit_code == 0
    listed = set(re.findall(r"(?m)^    (\S+)  ", done.output))
    assert {*KINDS, *ALERTS, "reading-a-report", "docs/waiting"} <= listed
    assert all(explain(name).exit_code == 0 for name in listed)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("blocking-cal", "did you mean blocking-call"),
        ("AsyncioLoopBloked", "did you mean AsyncioLoopBlocked"),
        ("leak", "did you mean task-leak"),
        ("zzz", "traceloop explain lists all"),
        ("../../README", ""),
        ("", ""),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest(name: str, hint: str) -> None:
    done = explain(name)
    assert done.exit_code == 2 and done.stdout == ""
    assert done.stderr.startswith("traceloop: there is no page about ") and done.stderr.count("\n") == 1
    assert hint in done.stderr


def test_names_are_completed() -> None:
    assert set(KINDS) | set(ALERTS) <= {line.removeprefix("plain,") for line in completed("traceloop explain ")}
    assert completed("traceloop explain AsyncioLoopB") == ["plain,AsyncioLoopBlocked"]


def test_an_installed_package_has_its_pages(traced: Traced, tmp_path: Path) -> None:
    """Away from the checkout."""
    script = Path(traced.command[0])
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [script, "explain", "deadlock"], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("Tasks wait for each other\n")
    (tmp_path / "app.py").write_text("import asyncio, time\nasync def main(): time.sleep(0.3)\nasyncio.run(main())\n")
    run = subprocess.run(
        [*traced.command, "--report", "--metrics-port", "0", "app.py"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    named = re.findall(r"More: traceloop (explain \S+)|words: traceloop (explain \S+)", run.stderr)
    assert len(named) >= 2, run.stderr
    for words in named:
        shown = subprocess.run(
            [script, *"".join(words).split()], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120
        )
        assert (shown.returncode, shown.stderr) == (0, "") and "\n\n" in shown.stdout


def test_an_installation_without_pages_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "FOLDER", tmp_path)
    done = explain("deadlock")
    assert done.exit_code == 1 and done.stderr.startswith("traceloop: ") and done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    command = f"{sys.executable} -m traceloop explain telemetry | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "What traceloop emits\n" and done.stderr == ""
