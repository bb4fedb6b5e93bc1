"""`--find-blocking`: calls on the loop's thread that may block, by the interpreter's audit events."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest

from tests.helpers.cores import CORES
from tests.helpers.paths import ROOT

PREAMBLE = """
import asyncio, contextlib, json, os, pathlib, socket, sqlite3, subprocess, sys, threading, time
import traceloop
from traceloop.recording import blocking_calls, process

traceloop.install()
run = traceloop.start(find_blocking=True, metrics=False, spans="off")

def found():
    calls = blocking_calls.found_in(process.current_process())
    return sorted(
        [call.call, call.line, call.qualname, total.count, total.seconds, total.longest_s]
        for call, total in calls.totals.items()
    )
"""
HEIGHT = PREAMBLE.count("\n")
TIMED = sys.version_info >= (3, 12)


def run(code: str, found: str = "found()", **variables: str) -> tuple[list[list], str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code).lstrip("\n") + f"\nprint(json.dumps({found}))"],
        env={**environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    return [[row[0], row[1] - HEIGHT, *row[2:]] for row in rows], done.stderr


def test_every_kind_with_line_count_and_time() -> None:
    rows, _ = run("""
        server = socket.create_server(("127.0.0.1", 0))
        def read():
            return pathlib.Path("/etc/passwd").read_text()
        async def main():
            for _ in range(3):
                read()
                time.sleep(0.2)
                await asyncio.sleep(0)
            socket.create_connection(server.getsockname()).close()
            sqlite3.connect(":memory:").close()
            subprocess.run([sys.executable, "-S", "-c", "import time; time.sleep(0.2)"])
            import colorsys
        asyncio.run(main())
    """)
    by_call = {(call, line): rest for call, line, *rest in rows}
    assert by_call["open", 3][:2] == ["read", 3]
    assert by_call["time.sleep", 7][:2] == ["main", 3]
    for call, line in (
        ("socket.getaddrinfo", 9), ("socket.connect", 9), ("sqlite3.connect", 10), ("subprocess.Popen", 11),
        ("import", 12),
    ):  # fmt: skip
        assert by_call[call, line][:2] == ["main", 1], rows
    if TIMED:
        # Of the whole call in the application's line, and of nothing else.
        assert by_call["time.sleep", 7][2] >= 0.6 and by_call["time.sleep", 7][3] >= 0.2
        assert by_call["subprocess.Popen", 11][2] >= 0.2
        assert 0 < by_call["open", 3][2] < 0.6
    else:
        assert by_call["time.sleep", 7][3] == -1


def test_only_on_the_loops_thread_and_only_the_applications_own() -> None:
    rows, _ = run("""
        server = socket.create_server(("127.0.0.1", 0))
        def read():
            open("/etc/passwd").close()
            time.sleep(0.001)
        read()
        async def main():
            await asyncio.to_thread(read)
            thread = threading.Thread(target=read)
            thread.start()
            while thread.is_alive():
                await asyncio.sleep(0.001)
            process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", "")
            await process.wait()
            reader, writer = await asyncio.open_connection(*server.getsockname())
            writer.close()
            time.sleep(0)
        asyncio.run(main())
        read()
    """)
    assert [row[:2] for row in rows if row[0] != "time.sleep" or sys.version_info >= (3, 13)] == [], rows


@pytest.mark.parametrize("core", CORES)
def test_a_failure_of_ours_is_reported_once_and_one_of_the_programs_not(core: str) -> None:
    def errors(fault: str) -> str:
        rows, errors = run(
            f"""
            class Odd(socket.socket):
                def gettimeout(self):
                    raise ValueError("the program's own")
            server = socket.create_server(("127.0.0.1", 0))
            async def main():
                {fault}
                for _ in range(3):
                    Odd().connect(server.getsockname())
                    open("/etc/passwd").close()
            for _ in range(2):
                asyncio.run(main())
            run.stop()
            """,
            OTEL_PYTHON_TRACELOOP_CORE=core,
            found="[]",
        )
        assert rows == []
        return errors

    assert "calls that may block" not in errors("pass")
    reported = errors("blocking_calls.module_name = None")
    assert reported.count("traceloop: calls that may block could not be noted, and are missing") == 1, reported
    assert "TypeError: 'NoneType' object is not callable" in reported


def test_a_call_that_raises_has_a_time_too_and_nothing_is_changed() -> None:
    rows, errors = run("""
        def fail():
            socket.create_connection(("127.0.0.1", 1), timeout=5)
        def outer():
            try:
                fail()
            except OSError as error:
                return [frame.f_code.co_name for frame, _ in __import__("traceback").walk_tb(error.__traceback__)]
        def recurse(n):
            open("/etc/passwd").close()
            return n and recurse(n - 1)
        def produce():
            for _ in range(3):
                yield open("/etc/passwd").close()
        async def main():
            assert outer() == ["outer", "fail", "create_connection", "create_connection"], outer()
            recurse(4)
            list(produce())
            with contextlib.suppress(FileNotFoundError):
                open("/nowhere").close()
            await asyncio.sleep(0)
        asyncio.run(main())
        assert not blocking_calls._active._lasting
    """)
    assert errors.count("Traceback") == 0
    by_call = {(call, line): rest for call, line, *rest in rows}
    assert by_call["open", 9][1] == 5 and by_call["open", 13][1] == 3 and by_call["open", 19][1] == 1
    if TIMED:
        for line in {row[1] for row in rows}:
            assert max(row[5] for row in rows if row[1] == line) > 0, rows


def test_an_import_counts_once_with_all_that_it_does() -> None:
    rows, _ = run("""
        async def main():
            import mailbox
        asyncio.run(main())
    """)
    assert [row[:4] for row in rows] == [["import", 2, "main", 1]]


def test_places_are_bounded_and_a_damaged_hook_breaks_nothing() -> None:
    rows, errors = run("""
        blocking_calls._MAX_PLACES = 20
        code = "\\n".join("open('/etc/passwd').close()" for _ in range(30))
        async def main():
            exec(compile(code, "/app/many.py", "exec"))
            blocking_calls._active.note = None
            open("/etc/passwd").close()
        asyncio.run(main())
        assert blocking_calls._active.left_out == 10
    """)
    assert len(rows) == 20 and errors.count("Error: ") == 1 and "could not be noted" in errors


def test_several_threads_with_loops_in_the_same_code() -> None:
    rows, _ = run("""
        async def work():
            for _ in range(200):
                open("/etc/passwd").close()
                await asyncio.sleep(0)
        threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert not blocking_calls._active._lasting
    """)
    (row,) = rows
    assert row[:3] == ["open", 3, "work"]
    # Two threads may count at once: one of a million is lost where there is no GIL.
    assert 790 <= row[3] <= 800


def test_it_is_in_the_report(traced, tmp_path) -> None:
    (tmp_path / "app.py").write_text(
        "import asyncio, time\ndef load():\n    open(__file__).close()\n    time.sleep(0.02)\n"
        "async def main():\n    for _ in range(4): load()\n    await asyncio.sleep(0)\nasyncio.run(main())\n"
    )
    command = [*traced.command, "--no-metrics", "--report"]
    done = subprocess.run([*command, "--find-blocking", "app.py"], cwd=tmp_path, capture_output=True, text=True)
    table = done.stderr.partition("Calls that may block, made on the loop's thread")[2]
    assert re.search(r"__main__\.load \(app\.py:3\) +open +4 ", table), done.stderr
    assert re.search(r"__main__\.load \(app\.py:4\) +time\.sleep +4 +(\d+(\.\d+)? ms|-)", table), done.stderr
    done = subprocess.run([*command, "app.py"], cwd=tmp_path, capture_output=True, text=True)
    assert "may block" not in done.stderr


@pytest.mark.skipif(sys.version_info < (3, 12), reason="times come from sys.monitoring")
def test_beside_another_user_of_the_interpreters_monitoring() -> None:
    rows, _ = run("""
        for number in range(6):
            with contextlib.suppress(ValueError):
                sys.monitoring.use_tool_id(number, "another")
        async def main():
            open("/etc/passwd").close()
        asyncio.run(main())
    """)
    assert [row[:4] + row[5:] for row in rows] == [["open", 5, "main", 1, -1.0]]


def test_a_loop_made_before_a_fork_is_looked_at_in_the_child_whatever_the_parents_threads_held() -> None:
    rows, _ = run("""
        loop = asyncio.new_event_loop()
        calls = blocking_calls.found_in(process.current_process())
        held = threading.Event()
        def hold():
            with calls._lock:
                held.set()
                threading.Event().wait()
        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        async def main():
            open("/etc/passwd").close()
            await asyncio.sleep(0)
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            os._exit(0)
        loop.run_until_complete(main())
        print(json.dumps(found()), flush=True)
        os._exit(0)
    """)
    assert [row[:4] for row in rows] == [["open", 11, "main", 1]]
