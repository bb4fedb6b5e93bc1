"""What `traceloop run` does beside running the program: what it says, what it makes, what it leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.differential import Outcome, clean_environ, notices, outcome
from tests.helpers.otlp_receiver import Receiver
from tests.helpers.traced import Traced
from tests.helpers.waiting import until

LOOP = """
import asyncio, os, sys
async def main():
    await asyncio.sleep(0.001)
    print(type(asyncio.get_running_loop()).__module__.partition(".")[0])
"""
RUN = LOOP + "asyncio.run(main())\n"


@pytest.fixture
def run_places(tmp_path: Path) -> list[Path]:
    return [place for place in (Path("/dev/shm"), tmp_path) if place.is_dir()]


def run(traced: Traced, folder: Path, text: str, *words: str, environ: dict[str, str] | None = None) -> Outcome:
    (folder / "app.py").write_text(text)
    return outcome([*traced.command, *words, "app.py"], folder, environ=environ)


def test_a_loop_is_traced_and_the_run_summed_up_in_the_last_line(traced: Traced, tmp_path: Path) -> None:
    result = run(traced, tmp_path, RUN, "--metrics-port", "0")
    assert (result.status, result.stdout) == (0, "traceloop\n")
    lines = result.stderr.splitlines()
    assert notices(result) == lines
    assert re.fullmatch(r"traceloop: page at http://localhost:(\d+)/, metrics at http://localhost:\1/metrics", lines[0])
    assert len(lines) == 2


def test_nothing_is_left_of_a_run_that_ended_well(traced: Traced, tmp_path: Path) -> None:
    result = run(traced, tmp_path, RUN + "print(os.environ['OTEL_PYTHON_TRACELOOP_RUN_DIR'])", "--no-metrics")
    folder = Path(result.stdout.split()[-1])
    until(lambda: not folder.exists())


def test_the_run_directory_is_the_owner_s_and_says_what_runs(traced: Traced, tmp_path: Path) -> None:
    text = LOOP + (
        "folder = os.environ['OTEL_PYTHON_TRACELOOP_RUN_DIR']\n"
        "print(oct(os.stat(folder).st_mode), open(folder + '/run.json').read())"
    )
    result = run(traced, tmp_path, text, "--no-metrics", "--slow-threshold", "app.*=2")
    mode, _, text = result.stdout.partition(" ")
    assert mode == "0o40700"
    description = json.loads(text)
    assert description["command"] == ["app.py"]
    assert description["settings"]["slow_patterns"] == [["app.*", 2.0]]
    assert description["directory"] == str(tmp_path)


@pytest.mark.parametrize("way", ["option", "variable", "thread"])
def test_the_slow_threshold_that_was_asked_for_is_in_force(traced: Traced, tmp_path: Path, way: str) -> None:
    slow = "import time; time.sleep(0.15); print(asyncio.get_running_loop().slow_callback_duration); print"
    text = LOOP.replace("print", slow)
    text += "asyncio.run(main())\n"
    for threshold, said in (("0.12", "1 slow callback; "), ("60", "no slow callbacks")):
        words, environ = ["--no-metrics"], {}
        if way == "variable":
            environ["OTEL_PYTHON_TRACELOOP_SLOW_THRESHOLD"] = threshold
        else:
            words += ["--slow-threshold", threshold, "--collector", "thread" if way == "thread" else "process"]
        result = run(traced, tmp_path, text, *words, environ=environ)
        # The program's own attribute is left alone.
        assert (result.status, result.stdout) == (0, "0.1\ntraceloop\n")
        assert said in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_PROMETHEUS_PORT", "OTEL_PYTHON_TRACELOOP_METRICS_PORT"])
def test_a_taken_port_is_refused_by_the_name_of_what_chose_it(variable: str, traced: Traced, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run(traced, tmp_path, RUN, environ={variable: port})
    assert result.status == 2
    assert f"the metrics port {port} on localhost is taken (" in result.stderr and variable in result.stderr
    assert ("--metrics-port" in result.stderr) == variable.startswith("OTEL_PYTHON")


def test_a_taken_port_that_was_asked_for_is_refused_before_the_program_starts(traced: Traced, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run(traced, tmp_path, RUN, "--metrics-port", str(port))
    assert (result.status, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1 and f"{port}" in result.stderr and "taken" in result.stderr


def test_the_default_port_taken_takes_another_and_says_so(traced: Traced, tmp_path: Path) -> None:
    try:
        taken = socket.create_server(("127.0.0.1", 9464))
    except OSError:
        taken = None  # by somebody else: just as well
    try:
        result = run(traced, tmp_path, RUN)
    finally:
        if taken is not None:
            taken.close()
    assert (result.status, result.stdout) == (0, "traceloop\n")
    told = r"port 9464 is taken; page at http://localhost:(\d+)/, metrics at http://localhost:\1/metrics"
    assert re.search(told, notices(result)[0])


def test_a_run_within_a_run_does_not_insist_on_the_port(traced: Traced, tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text(RUN)
    text = f"import subprocess, sys\nsys.exit(subprocess.run({[*traced.command, 'inner.py']!r}).returncode)"
    result = run(traced, tmp_path, text, "--metrics-port", "0")
    assert (result.status, result.stdout) == (0, "traceloop\n")


def test_the_sdk_disabled_runs_the_program_untraced(traced: Traced, tmp_path: Path) -> None:
    text = RUN + "print([name for name in os.environ if 'TRACELOOP' in name])"
    result = run(traced, tmp_path, text, environ={"OTEL_SDK_DISABLED": "true"})
    assert (result.status, result.stdout, result.stderr) == (0, "asyncio\n[]\n", "")


def test_a_report_of_a_program_that_runs_untraced_is_missed_in_one_line(traced: Traced, tmp_path: Path) -> None:
    result = run(traced, tmp_path, RUN, "--report", environ={"OTEL_SDK_DISABLED": "true"})
    assert (result.status, result.stdout) == (0, "asyncio\n")
    assert result.stderr == (
        "traceloop: OTEL_SDK_DISABLED is true: the program runs untraced, without a report or a record\n"
    )


def test_a_command_of_an_environment_that_is_not_activated_is_found(traced: Traced, tmp_path: Path) -> None:
    command = traced.folder / "bin" / "service-of-this-environment"
    command.write_text(f"{traced.first_line}{RUN}")
    command.chmod(0o755)
    try:
        words = [*traced.command, "--no-metrics", command.name]
        result = outcome(words, tmp_path, environ={"PATH": os.defpath})
        assert (result.status, result.stdout) == (0, "traceloop\n"), result.stderr
        # PATH comes first.
        other = tmp_path / command.name
        other.write_text(f"{traced.first_line}print('other')\n")
        other.chmod(0o755)
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        result = outcome(words, folder, environ={"PATH": f"{tmp_path}{os.pathsep}{os.defpath}"})
        assert (result.status, result.stdout) == (0, "other\n"), result.stderr
    finally:
        command.unlink()


@pytest.mark.parametrize("quoted", ['"{}"', "'{}'"])  # pip's launcher, and uv's
def test_a_command_of_an_environment_with_a_blank_in_its_path_is_run(
    traced: Traced, tmp_path: Path, quoted: str
) -> None:
    environment = tmp_path / "my projects"
    environment.symlink_to(traced.folder)
    folder = tmp_path / "commands"
    folder.mkdir()
    command = folder / "service-in-a-launcher"
    interpreter = quoted.format(environment / "bin" / "python")
    command.write_text(f"#!/bin/sh\n'''exec' {interpreter} \"$0\" \"$@\"\n' '''\n{RUN}")
    command.chmod(0o755)
    words = [*traced.command, "--no-metrics", command.name]
    result = outcome(words, tmp_path, environ={"PATH": f"{folder}{os.pathsep}{os.defpath}"})
    assert (result.status, result.stdout) == (0, "traceloop\n"), result.stderr
    command.write_text("#!/bin/sh\n'''exec' \"an end is missing\n")
    result = outcome(words, tmp_path, environ={"PATH": f"{folder}{os.pathsep}{os.defpath}"})
    assert result.status != 0 and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("print('ran')", [], "nothing was recorded: the program never imported asyncio"),
        ("print('ran')", ["--collector", "thread"], "nothing was recorded: the program never imported asyncio"),
        (
            "import asyncio; print('ran')",
            [],
            "nothing was recorded: the program imported asyncio and ran no event loop",
        ),
        (
            "import trio; trio.run(trio.sleep, 0.01); print('ran')",
            [],
            "nothing was recorded: traceloop traces asyncio, and the program has imported trio only",
        ),
        (
            "import asyncio\nfrom asyncio import selector_events\n"
            "loop = selector_events.BaseSelectorEventLoop(); loop.run_until_complete(asyncio.sleep(0)); print('ran')",
            [],
            "nothing was recorded: every event loop of the program ran untraced",
        ),
    ],
)
def test_a_program_without_a_loop_is_told_why(
    traced: Traced, tmp_path: Path, text: str, options: list[str], said: str
) -> None:
    if "trio" in text:
        pytest.importorskip("trio")
    result = run(traced, tmp_path, text, "--no-metrics", *options)
    assert result.stdout == "ran\n", result.stderr
    assert notices(result)[-1] == f"traceloop: {said}", result.stderr


def test_loops_of_children_alone_are_summed_up(traced: Traced, tmp_path: Path) -> None:
    text = (
        "import asyncio, os, sys\nfor _ in range(3):\n    if not os.fork():\n"
        "        asyncio.run(asyncio.sleep(0.01)); sys.exit()\nfor _ in range(3): os.wait()\n"
        # Until the collector has read them and let them go.
        "import time\nfolder = os.environ['OTEL_PYTHON_TRACELOOP_RUN_DIR']\n"
        "while any(name.startswith('p-') for name in os.listdir(folder)): time.sleep(0.01)\n"
    )
    result = run(traced, tmp_path, text, "--no-metrics")
    assert notices(result)[0].startswith("traceloop: 3 loops in 3 processes, "), result.stderr
    assert "nothing was recorded" not in result.stderr


def test_a_record_that_cannot_be_written_is_refused(traced: Traced, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(traced, tmp_path, RUN, "--record", "file/x")
    assert result.status == 2 and result.stdout == "" and "--record" in result.stderr


def test_no_children(traced: Traced, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(RUN)
    text = RUN + (
        "import subprocess\nsys.stdout.flush(); subprocess.run([sys.executable, 'child.py'])\n"
        "if not os.fork():\n    asyncio.run(main()); sys.exit()\nos.wait()"
    )
    assert run(traced, tmp_path, text, "--no-metrics", "--no-children").stdout.split() == [
        "traceloop", "asyncio", "asyncio",
    ]  # fmt: skip
    assert run(traced, tmp_path, text, "--no-metrics").stdout.split() == ["traceloop"] * 3


def test_uvloop_is_stood_in_for_with_one_notice(traced: Traced, tmp_path: Path) -> None:
    pytest.importorskip("uvloop")
    text = LOOP + (
        "import uvloop\nuvloop.run(main())\nwith asyncio.Runner(loop_factory=uvloop.new_event_loop) as r:\n"
        "    r.run(main())\nloop = uvloop.Loop(); loop.run_until_complete(main()); loop.close()\n"
        "assert isinstance(loop, uvloop.Loop)\n"
        "import subprocess\nif len(sys.argv) < 2: sys.stdout.flush(); subprocess.run([sys.executable, 'app.py', 'x'])"
    )
    result = run(traced, tmp_path, text, "--no-metrics")
    assert result.status == 0, result.stderr
    assert result.stdout.split() == ["traceloop"] * 6
    assert len([line for line in notices(result) if "uvloop" in line]) == 1


def test_keep_uvloop_keeps_it_and_says_that_it_ran_untraced(traced: Traced, tmp_path: Path) -> None:
    pytest.importorskip("uvloop")
    result = run(traced, tmp_path, LOOP + "import uvloop\nuvloop.run(main())", "--no-metrics", "--keep-uvloop")
    assert (result.status, result.stdout) == (0, "uvloop\n")
    assert any("untraced" in line and "uvloop.Loop" in line for line in notices(result))


def test_a_loop_class_of_the_program_s_own_is_left_alone_and_told(traced: Traced, tmp_path: Path) -> None:
    text = LOOP + (
        "class Mine(asyncio.selector_events.BaseSelectorEventLoop): pass\n"
        "with asyncio.Runner(loop_factory=Mine) as runner: runner.run(main())"
    )
    result = run(traced, tmp_path, text, "--no-metrics")
    assert result.stdout == "__main__\n"
    assert any("untraced" in line and "__main__.Mine" in line for line in notices(result))


@pytest.mark.parametrize(
    "way",
    [
        "asyncio.run(main())",
        "asyncio.Runner().run(main())",
        "asyncio.new_event_loop().run_until_complete(main())",
        "asyncio.SelectorEventLoop().run_until_complete(main())",
        "asyncio.Runner(loop_factory=asyncio.SelectorEventLoop).run(main())",
        "from asyncio.unix_events import SelectorEventLoop as S; S().run_until_complete(main())",
        "import threading; t = threading.Thread(target=asyncio.run, args=(main(),)); t.start(); t.join()",
        "class P(type(asyncio.get_event_loop_policy())): pass\nasyncio.set_event_loop_policy(P()); asyncio.run(main())",
        "asyncio.set_event_loop_policy(None); asyncio.run(main())",
        "class L(asyncio.SelectorEventLoop): pass\nassert L.__mro__[1].__module__.startswith('traceloop')\n"
        "asyncio.run(main())",
    ],
)
def test_every_way_of_making_a_loop(way: str, traced: Traced, tmp_path: Path) -> None:
    result = run(traced, tmp_path, LOOP + way, "--no-metrics", environ={"PYTHONWARNINGS": "ignore"})
    assert (result.status, result.stdout) == (0, "traceloop\n"), result.stderr


def test_the_program_s_output_ends_with_the_program(traced: Traced, tmp_path: Path) -> None:
    """Nobody who reads it to its end waits for the collector, whose spans nobody takes here."""
    (tmp_path / "app.py").write_text(RUN)
    receiver = Receiver(lambda number: "hang")
    process = subprocess.Popen(
        [*traced.command, "--exit-timeout", "0", "--no-metrics", "--otlp-endpoint", receiver.url, "app.py"],
        cwd=tmp_path,
        env=clean_environ({"OTEL_EXPORTER_OTLP_TIMEOUT": "600000"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = process.communicate(timeout=120)
    finally:
        receiver.close()
    assert b"traceloop\n" in output
    assert b"the last records were not read within 0 s: the summary may be missing" in output


# Its end lasts until the collector has written the summary: it frees very much, say.
SLOW_END = """
import asyncio, os, sys, time

