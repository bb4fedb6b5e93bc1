"""The one thing about the build that pyproject.toml cannot say everywhere: the C core, where it can be built.

Everything else stands there. The extension is optional: without a compiler, or without Python's headers, the package is
plain Python, and complete. See docs/decisions/0005-core-in-c.md.
"""

import os
import sys
import sysconfig
from glob import glob

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# pyproject.toml names the licence as PEP 639 has it. pip, and `make native`, bring a setuptools that knows of it.
if int(setuptools.__version__.split(".")[0]) < 77:
    sys.exit(f"traceloop: setuptools 77 or newer is needed, not {setuptools.__version__}: pip install -U setuptools")

SOURCES = os.path.join("traceloop", "core", "native")

# It polls epoll itself; it writes doubles as they lie in memory; it relies on the GIL.
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
            "traceloop.core._core",
            sorted(glob(os.path.join(SOURCES, "*.c"))),
            depends=glob(os.path.join(SOURCES, "*.h")),
            extra_compile_args=["-O3"],
            optional=True,
        )
    ]
    if WANTED
    else []
)
