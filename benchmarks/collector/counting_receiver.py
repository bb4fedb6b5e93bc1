"""An OTLP/HTTP receiver that counts spans: prints its port, answers with 200, and at each GET says how many came.

Usage: python benchmarks/collector/counting_receiver.py. It counts spans by the attribute that each sort of them has and
no other has, which leaves a core to the collector. The tests check that requests are whole and their fields right.
"""

from __future__ import annotations

import json
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_SORTS = {"handles": b"asyncio.handle.kind", "iterations": b"asyncio.iteration.callbacks"}
counted = {"handles": 0, "iterations": 0, "bytes": 0, "requests": 0}


class Handler(BaseHTTPRequestHandler):
    """Counts what is posted."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            data = zlib.decompress(data, 31)
        for name, attribute in _SORTS.items():
            counted[name] += data.count(attribute)
        counted["bytes"] += len(data)
        counted["requests"] += 1
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(json.dumps(counted).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
