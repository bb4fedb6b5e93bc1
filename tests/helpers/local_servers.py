"""Servers for one test: HTTP in a thread; PostgreSQL and Redis as Debian has them, None where they are not."""

from __future__ import annotations

import contextlib
import glob
import http.server
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator

from tests.helpers.served import free_port
from tests.helpers.waiting import PATIENCE


@contextlib.contextmanager
def http_server(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server whose requests are answered by ``handler``."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def postgres() -> Iterator[str | None]:
    """The folder of the socket of a server, whose user ``postgres`` needs no password. Root runs it as that user."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl"))
    as_root = os.getuid() == 0
    if not found or (as_root and not _has_user("postgres")):
        yield None
        return
    programs = os.path.dirname(found[-1])
    # A socket's path may have a hundred characters, and the other user has to get there.
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:
        options = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}
        if as_root:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        data = os.path.join(folder, "data")
        subprocess.run([f"{programs}/initdb", "-A", "trust", "-U", "postgres", "-N", "-D", data], **options)  # type: ignore[call-overload]
        control = [f"{programs}/pg_ctl", "-w", "-D", data]
        subprocess.run([*control, "-l", f"{folder}/log", "-o", f"-k {folder} -h ''", "start"], **options)  # type: ignore[call-overload]
        try:
            yield folder
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **options)  # type: ignore[call-overload]


@contextlib.contextmanager
def redis() -> Iterator[int | None]:
    """The port of a server that keeps nothing."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                deadline = time.monotonic() + PATIENCE
                while time.monotonic() < deadline and server.poll() is None:
                    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                        break
                    time.sleep(0.02)
                yield port
            finally:
                server.kill()


def _has_user(name: str) -> bool:
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False
