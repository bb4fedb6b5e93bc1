"""The one thing about the build that pyproject.toml cannot say everywhere: the C core, where it can be built.

Everything else stands there. The extension is optional: without a compiler, or without Python's headers, the package is
plain Python, and complete. See docs/decisions/0010-core-in-c.md.
"""

import os
import sys
import sysconfig
from glob import glob

from setuptools import Extension, setup

SOURCES = os.path.join("traceloop", "core", "native")

# It polls epoll itself; it writes doubles as they lie in memory; it relies on the GIL.
WANTED = (
    sys.platform == "linux"
    and sys.implementation.name == "cpython"
    and sys.byteorder == "little"
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
)

setup(
    ext_modules=[
        Extension(
            "traceloop.core._core",
            sorted(glob(os.path.join(SOURCES, "*.c"))),
            depends=glob(os.path.join(SOURCES, "*.h")),
            extra_compile_args=["-O3", *os.environ.get("TRACELOOP_CFLAGS", "").split()],
            optional=True,
        )
    ]
    if WANTED
    else []
)
