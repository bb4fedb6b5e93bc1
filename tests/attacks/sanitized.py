"""Runs a command of this interpreter's with the core in C built with AddressSanitizer and UBSan.

    python tests/attacks/sanitized.py -m pytest -q tests/core
    python tests/attacks/sanitized.py tests/conformance/run_cpython.py --python python3.11 test_futures

The extension is built anew into a temporary folder; the command, and every Python that it starts with this environment,
takes it in place of the one in the checkout. A report of a sanitizer ends the process that it is about (status 66), and
goes to a file: what there is of them is printed at the end, and is status 66 too.
"""

from __future__ import annotations

import glob
import os
import subprocess
import sys
import sysconfig
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCES = os.path.join(ROOT, "traceloop", "core", "native")
SHARED = os.path.join(ROOT, "traceloop", "record", "native")
FLAGS = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
STATUS = 66

#: Read by every interpreter at its start (site): the module of that name is the sanitized one.
SITE = """
import importlib.abc, importlib.util, os, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "traceloop.core._core":
            return importlib.util.spec_from_file_location(name, os.environ["SANITIZED_CORE"])

sys.meta_path.insert(0, Finder())
"""


def build(folder: str) -> str:
    """Builds the extension with the sanitizers; returns its path."""
    built = os.path.join(folder, f"_core{sysconfig.get_config_var('EXT_SUFFIX')}")
    include = sysconfig.get_paths()["include"]
    sources = sorted(glob.glob(os.path.join(SOURCES, "*.c")))
    headers = [f"-I{include}", f"-I{SHARED}"]
    command = ["gcc", *FLAGS, "-D_GNU_SOURCE", "-fPIC", "-shared", *headers, *sources, "-o", built, "-lm"]
    subprocess.run(command, check=True)
    return built


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        built = build(folder)
        with open(os.path.join(folder, "sitecustomize.py"), "w") as file:
            file.write(SITE)
        libraries = [
            subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
            for name in ("libasan.so", "libubsan.so")
        ]
        reports = os.path.join(folder, "report")
        # What the interpreter keeps until its end is not of interest; its own allocator would hide where a block ends.
        options = f"detect_leaks=0:allocator_may_return_null=1:exitcode={STATUS}:log_path={reports}"
        environ = os.environ | {
            "LD_PRELOAD": " ".join(map(str.strip, libraries)),
            "ASAN_OPTIONS": options,
            "UBSAN_OPTIONS": f"print_stacktrace=1:{options}",
            "PYTHONMALLOC": "malloc",
            "SANITIZED_CORE": built,
            "OTEL_PYTHON_TRACELOOP_CORE": "c",
            "PYTHONPATH": os.pathsep.join([folder, ROOT, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        }
        code = "from traceloop.core.choose import core; print(core().native.__file__)"
        used = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
        if used.stdout.strip() != built:
            print(f"the sanitized core is not what runs: {used.stdout}{used.stderr}", file=sys.stderr)
            return 2
        status = subprocess.run([sys.executable, *sys.argv[1:]], env=environ, check=False).returncode
        found = sorted(glob.glob(reports + ".*"))
        for path in found:
            with open(path) as file:
                print(file.read()[:20_000], file=sys.stderr)
    print(f"{len(found)} reports of the sanitizers", flush=True)
    return STATUS if found else status


if __name__ == "__main__":
    sys.exit(main())
