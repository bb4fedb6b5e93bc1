"""The one thing about the build that pyproject.toml cannot say everywhere: what is in C, where it can be built.

Everything else stands there. The extensions are optional: without a compiler, or without Python's headers, the package
is plain Python, and complete. See docs/decisions/0005-core-in-c.md, 0007-reader-in-c.md and
0009-packer-in-c.md.
"""

import os
import runpy
import sys
import sysconfig
from glob import glob

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# pyproject.toml names the licence as PEP 639 has it. pip, and `make native`, bring a setuptools that knows of it.
if int(setuptools.__version__.split(".")[0]) < 77:
    sys.exit(f"traceloop: setuptools 77 or newer is needed, not {setuptools.__version__}: pip install -U setuptools")

READER = os.path.join("traceloop", "reading", "decoding", "native")
# The event loop's core, the reader's, and the packer of spans: module, and the folder of its sources.
EXTENSIONS = {
    "traceloop.core._core": os.path.join("traceloop", "core", "native"),
    "traceloop.reading.decoding._reader": READER,
    "traceloop.exporters.otlp._packer": os.path.join("exporters", "otlp", "native"),
}
# Headers that they share: how a module is made, and the reader's rows.
SHARED = [os.path.join("traceloop", "record", "native"), READER]

# So that a module can be told from one that was built from other sources. By its path: the package is not to be
# imported while it is being built.
BUILT = runpy.run_path(os.path.join("traceloop", "record", "built.py"))

# The core polls epoll itself; all take doubles as they lie in memory, and rely on the GIL.
WANTED = (
    sys.platform == "linux"
    and sys.implementation.name == "cpython"
    and sys.byteorder == "little"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
)


class BuildWhatCanBeBuilt(build_ext):
    """Names only what it has built: an editable install copies all that is named, and fails where it is missing."""

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if os.path.exists(path)]

    def get_output_mapping(self) -> dict[str, str]:
        found = super().get_output_mapping().items()
        return {built: source for built, source in found if os.path.exists(built) or os.path.exists(source)}


setup(
    cmdclass={"build_ext": BuildWhatCanBeBuilt},
    ext_modules=[
        Extension(
            name,
            sorted(glob(os.path.join(sources, "*.c"))),
            depends=[header for folder in (sources, *SHARED) for header in glob(os.path.join(folder, "*.h"))],
            include_dirs=SHARED,
            define_macros=[("SOURCES", f'"{BUILT["fingerprint"](BUILT["sources_of"](sources, SHARED))}"')],
            # Doubles as Python has them: a product is rounded before it is added to anything.
            # Hidden: calls from one file to another need no look-up.
            extra_compile_args=["-O3", "-ffp-contract=off", "-fvisibility=hidden"],
            optional=True,
        )
        for name, sources in EXTENSIONS.items()
        if WANTED
    ],
)
