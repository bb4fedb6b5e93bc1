"""An asyncio event loop that records everything it does, and what turns that record into answers.

PYTEST_DONT_REWRITE: under `traceloop run -m pytest` this package is imported before pytest, which would warn of that.
"""

import os as _os
import sys as _sys

from .version import __version__ as __version__

__all__ = ("EventLoop", "install", "new_event_loop", "run", "start")

# Another distribution owns ``traceloop.sdk``: both must import side by side, from different folders too.
# ``pkgutil.extend_path`` does the same and brings in the regular expressions, ten times the cost of all this.
for _folder in _sys.path:
    _folder = _os.path.join(_folder, "traceloop")
    if _folder not in __path__ and _os.path.isdir(_os.path.join(_folder, "sdk")):
        __path__.append(_folder)

# In a checkout ``exporters/``, ``cli/`` and ``dashboards/`` lie beside this package; installed, they lie in
# it. See docs/decisions/0001-package-layout.md.
_checkout = _os.path.dirname(_os.path.dirname(_os.path.abspath(__file__)))
if _os.path.isfile(_os.path.join(_checkout, "exporters", "__init__.py")) and _os.path.isfile(
    _os.path.join(_checkout, "pyproject.toml")
):
    from .checkout import find_beside as _find_beside

    _find_beside(__name__, _checkout)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .api import install, new_event_loop, run, start
    from .loop.event_loop import EventLoop


def __getattr__(name: str) -> object:
    # On demand: a program that only wants `traceloop.sdk`, and the command's fast path, pays neither asyncio nor the
    # loop.
    if name == "EventLoop":
        from .loop.event_loop import EventLoop

        value: object = EventLoop
    elif name in __all__:
        from . import api

        value = getattr(api, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
