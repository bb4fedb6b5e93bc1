"""An OTLP/HTTP receiver that is rarely well: good and bad phases by turns, until it is told to be good.

    python misbehaving_receiver.py SECONDS_A_PHASE

Prints its port. A line on stdin makes it good from then on; end of file ends it, and it prints as JSON how many spans
it has taken, has rejected in part, and how many requests came in each phase.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

BAD = ("hang", "reset", "unavailable", "refuse", "endless", "drip", "garbage", "partial", "half", "later")
PHASES = [phase for bad in BAD for phase in ("good", bad)]


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seconds = 20.0
    good = threading.Event()
    began = time.monotonic()
    taken = rejected = 0
    seen: dict[str, int] = {}
    lock = threading.Lock()

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        index = int((time.monotonic() - self.began) / self.seconds)
        phase = "good" if self.good.is_set() else PHASES[index % len(PHASES)]
        with self.lock:
            self.seen[phase] = self.seen.get(phase, 0) + 1
        self.close_connection = phase != "good"
        getattr(self, f"_{phase}")(data)

    def _answer(self, status: int, body: bytes = b"", **headers: object) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def _good(self, data: bytes, rejected: int = 0) -> None:
        request = ExportTraceServiceRequest.FromString(data)
        spans = sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
        response = ExportTraceServiceResponse()
        if rejected:
            response.partial_success.rejected_spans = min(rejected, spans)
            response.partial_success.error_message = "\x1b[2J\ntraceloop: forged"
        with self.lock:
            type(self).taken += spans - min(rejected, spans)
            type(self).rejected += min(rejected, spans)
        self._answer(200, response.SerializeToString())

    def _partial(self, data: bytes) -> None:
        self._good(data, 7)

    def _hang(self, data: bytes) -> None:
        self.good.wait(120)

    def _reset(self, data: bytes) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _unavailable(self, data: bytes) -> None:
        self._answer(503)

    def _later(self, data: bytes) -> None:
        self._answer(429, Retry_After=3)

    def _refuse(self, data: bytes) -> None:
        self._answer(400, b"\x1b[2J\ntraceloop: forged\n" * 1000)

    def _half(self, data: bytes) -> None:
        self.wfile.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 1000\r\n\r\nhalf")

    def _endless(self, data: bytes) -> None:
        self.wfile.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
        self._until_closed(bytes(1 << 20), 0.0)

    def _drip(self, data: bytes) -> None:
        self.wfile.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
        self._until_closed(b"x", 0.2)

    def _garbage(self, data: bytes) -> None:
        self.wfile.write(b"\x00\xff this is no HTTP\r\n\r\n")

    def _until_closed(self, piece: bytes, pause: float) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not self.good.wait(pause):
            self.wfile.write(piece)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that has gone


def main() -> None:
    Receiver.seconds = float(sys.argv[1])
    server = Server(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    for _ in sys.stdin:
        Receiver.good.set()
    print(json.dumps({"taken": Receiver.taken, "rejected": Receiver.rejected, "requests": Receiver.seen}))


if __name__ == "__main__":
    main()
