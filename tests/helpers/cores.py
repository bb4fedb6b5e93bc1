"""The event loop on each of its cores. The C one is there where it was built (in a checkout: `make native`)."""

from __future__ import annotations

import time
from typing import Any

from traceloop.core.accelerated import accelerated
from traceloop.core.choose import load_native
from traceloop.loop.event_loop import PythonEventLoop

CORES: dict[str, Any] = {"python": PythonEventLoop}

NATIVE, WHY_NOT = load_native()
if NATIVE is not None:
    CORES["c"] = accelerated(PythonEventLoop, NATIVE, vars(time))
