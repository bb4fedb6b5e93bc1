"""Runs a command of this interpreter's with all that is in C built with AddressSanitizer and UBSan.

    python tests/attacks/sanitized.py -m pytest -q tests/core
    python tests/attacks/sanitized.py tests/conformance/run_cpython.py --python python3.11 test_futures

The extensions (the loop's core, the reader, the packer of spans) are built anew into a temporary folder; the command,
and every Python that it starts with this environment, takes them in place of those in the checkout. A report of a
sanitizer ends the process that it is about (status 66), and goes to a file: what there is of them is printed at the
end, and is status 66 too. ``ASAN_OPTIONS`` of the environment come after those that are set here.

``--quick`` before the command checks only the memory that the extensions ask for as such, and leaves Python's objects
to Python's own allocator: three times as fast, but blind to a reference that is given back once too often.
"""

from __future__ import annotations

import glob
import os
import subprocess
import sys
import sysconfig
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
READER = "traceloop/reading/decoding/native"
#: Module, and the folder of its sources, as in setup.py.
EXTENSIONS = {
    "traceloop.core._core": "traceloop/core/native",
    "traceloop.reading.decoding._reader": READER,
    "traceloop.exporters.otlp._packer": "exporters/otlp/native",
}
SHARED = ("traceloop/record/native", READER)
FLAGS = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
FLAGS += ["-D_GNU_SOURCE", "-ffp-contract=off", "-fPIC", "-shared"]
#: Such memory comes from malloc, whatever allocator the interpreter has.
QUICK = [f"-DPyMem_{name}=PyMem_Raw{name}" for name in ("Malloc", "Calloc", "Realloc", "Free")]
STATUS = 66

#: Read by every interpreter at its start (site): the modules of these names are the sanitized ones.
SITE = """
import importlib.abc, importlib.util, os, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        path = os.path.join(os.environ["SANITIZED"], name)
        if os.path.exists(path):
            return importlib.util.spec_from_file_location(name, path, loader=Loader(name, path))

Loader = importlib.machinery.ExtensionFileLoader
sys.meta_path.insert(0, Finder())
"""
WHICH = """
from traceloop.core import choose as loops
from traceloop.exporters.otlp import packing
from traceloop.reading.decoding import choose as readers
for module in (loops.core().native, readers.native(), packing.native_packer()):
    print(module and module.__file__)
"""


def build(folder: str, *flags: str) -> None:
    """Builds the extensions with the sanitizers; each is a file with the module's name."""
    includes = [sysconfig.get_paths()["include"], *(os.path.join(ROOT, each) for each in SHARED)]
    for name, sources in EXTENSIONS.items():
        files = sorted(glob.glob(os.path.join(ROOT, sources, "*.c")))
        options = [f"-I{include}" for include in includes]
        subprocess.run(["gcc", *FLAGS, *flags, *options, *files, "-o", os.path.join(folder, name), "-lm"], check=True)


def main() -> int:
    quick = sys.argv[1:2] == ["--quick"]
    command = sys.argv[2 if quick else 1 :]
    with tempfile.TemporaryDirectory() as folder:
        build(folder, *(QUICK if quick else ()))
        with open(os.path.join(folder, "sitecustomize.py"), "w") as file:
            file.write(SITE)
        libraries = [
            subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
            for name in ("libasan.so", "libubsan.so")
        ]
        reports = os.path.join(folder, "report")
        # What the interpreter keeps until its end is not of interest; its own allocator would hide where a block ends.
        # At a thread's end AddressSanitizer frees the thread's alternate signal stack as though it were its own; in the
        # thread that enables faulthandler it is faulthandler's ("failed to deallocate 0x41f0", in plain Python too).
        options = f"detect_leaks=0:allocator_may_return_null=1:use_sigaltstack=0:exitcode={STATUS}:log_path={reports}"
        environ = os.environ | {
            "LD_PRELOAD": " ".join(map(str.strip, libraries)),
            "ASAN_OPTIONS": f"{options}:{os.environ.get('ASAN_OPTIONS', '')}",
            "UBSAN_OPTIONS": f"print_stacktrace=1:{options}",
            "PYTHONMALLOC": "pymalloc" if quick else "malloc",
            "SANITIZED": folder,
            "OTEL_PYTHON_TRACELOOP_CORE": "c",
            "PYTHONPATH": os.pathsep.join([folder, ROOT, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        }
        used = subprocess.run([sys.executable, "-c", WHICH], env=environ, capture_output=True, text=True, check=False)
        if used.stdout.split() != [os.path.join(folder, name) for name in EXTENSIONS]:
            print(f"not all that runs is sanitized: {used.stdout}{used.stderr}", file=sys.stderr)
            return 2
        status = subprocess.run([sys.executable, *command], env=environ, check=False).returncode
        found = sorted(glob.glob(reports + ".*"))
        for path in found:
            with open(path) as file:
                print(file.read()[:20_000], file=sys.stderr)
    print(f"{len(found)} reports of the sanitizers", flush=True)
    return STATUS if found else status


if __name__ == "__main__":
    sys.exit(main())
