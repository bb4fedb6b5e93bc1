"""Runs CPython's own tests of asyncio on the standard loop and on ours, and compares test by test.

    python tests/conformance/run_cpython.py [--python PYTHON] [--core c|python] [--jobs 2] [MODULE.Class.test ...]

Every module of ``test.test_asyncio`` runs in a process of its own with our loop in the place of the standard one
(see child.py). What does not pass there is run on the standard loop: if it passes on that, it has to pass on ours,
or to stand in expected.toml with the reason why it cannot. A test that fails is run once more alone before it
counts: some of CPython's tests depend on time. The last line is ``N passed, N failed``; the exit status is 1 if
something failed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import FIRST_COMPLETED
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OURS = "traceloop.loop.event_loop:EventLoop"
# Which core runs our loop, c or python; "" for the default.
CORE = ""
PASSED = ("ok", "expected failure")

LONG = {"test_ssl", "test_events", "test_subprocess", "test_tasks", "test_base_events"}
# Other platforms' loops, which no test of ours can reach here.
LEFT_OUT = {"test_windows_events", "test_windows_utils", "test_proactor_events"}

# A module of the standard library's tests that some distributions leave out (Debian: libpython3.13-testsuite, say).
_FIND_MODULES = """
import os, sys
print("%d.%d" % sys.version_info[:2])
try:
    import test.test_asyncio
except ImportError:
    sys.exit()
folder = os.path.dirname(test.test_asyncio.__file__)
print(*sorted(n[:-3] for n in os.listdir(folder) if n.startswith("test_") and n.endswith(".py")))
"""


def environment() -> dict[str, str]:
    paths = [path for path in (str(ROOT), os.environ.get("PYTHONPATH")) if path]
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(paths))
    if CORE:
        env["OTEL_PYTHON_TRACELOOP_CORE"] = CORE
    # The tests look at debug mode and at warnings themselves.
    for name in ("PYTHONASYNCIODEBUG", "PYTHONWARNINGS", "PYTHONDEVMODE"):
        env.pop(name, None)
    return env


def run_module(python: str, loop: list[str], module: str, only: list[str], timeout_s: float) -> dict[str, dict]:
    """Runs one module; ``loop``: the child's options for the loop, none for the standard one.

    Returns for each test its line of the child's output. Failing tests raise nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.jsonl")
        command = [python, str(HERE / "child.py"), module, out, "--timeout", str(timeout_s)]
        command += loop
        for name in only:
            command += ["--only", name]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_s + 30,
                check=False,
            )
            output, status = done.stdout.decode(errors="replace"), done.returncode
        except subprocess.TimeoutExpired as exc:
            output, status = (exc.stdout or b"").decode(errors="replace"), -9
        results: dict[str, dict] = {}
        started, ended = None, False
        if os.path.exists(out):
            for line in Path(out).read_text().splitlines():
                entry = json.loads(line)
                if "start" in entry:
                    started = entry["start"]
                elif "id" in entry:
                    results[entry["id"]] = entry
                    started = None
                else:
                    ended = True
        if started is not None:
            results[started] = {"id": started, "outcome": "hung or crashed", "detail": output[-6000:]}
        if not ended:
            name = f"test.test_asyncio.{module}"
            results[name] = {
                "id": name,
                "outcome": "ended early",
                "detail": f"status {status}\n{output[-3000:]}",
            }
        return {short(name): entry for name, entry in results.items()}


def short(name: str) -> str:
    return name.removeprefix("test.test_asyncio.")


def run_all(python: str, loop: list[str], chosen: dict[str, list[str]], jobs: int, timeout_s: float) -> dict[str, dict]:
    results: dict[str, dict] = {}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        # The longest first, so that no single one is waited for at the end.
        order = sorted(chosen, key=lambda name: name not in LONG)
        names = {pool.submit(run_module, python, loop, m, chosen[m], timeout_s): m for m in order}
        waiting = set(names)
        while waiting:
            done, waiting = concurrent.futures.wait(waiting, timeout=8, return_when=FIRST_COMPLETED)
            for future in done:
                results.update(future.result())
            ended = ", ".join(sorted(names[future] for future in done)) or "still running"
            print(f"  {'our' if loop else 'the standard'} loop: {ended} ({len(waiting)} to go)", flush=True)
    # Once more with nothing beside it: what fails then is no matter of time.
    again: dict[str, list[str]] = {}
    for name, entry in results.items():
        module, _, rest = name.partition(".")
        if entry["outcome"] not in (*PASSED, "skipped") and rest and "(" not in name:
            again.setdefault(module, []).append(rest)
    for module, tests in sorted(again.items()):
        for name, entry in run_module(python, loop, module, tests, timeout_s).items():
            if entry["outcome"] in PASSED:
                results[name] = entry
    return results


