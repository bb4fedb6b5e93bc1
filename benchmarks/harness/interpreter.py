"""An interpreter with traceloop's startup hook, made of one that may not have it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@contextlib.contextmanager
def hooked(python: str) -> Iterator[str]:
    """The path of an interpreter that runs this checkout with its hook and sees the packages of ``python``.

    A virtual environment beside ``python``'s own, so that nothing has to be installed to measure a checkout.
    """
    code = "import sys, sysconfig; print(sysconfig.get_path('purelib')); print(*sys.path[1:], sep='\\n')"
    out = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    packages = [path for path in out[1:] if path.endswith(("site-packages", "dist-packages"))]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
        hooked_python = os.path.join(folder, "bin", "python")
        site = subprocess.run(
            [hooked_python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        with open(os.path.join(ROOT, "buildtools", "traceloop.pth")) as hook:
            lines = {"traceloop.pth": hook.read(), "checkout.pth": ROOT + "\n"}
        # Last in the alphabet: the checkout comes before what may be installed there.
        lines["zz_packages.pth"] = "".join(f"{path}\n" for path in packages)
        for name, text in lines.items():
            with open(os.path.join(site, name), "w") as file:
                file.write(text)
        yield hooked_python
