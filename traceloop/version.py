"""The version of the distribution, in one place: nothing below the package itself has to import its face."""

__version__ = "0.1.0"


def what_to_install() -> str:
    """What ``pip install`` is to be given, quoted for a shell, to put this traceloop into another environment.

    The folder or the wheel that this one was installed from (PEP 610's ``direct_url.json``), or the checkout that it
    runs in. ``PATH_OR_WHEEL`` where neither is there any more: no index has the package. Reads files; never raises.
    """
    import json
    import os
    import shlex
    from importlib import metadata
    from urllib.parse import unquote, urlsplit

    try:
        origin = json.loads(metadata.distribution("traceloop-eventloop").read_text("direct_url.json") or "{}")
        found = urlsplit(origin.get("url", ""))
        if found.scheme == "file" and os.path.exists(path := unquote(found.path)):
            return shlex.quote(path)
    except Exception:  # not installed, or its metadata is damaged
        pass
    checkout = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return shlex.quote(checkout) if os.path.isfile(os.path.join(checkout, "pyproject.toml")) else "PATH_OR_WHEEL"
