"""What a slow callback did, concluded from its stack: slept, waited for the network, imported, computed JSON, ...

A stack has Python frames only. The source line of the innermost frame shows which C function was called
(``time.sleep``, ``socket.recv``), if the file can be read. The line is matched and never shown, because a record may
come from another machine, and may name any file of this one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from ...record.frames import Frame, is_application, is_library
from ..source_lines import source_line

# Frames within the application's innermost one that are looked at, from the inside.
_DEPTH: Final = 40


class BlockingKind(NamedTuple):
    """One kind of slow callback. ``does`` continues "X blocks the loop: it ..."; ``remedy``: what to do."""

    name: str
    does: str
    remedy: str


def _kind(name: str, does: str, remedy: str) -> BlockingKind:
    return BlockingKind(name, does, remedy)


_ALL: Final = (
    _kind(
        "sleep",
        "it sleeps",
        "Use `await asyncio.sleep(...)`; in a synchronous function, `await asyncio.to_thread(function)`.",
    ),
    _kind(
        "dns",
        "it looks up a host name",
        "Use `await loop.getaddrinfo(...)` or an asynchronous client; keep connections open so that look-ups are rare.",
    ),
    _kind(
        "tls-context",
        "it loads certificates for a TLS context",
        "Make one `ssl.SSLContext` (or one client session) when the program starts, and share it.",
    ),
    _kind(
        "socket",
        "it waits for the network",
        "Use an asynchronous client (httpx.AsyncClient, aiohttp, asyncio.open_connection) with a timeout, or "
        "`await asyncio.to_thread(call)`.",
    ),
    _kind(
        "database",
        "it waits for a database",
        "Use an asynchronous driver (asyncpg, psycopg.AsyncConnection, aiosqlite, redis.asyncio), or "
        "`await asyncio.to_thread(query)`.",
    ),
    _kind(
        "subprocess",
        "it waits for a child process",
        "Use `await asyncio.create_subprocess_exec(...)` and `await process.communicate()`.",
    ),
    _kind(
        "logging",
        "a logging handler writes",
        "Log through `logging.handlers.QueueHandler` with a `QueueListener`, which writes in a thread of its own.",
    ),
    _kind(
        "import",
        "it imports modules",
        "Import at the top of the module, so that it happens before the loop starts. What a library imports when it is "
        "first used, import when the program starts.",
    ),
    _kind(
        "lock",
        "it waits for a lock or for another thread",
        "Between tasks use `asyncio.Lock`; for a thread's result `await asyncio.wrap_future(future)`; hold a "
        "lock that threads share for a short time only, or take it in `asyncio.to_thread`.",
    ),
    _kind(
        "itself",
        "it waits for itself",
        "The loop cannot do what it waits for. `await` it instead of waiting in the callback: the coroutine itself, an "
        "asynchronous client for a server of the same process, `asyncio.Lock` for what tasks share across an `await`; "
        "what must wait belongs in a thread (`await asyncio.to_thread(call)`).",
    ),
    _kind(
        "file",
        "it reads or writes files",
        "Do it in a thread: `await asyncio.to_thread(path.read_bytes)`.",
    ),
    _kind("json", "it parses or writes JSON", "Use smaller documents, a faster library (orjson), or a process pool."),
    _kind(
        "regex",
        "it matches a regular expression",
        "Rewrite the expression so that it cannot backtrack without end (no nested repeats; atomic groups), "
        "and limit the length of its input.",
    ),
    _kind(
        "hashing",
        "it hashes, signs or encrypts",
        "`await asyncio.to_thread(hash, data)`: hashlib, bcrypt and argon2 release the GIL while they work.",
    ),
    _kind(
        "compression",
        "it compresses or decompresses",
        "`await asyncio.to_thread(compress, data)`: zlib, bz2 and lzma release the GIL while they work.",
    ),
    _kind("pickle", "it pickles or copies objects", "Copy less; large objects belong in a process pool or a file."),
    _kind(
        "cpu",
        "it computes",
        "Move the computation to a process pool (`loop.run_in_executor(ProcessPoolExecutor(), function)`), or cut it "
        "into pieces with `await asyncio.sleep(0)` between them.",
    ),
    _kind(
        "waiting",
        "it waits, off the processor",
        "Look at the line for a call that waits; use its asynchronous twin or `await asyncio.to_thread(call)`.",
    ),
    _kind(
        "unknown",
        "it runs for too long",
        "Look at what it calls: what waits belongs in `asyncio.to_thread`, what computes in a process pool.",
    ),
)
KINDS: Final = {kind.name: kind for kind in _ALL}
# Uvicorn, with and without --workers and --reload, imports the application within its loop: the imports are at the top
# of the module already.
_IMPORTED: Final = _kind(
    "import",
    "it is imported while the loop runs",
    "A library imports it, such as a server at its start: this happens once. To shorten it, look for the slow imports "
    "with `python -X importtime`.",
)

# By the module of a frame (the longest prefix of dotted parts), inside of the application's frame.
_MODULES: Final = {
    "time": "sleep",
    "ssl": "socket",
    "socket": "socket",
    "http.client": "socket",
    "urllib.request": "socket",
    "urllib3": "socket",
    "requests": "socket",
    "httpx": "socket",
    "httpcore": "socket",
    "smtplib": "socket",
    "ftplib": "socket",
    "boto3": "socket",
    "botocore": "socket",
    "grpc": "socket",
    "websocket": "socket",
    "selectors": "socket",
    "sqlite3": "database",
    "psycopg": "database",
    "psycopg2": "database",
    "pymysql": "database",
    "MySQLdb": "database",
    "mysql": "database",
    "pymongo": "database",
    "redis": "database",
    "sqlalchemy": "database",
    "django.db": "database",
    "peewee": "database",
    "subprocess": "subprocess",
    "pexpect": "subprocess",
    "ptyprocess": "subprocess",
    "logging": "logging",
    "importlib": "import",
    "threading": "lock",
    "queue": "lock",
    "concurrent.futures": "lock",
    "multiprocessing": "lock",
    "pathlib": "file",
    "shutil": "file",
    "tempfile": "file",
    "fileinput": "file",
    "json": "json",
    "re": "regex",
    "hashlib": "hashing",
    "bcrypt": "hashing",
    "passlib": "hashing",
    "argon2": "hashing",
    "cryptography": "hashing",
    "jwt": "hashing",
    "jose": "hashing",
    "nacl": "hashing",
    "Crypto": "hashing",
    "gzip": "compression",
    "zipfile": "compression",
    "tarfile": "compression",
    "bz2": "compression",
    "lzma": "compression",
    "copy": "pickle",
    "pickle": "pickle",
}

# By the source line of the innermost frame, in this order: what it calls in C.
_LINES: Final = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("sleep", r"\bsleep\s*\("),
        ("dns", r"\b(getaddrinfo|gethostby\w+|getnameinfo|getfqdn)\s*\("),
        (
            "tls-context",
            r"\b(create_default_context|load_default_certs|load_verify_locations)\s*\(",
        ),
        ("subprocess", r"\b(os\.(system|popen|wait\w*|fork\w*|posix_spawn\w*)|subprocess\.\w+|waitpid)\s*\("),
        ("database", r"\.(execute|executemany|executescript|commit|rollback|fetchall|fetchone|fetchmany)\s*\("),
        ("socket", r"\.(recv\w*|send\w*|accept|connect|connect_ex|do_handshake|makefile)\s*\(|\bselect\.\w+\s*\("),
        ("socket", r"\b(create_connection|urlopen|requests\.\w+|httpx\.\w+)\s*\("),
        ("lock", r"\.(acquire|result|join|wait)\s*\(|\bwith\s+[\w.]*(lock|mutex|sem|cond)\w*\b"),
        ("json", r"\bjson\.(loads?|dumps?)\s*\("),
        ("regex", r"\b(re|regex)\.\w+\s*\(|\.(match|fullmatch|search|findall|finditer|sub)\s*\("),
        ("hashing", r"\b(hashlib|hmac|bcrypt|scrypt|pbkdf2\w*|argon2)\b"),
        ("compression", r"\b(zlib|gzip|bz2|lzma|zstd|brotli)\.\w+\s*\("),
        ("pickle", r"\b(pickle\.\w+|marshal\.\w+|deepcopy)\s*\("),
        (
            "file",
            r"\bopen\s*\(|\.(read|readlines?|readinto|write|writelines|flush|(read|write)_(text|bytes))\s*\(",
        ),
        (
            "file",
            r"\bos\.(listdir|scandir|walk|stat|f\w*sync|remove|unlink|rename|replace|read|write)\s*\(",
        ),
        ("import", r"^\s*(import|from)\s|\bimport_module\s*\(|\b__import__\s*\("),
    )
)
#: What only computes, in C: a thread that is off the processor there was kept from it.
COMPUTE: Final = frozenset(("json", "regex", "hashing", "compression", "pickle"))
# Kinds that a callback which computes may have. The other kinds wait, which takes no CPU time.
_COMPUTING: Final = COMPUTE | {"import", "tls-context", "logging"}


def kind_of(frames: Sequence[Frame], cause: str) -> BlockingKind:
    """The kind of a slow callback. ``frames``: outermost first. ``cause``: of ``causes``, "" if not measured."""
    name = _kind_by_names(frames)
    if cause == "cpu":
        # A run that computes inside a database driver, or in code for files, does not wait for it.
        name = name if name in _COMPUTING else "cpu"
    elif not name:
        name = "waiting" if cause == "off_cpu" else "unknown"
    return _IMPORTED if name == "import" and _is_imported_by_library(frames) else KINDS[name]


def _is_imported_by_library(frames: Sequence[Frame]) -> bool:
    """Whether a module of the application runs because code of a library imported it, as servers do. Of several such
    imports within each other the innermost decides; modules that import each other at their tops are one.
    """
    by_library = False
    importer: Frame | None = None
    for frame in frames:
        file, _, module, qualname = frame
        if file.startswith("<frozen importlib") or module == "importlib":
            continue
        if qualname == "<module>" and is_application(file, module) and importer is not None:
            by_library = is_library(importer[0]) or (by_library and importer[3] == "<module>")
        importer = frame
    return by_library


def _kind_by_names(frames: Sequence[Frame]) -> str:
    inner: list[Frame] = []
    for frame in reversed(frames[-_DEPTH:]):
        inner.append(frame)
        if is_application(frame[0], frame[2]):
            break
    if not inner:
        return ""
    # The import runs the module's own code, which is the application's.
    looked_at = frames if inner[-1][3] == "<module>" else inner
    if any(file.startswith("<frozen importlib") for file, *_ in looked_at):
        return "import"
    modules = [(module, qualname) for _, _, module, qualname in inner]
    # A logging handler may be the application's own. The code that logs waits for it all the same.
    if any(module == "logging" or module.startswith("logging.") for module, _ in modules) or any(
        frame[2:] == ("logging", "Logger.callHandlers") for frame in frames[-_DEPTH:]
    ):
        return "logging"
    if any(_LINES_TLS.search(qualname) for _, qualname in modules):
        return "tls-context"
    if inner[0][2].startswith("traceloop.loop.") or any(name.startswith(_TRANSPORTS) for name, _ in modules):
        return ""  # its sockets never block, nor does closing one: what made this call long is not the network
    by_line = _by_line(source_line(inner[0][0], inner[0][1]))
    if by_line in ("sleep", "dns", "tls-context", "subprocess"):
        return by_line
    # The outermost library that means something: a database driver waits in a socket, a request in a lock.
    outermost = [_by_module(module) for module, _ in reversed(modules)]
    found = next((found for found in outermost if found), "") or by_line
    if found == "regex" and not all(_by_module(module) == found for module, _ in modules[:-1]):
        return ""  # a stack happened to show a library's regular expression, which its user cannot rewrite
    if found or len(inner) < 2:
        return found
    # What the application's own line calls (`os.walk`), if the library's frames show nothing.
    by_line = _by_line(source_line(inner[-1][0], inner[-1][1]))
    return by_line if by_line not in _COMPUTING else ""


_AWAITS: Final = re.compile(r"\b(await|async\s+(with|for))\b")
_TRANSPORTS: Final = "traceloop.loop.network."
_LINES_TLS: Final = re.compile(
    r"^(create_default_context|SSLContext\.load_\w+|create_ssl_context|_create_ssl_context)$"
)


def _by_line(line: str) -> str:
    """What a line calls. What it awaits does not block, but for what it computes: ``await send(json.dumps(data))``."""
    awaits = _AWAITS.search(line)
    for kind, pattern in _LINES:
        call = pattern.search(line)
        if call is not None and (awaits is None or call.start() < awaits.start() or kind in _COMPUTING):
            return kind
    return ""


def _by_module(module: str) -> str:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        found = _MODULES.get(".".join(parts[:length]))
        if found is not None:
            return found
    return ""
