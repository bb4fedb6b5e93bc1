"""The standard library's modules whose private names this loop uses.

Names are looked up in these modules at each call instead of being imported: the tests of CPython and of other projects
replace `logger`, `socket`, `time`, `os` or `signal` there, and expect every loop to follow. Typeshed declares no
private names, so for the type checker the modules are `Any`.
"""

from __future__ import annotations

import asyncio.base_events
import asyncio.futures
import asyncio.selector_events
import asyncio.sslproto
import asyncio.unix_events
from typing import Any

base_events: Any = asyncio.base_events
futures: Any = asyncio.futures
selector_events: Any = asyncio.selector_events
sslproto: Any = asyncio.sslproto
unix_events: Any = asyncio.unix_events