def load_expected(version: str, names: list[str]) -> dict[str, str]:
    """The tests that cannot pass on this version, each with its reason."""
    path = HERE / "expected.toml"
    listed: dict[str, str] = {}
    for entry in tomllib.loads(path.read_text())["expected"]:
        if version in entry.get("versions", [version]):
            for pattern in entry["tests"]:
                for name in fnmatch.filter(names, pattern):
                    listed[name] = entry["reason"]
    return listed


def baseline(
    python: str, chosen: dict[str, list[str]], ours: dict[str, dict], args: argparse.Namespace
) -> dict[str, dict]:
    """What the standard loop makes of the tests that do not pass on ours. The others need no comparison.

    A module whose process ended early on our loop is run whole: nobody knows which tests it would have had.
    """
    whole = {module for module in chosen if not any(name.partition(".")[0] == module for name in ours)}
    compared: dict[str, list[str]] = {}
    for name, entry in ours.items():
        if entry["outcome"] in PASSED:
            continue
        module, _, test = name.partition(".")
        if "(" in name:  # such as "setUpClass (test.test_asyncio.test_ssl.TestSSL)": none of its tests ran
            whole.add(name.partition("test_asyncio.")[2].partition(".")[0].rstrip(")"))
        elif not test:
            whole.add(module)
        else:
            compared.setdefault(module, []).append(test)
    compared.update((module, []) for module in whole)
    return run_all(python, [], compared, args.jobs, args.timeout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", help="modules, or module.Class, or module.Class.test")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--loop", default=OURS, help="module:Class (default: %(default)s)")
    parser.add_argument("--deep", action="store_true", help="replace the standard loop's base classes too")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=float, default=900, help="seconds a module may take (%(default)s)")
    parser.add_argument("--details", action="store_true", help="print the traceback of each failure")
    parser.add_argument("--core", choices=("c", "python"), default="", help="which core runs our loop")
    args = parser.parse_args()
    global CORE
    CORE = args.core
    if os.sep in args.python:
        # Each module runs in a folder of its own. Links stay: behind that of a virtual environment is another one.
        args.python = os.path.abspath(args.python)

    found = subprocess.run([args.python, "-c", _FIND_MODULES], capture_output=True, text=True, check=True).stdout
    version, *modules = found.split()
    if not modules:
        print(
            f"skipped: {args.python} comes without CPython's own tests (test.test_asyncio); "
            f"on Debian, apt-get install libpython{version}-testsuite"
        )
        return 0
    chosen: dict[str, list[str]] = {m: [] for m in modules if m not in LEFT_OUT}
    if args.tests:
        chosen = {}
        for name in args.tests:
            module, _, rest = name.partition(".")
            chosen.setdefault(module, []).extend([rest] if rest else [])

    began = time.monotonic()
    loop = ["--loop", args.loop, *(["--deep"] if args.deep else [])]
    ours = run_all(args.python, loop, chosen, args.jobs, args.timeout)
    standard = baseline(args.python, chosen, ours, args)

    passed = [n for n, e in ours.items() if e["outcome"] in PASSED]
    broken = sorted(n for n, e in standard.items() if e["outcome"] in PASSED and n not in passed)
    listed = load_expected(version, passed + broken)
    failed = [n for n in broken if n not in listed]
    for name in failed:
        entry = ours.get(name, {"outcome": "not run", "detail": ""})
        print(f"FAILED {name}: {entry['outcome']}")
        if args.details:
            print("    " + entry["detail"].replace("\n", "\n    "))
    for name, entry in ours.items():
        if entry["outcome"] in ("ended early", "hung or crashed"):
            print(f"{entry['outcome']}: {name}")
            if args.details:
                print("    " + entry["detail"].replace("\n", "\n    "))
    stale = [n for n in listed if n not in broken]
    for name in stale:
        print(f"listed in expected.toml, but passes: {name}")
    neither = sum(e["outcome"] not in PASSED for e in standard.values())
    print(
        f"Python {version}: {len(passed)} tests pass on our loop, {len(broken)} on the standard loop only "
        f"({len(broken) - len(failed)} of them are listed as impossible), {neither} on neither; "
        f"{time.monotonic() - began:.0f} s"
    )
    print(f"{len(passed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
