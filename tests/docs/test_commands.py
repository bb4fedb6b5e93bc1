"""Every command that the documentation shows: understood by the command line, and run where it can be."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from tests.helpers.differential import clean_environ
from tests.helpers.paths import ROOT
from traceloop.cli.group import COMMANDS, LazyGroup
from traceloop.cli.options import HelpRequested, parse
from traceloop.settings import Settings

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WORDS = "|".join([*COMMANDS, "--version"])
SHOWN = re.compile(rf"(?m)^\s*(?:\$ )?(traceloop (?:{WORDS})\b.*)$|`(traceloop (?:{WORDS})\b[^`]*)`")
# Stand-ins that pages use, and what takes their place. Folders are made for those that are one.
STAND_INS = {"[PID|RECORD]": "", "[OPTIONS]": "", "[ARGUMENTS]...": "", "PROGRAM": "app.py",
             "FORMAT": "jsonl", "FILE": "file", "DIRECTORY": "DIR",
             "--format F ": "--format jsonl ", "explain NAME": "explain spin"}  # fmt: skip
FOLDERS = ("RECORD", "DIR", "record", "monitoring")

APP = """
import asyncio, time
def load():
    time.sleep(0.15)
async def main():
    load()
    await asyncio.gather(*(asyncio.sleep(0.01) for _ in range(50)))
asyncio.run(main())
"""


def shown() -> list[str]:
    """The commands, each once, without comments and redirections."""
    found: dict[str, None] = {}
    for page in PAGES:
        for line, inline in SHOWN.findall(page.read_text("utf-8")):
            text = re.split(r"\s{2,}|\s#|\s>|; |\s\.\.\.$|\s…", " ".join(inline.split()) if inline else line)[0].strip()
            for name, value in STAND_INS.items():
                text = text.replace(name, value)
            text = re.sub(r"[\w-]+(\|[\w-]+)+", lambda match: match[0].rpartition("|")[2], text)  # one of several
            found.setdefault(re.sub(r" \[.*", "", text).strip())
    return sorted(found)


COMMANDS_SHOWN = shown()
# Those that need nothing but app.py and a record of it; they end by themselves.
RUNNABLE = re.compile(
    r"traceloop (--version|ps|explain [\w-]+|completion \w+|dashboards export .*"
    r"|(report|tasks|export) (RECORD|DIR|record)\b.*"
    r"|run (--report |--record \w+ |--html \S+ |--slow-threshold \S+ |--spans off )*app\.py( .*)?|run -c pass)$"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("commands")
    (made / "app.py").write_text(APP)
    for name in FOLDERS:
        (made / name).mkdir()
    return made


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS_SHOWN) > 40
    assert sum(bool(RUNNABLE.match(command)) for command in COMMANDS_SHOWN) > 15


@pytest.mark.parametrize("command", COMMANDS_SHOWN)
def test_the_command_line_understands(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    words = shlex.split(command)[1:]
    if words == ["--version"]:
        return
    if words[0] == "run":
        if len(words) == 2 and words[1].startswith("--"):
            return  # prose that names an option without its value and program
        try:
            _, program = parse(words[1:], Settings())
        except HelpRequested:
            return
        assert program or len(words) == 1 or "--spans" in words
        return
    if len(words) == 1 or words[1].startswith(("/", "--json")):
        assert words[0] in COMMANDS  # the command by its name; an example's path
        return
    for before, word in itertools.pairwise(words):
        if not word.startswith("-") and not before.startswith("-") and not os.path.exists(word):
            os.mkdir(word)  # a record, by whatever name the page gives it
    group: click.Group = LazyGroup("traceloop")
    context = click.Context(group)
    while True:
        name, found, rest = group.resolve_command(context, words)
        assert found is not None
        if not isinstance(found, click.Group):
            found.make_context(name or "", list(rest), parent=context)
            return
        group, words = found, list(rest)


@pytest.mark.slow
def test_the_commands_run(traced, folder: Path) -> None:
    """In the order of their kinds: what writes records before what reads them."""
    environ = clean_environ({"PATH": f"{traced.folder}/bin:{os.environ['PATH']}"})
    environ["OTEL_PYTHON_TRACELOOP_METRICS_PORT"] = "0"
    for name in ("RECORD", "DIR", "record"):
        command = [*traced.command, "--profile=200", "--record", name, "app.py"]
        subprocess.run(command, cwd=folder, env=environ, check=True)
    failed = []
    for command in filter(RUNNABLE.match, COMMANDS_SHOWN):
        words = shlex.split(command)
        done = subprocess.run(words, cwd=folder, env=environ, capture_output=True, text=True, timeout=120)
        if done.returncode:
            failed.append((command, done.stderr))
    assert not failed


@pytest.mark.slow
def test_the_first_run_says_what_its_page_says(traced, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "first-run.md").read_text()
    program = re.search(r"```python\n(.*?)```", text, re.S)
    assert program
    environ = clean_environ({"OTEL_PYTHON_TRACELOOP_METRICS": "false"})
    (tmp_path / "app.py").write_text(program[1])
    done = subprocess.run(
        [*traced.command, "--report", "app.py"], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert "app.py:6 in load_prices blocks the loop: it sleeps" in done.stderr, done.stderr
    (tmp_path / "app.py").write_text(
        program[1].replace(" load_prices()\n       ", " await asyncio.to_thread(load_prices)\n       ")
    )
    done = subprocess.run(
        [*traced.command, "--report", "app.py"], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert "load_prices blocks" not in done.stderr, done.stderr
