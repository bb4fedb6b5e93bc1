"""What the command refuses: one line, exit status 2, and no program was started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT
from traceloop.version import what_to_install


def traceloop(*words: str, folder: Path, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-m", "traceloop", *words],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT), **(environ or {})},
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_refused(result: subprocess.CompletedProcess[str], *texts: str) -> None:
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert result.stderr.startswith("traceloop: ") and result.stderr.count("\n") == 1, result.stderr
    for text in texts:
        assert text in result.stderr


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_no_program(tmp_path: Path) -> None:
    assert_refused(traceloop("run", folder=tmp_path), "what is to be run?", "traceloop run app.py")


def test_an_unknown_command_of_path(tmp_path: Path) -> None:
    assert_refused(traceloop("run", "nosuchcommand", folder=tmp_path), "no such command on PATH: nosuchcommand")


def test_a_rate_that_stands_apart_from_its_option(tmp_path: Path) -> None:
    result = traceloop("run", "--profile", "50", "x.py", folder=tmp_path)
    assert_refused(result, "no such command on PATH: 50; if that is the rate: --profile=50")


def test_a_missing_file_is_told_by_the_interpreter(tmp_path: Path) -> None:
    result = traceloop("run", "missing.py", folder=tmp_path)
    assert result.returncode == 2
    assert "can't open file" in result.stderr and result.stderr.count("\n") == 1


def test_an_option_out_of_range(tmp_path: Path) -> None:
    assert_refused(traceloop("run", "--slow-threshold", "-1", "x.py", folder=tmp_path), "--slow-threshold", "above 0")


def test_a_variable_out_of_range(tmp_path: Path) -> None:
    environ = {"OTEL_PYTHON_TRACELOOP_RING_SIZE": "3"}
    assert_refused(traceloop("run", "x.py", folder=tmp_path, environ=environ), "RING_SIZE", "64K to 4G")


def test_a_binary(tmp_path: Path) -> None:
    assert_refused(traceloop("run", "/bin/true", folder=tmp_path), "is a binary")


def test_a_script_of_another_language(tmp_path: Path) -> None:
    path = script(tmp_path / "tool", "#!/bin/bash\necho hi\n")
    assert_refused(traceloop("run", str(path), folder=tmp_path), "script for bash")


def test_an_interpreter_without_the_hook(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    (tmp_path / "app.py").write_text("print('ran')")
    environ = {"PYTHONPATH": ""}
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'traceloop'\n"
         "from traceloop.cli.main import main; main()", "run", python, "app.py"],
        cwd=tmp_path, env={**os.environ, **environ}, capture_output=True, text=True,
    )  # fmt: skip
    assert_refused(result, f"{python} -m pip install {what_to_install()}")


def test_a_console_script_of_another_environment(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    bin_folder = tmp_path / "bare" / "bin"
    script(bin_folder / "sometool", f"#!{bin_folder}/python\nprint('ran')\n")
    environ = {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'traceloop'\n"
         "from traceloop.cli.main import main; main()", "run", "sometool"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": "", **environ}, capture_output=True, text=True,
    )  # fmt: skip
    assert_refused(result, str(bin_folder / "python"), "pip install")


def test_the_first_error_is_told_before_anything_is_made(tmp_path: Path) -> None:
    before = (
        {name for name in os.listdir("/dev/shm") if name.startswith("traceloop-")}
        if os.path.isdir("/dev/shm")
        else set()
    )
    traceloop("run", "--spans", "none", "x.py", folder=tmp_path)
    after = (
        {name for name in os.listdir("/dev/shm") if name.startswith("traceloop-")}
        if os.path.isdir("/dev/shm")
        else set()
    )
    assert not {name for name in after - before if not os.listdir(f"/dev/shm/{name}")}


def test_unknown_command(tmp_path: Path) -> None:
    assert_refused(traceloop("runn", "x.py", folder=tmp_path), "runn")


def test_version_and_help(tmp_path: Path) -> None:
    import traceloop as package

    assert traceloop("--version", folder=tmp_path).stdout .startswith(f"traceloop {package.__version__} (")
    text = traceloop("run", "--help", folder=tmp_path).stdout
    for word in (
        "--slow-threshold",
        "--keep-uvloop",
        "OTEL_PYTHON_TRACELOOP_",
        "OTEL_SDK_DISABLED",
        "Exit status",
        "uvicorn",
    ):
        assert word in text
    assert "report" in traceloop("--help", folder=tmp_path).stdout


def test_a_metrics_port_that_was_asked_for_and_is_taken(tmp_path: Path) -> None:
    from traceloop.collector.errors import CollectorError
    from traceloop.collector.start_before_exec import start_before_exec
    from traceloop.settings import Settings

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(run_dir=str(tmp_path), metrics_port=port, metrics_port_required=True)
        with pytest.raises(CollectorError, match=f"{port}.*taken"):
            start_before_exec(settings)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["reprot"], "no such command: reprot; did you mean report?"),
        (["app.py"], "no such command: app.py; did you mean traceloop run app.py?"),
        (["xyz"], "no such command: xyz; see traceloop --help"),
    ],
)
def test_a_misspelt_command(words: list[str], expected: str, tmp_path: Path) -> None:
    result = traceloop(*words, folder=tmp_path)
    assert_refused(result, expected)


@pytest.mark.parametrize("words", [[], ["run"], ["top"], ["ps"], ["report"], ["tasks"], ["dashboards"], ["demo"]])
def test_every_command_has_a_short_option_for_its_help(words: list[str], tmp_path: Path) -> None:
    short, long = (traceloop(*words, option, folder=tmp_path) for option in ("-h", "--help"))
    assert (short.returncode, short.stderr) == (0, "")
    assert short.stdout == long.stdout and "Usage:" in short.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rnu", "app.py"], "no such command: rnu; did you mean run?"),
        (["tpo"], "did you mean top?"),
        (["nothing-like-it"], "no such command: nothing-like-it; see traceloop --help"),
        (["--verison"], "--version"),
        (["top", "--onec"], "--once"),
        (["dashboards", "exprot"], "export"),
        (["report"], "expected the folder of a record"),
        (["run", "--report", "--collector", "none", "-c", "1"], "with --collector none the record is not read"),
    ],
)
def test_what_is_misspelt_is_refused_in_one_line_with_what_was_meant(words: list[str], expected: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from traceloop.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert line.startswith("traceloop: ") and expected in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["report", "nosuch"], "RECORD: there is no folder nosuch; see traceloop report --help"),
        (["report", "file"], "RECORD: file is a file, and a folder is expected; see traceloop report --help"),
        (["report", os.devnull], f"RECORD: {os.devnull} is a file, and a folder is expected"),
        (["export", os.devnull, "--format", "otlp"], f"RECORD: {os.devnull} is a file, and a folder is expected"),
        (["diff", ".", os.devnull], f"B: {os.devnull} is a file, and a folder is expected"),
        (["report", "--jsn"], "no such option: --jsn; did you mean --json?"),
        (["report", "--json=1"], "--json takes no value"),
        (["report", ".", "--width"], "--width expects a value"),
        (["top", "--interval", "0"], "--interval: expected 0.1 or more, got 0.0; see traceloop top --help"),
        (["top", "--interval", "x"], "--interval: expected a number, got 'x'; see traceloop top --help"),
        (["top", "nosuch"], "nosuch is neither a PID nor a folder; `traceloop ps` lists what is traced"),
        (["ps", "extra"], "more than was expected: extra; see traceloop ps --help"),
        (["demo", "--port", "99999"], "--port: expected a number from 0 to 65535, got 99999"),
        (["dashboards", "exprt"], "no such command: exprt; did you mean export?"),
        (["dashboards", "export"], "DIRECTORY is missing; see traceloop dashboards export --help"),
        (["dashboards", "export", "file"], "DIRECTORY: file is a file, and a folder is expected"),
        (["export", ".", "--format", "xml"], "--format: expected one of perfetto, chrome, otlp, jsonl,"),
        (["diff", "file"], "A: file is a file, and a folder is expected; see traceloop diff --help"),
        (["export", "."], "--format is missing: expected one of perfetto, chrome, otlp, jsonl,"),
        (["completion"], "SHELL is missing: expected one of bash, zsh, fish; see traceloop completion --help"),
        (["completion", "tcsh"], "SHELL: expected one of bash, zsh, fish, got 'tcsh'"),
        (["check", "--max-callback", "fast", "--", "a.py"], "--max-callback: expected a duration above 0"),
    ],
)
def test_every_command_refuses_in_the_same_words(words: list[str], expected: str, tmp_path: Path) -> None:
    """click's sentences differ from ours, and with its version; one of them had four lines."""
    (tmp_path / "file").write_text("")
    assert_refused(traceloop(*words, folder=tmp_path), f"traceloop: {expected}")
