"""An asyncio event loop that records everything it does, and what turns that record into answers."""

import os as _os
from pkgutil import extend_path as _extend_path

# Another distribution owns ``traceloop.sdk``: both must import side by side.
__path__ = _extend_path(__path__, __name__)

# In a checkout ``exporters/``, ``cli/`` and ``dashboards/`` lie beside this package; installed, they lie in it.
# See docs/decisions/0001-package-layout.md.
_checkout = _os.path.dirname(_os.path.dirname(_os.path.abspath(__file__)))
if _os.path.isfile(_os.path.join(_checkout, "exporters", "__init__.py")) and _os.path.isfile(
    _os.path.join(_checkout, "pyproject.toml")
):
    __path__.append(_checkout)