class Late:
    def __del__(self, stat=os.stat, sleep=time.sleep, path=os.environ["OTEL_PYTHON_TRACELOOP_RUN_DIR"]):
        for _ in range(6000):
            try:
                stat(path + "/summary.txt")
                return
            except OSError:
                sleep(0.01)

sys.late = Late()
asyncio.run(asyncio.sleep(0))
"""


@pytest.mark.parametrize("stderr", ["a pipe", "a file"])
def test_the_report_comes_though_the_program_did_not_wait_for_it(traced: Traced, tmp_path: Path, stderr: str) -> None:
    (tmp_path / "app.py").write_text(SLOW_END)
    with open(tmp_path / "stderr", "w+b") as file:
        process = subprocess.run(
            [*traced.command, "--exit-timeout", "0", "--no-metrics", "--report", "app.py"],
            cwd=tmp_path,
            env=clean_environ(),
            stderr=subprocess.PIPE if stderr == "a pipe" else file,
            timeout=120,
            check=True,
        )
        file.seek(0)
        output = (process.stderr or b"") + file.read()
    assert output.count(b"Process 0") == 1, output


def test_interpreters_outside_a_run_know_nothing_of_us(traced: Traced) -> None:
    code = (
        "import sys, asyncio; print([n for n in sys.modules if n.startswith('traceloop')], asyncio.SelectorEventLoop)"
    )
    result = subprocess.run(
        [traced.python, "-c", code], env=clean_environ(), capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("[] <class 'asyncio.unix_events._UnixSelectorEventLoop'>")


def test_the_environment_of_a_run_that_is_over_starts_nothing(traced: Traced, tmp_path: Path) -> None:
    environ = clean_environ({"OTEL_PYTHON_TRACELOOP_RUN_DIR": str(tmp_path / "gone")})
    result = subprocess.run(
        [traced.python, "-c", RUN], env=environ, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert (result.stdout, result.stderr) == ("asyncio\n", "")


def test_a_bad_variable_in_a_child_is_told_and_the_default_stands(traced: Traced, tmp_path: Path) -> None:
    text = RUN + (
        "import subprocess\nif len(sys.argv) < 2:\n    sys.stdout.flush()\n"
        "    env = {**os.environ, 'OTEL_PYTHON_TRACELOOP_SPANS': 'some'}\n"
        "    subprocess.run([sys.executable, 'app.py', 'x'], env=env)"
    )
    result = run(traced, tmp_path, text, "--no-metrics")
    assert result.stdout == "traceloop\n" * 2
    assert any("SPANS: expected" in line for line in notices(result))


def test_an_exec_keeps_the_run(traced: Traced, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(RUN)
    text = RUN + "sys.stdout.flush(); os.execv(sys.executable, [sys.executable, 'other.py'])"
    result = run(traced, tmp_path, text, "--no-metrics")
    assert (result.status, result.stdout) == (0, "traceloop\n" * 2)
    assert len(notices(result)) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_that_is_stopped_is_summed_up(number: signal.Signals, traced: Traced, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        LOOP + "async def serve():\n    print('up', flush=True); await asyncio.sleep(60)\nasyncio.run(serve())"
    )
    result = outcome([*traced.command, "--no-metrics", "app.py"], tmp_path, interrupt=number)
    assert result.status == -number
    assert len(notices(result)) == 1


def test_the_question_for_the_hook_imports_nothing_from_the_current_folder(traced: Traced, tmp_path: Path) -> None:
    """Another interpreter is asked whether it has the hook; a folder called traceloop was taken for the package."""
    (tmp_path / "traceloop").mkdir()
    (tmp_path / "traceloop" / "__init__.py").write_text("open('imported', 'w')\nraise SystemExit('a stranger ran')\n")
    # The tests' own interpreter may well have traceloop installed; an environment of its own has not.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    bare = str(tmp_path / "bare" / "bin" / "python")
    result = run(traced, tmp_path, RUN, "--no-metrics", bare)
    assert (result.status, result.stdout) == (2, ""), result.stderr
    assert f"traceloop is not installed for {bare}" in result.stderr
    assert not (tmp_path / "imported").exists()


def test_a_script_for_uv_is_run_as_python_runs_it(traced: Traced, tmp_path: Path) -> None:
    result = run(traced, tmp_path, "#!/usr/bin/env -S uv run --script\n" + RUN, "--no-metrics")
    assert (result.status, result.stdout) == (0, "traceloop\n"), result.stderr


@pytest.mark.parametrize("shown", [False, True])
def test_secrets_of_arguments_and_addresses_stay_out(shown: bool, traced: Traced, tmp_path: Path) -> None:
    text = LOOP + (
        "import glob\n"
        "async def work():\n"
        "    folder = os.environ['OTEL_PYTHON_TRACELOOP_RUN_DIR']\n"
        "    for path in glob.glob(folder + '/*.json') + glob.glob(folder + '/p-*/*.json'):\n"
        "        print(open(path).read())\n"
        "asyncio.run(work())"
    )
    (tmp_path / "app.py").write_text(text)
    words = ["--no-metrics", "--report", *(["--command-arguments"] if shown else [])]
    # Nothing listens there: the spans' loss is reported with the address.
    endpoint = ["--otlp-endpoint", "http://alice:hunter2@127.0.0.1:9/v1?token=hunter2"]
    program = ["app.py", "--password", "swordfish", "postgres://bob:hunter2@db/x?key=hunter2#hunter2"]
    result = outcome([*traced.command, *words, *endpoint, *program], tmp_path)
    assert result.status == 0, result.stderr
    assert "hunter2" not in result.stdout + result.stderr
    assert "app.py" in result.stdout
    assert ("swordfish" in result.stdout) == shown and (shown or "swordfish" not in result.stderr)
    if shown:
        assert "postgres://***@db/x?***" in result.stdout
