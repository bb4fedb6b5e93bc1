"""An OTLP/HTTP receiver for tests: decodes with the published protobuf package, and can misbehave."""

from __future__ import annotations

import gzip
import socket
import ssl
import struct
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.helpers.waiting import PATIENCE


class Receiver:
    """Listens on a free port. ``behaviour(number of the request)`` returns a status, ``(status, headers)``, or one of
    "hang", "reset"; None for 200. ``partial``: rejected spans that 200 answers speak of. ``certificate``: a file with
    key and certificate, to speak TLS. ``clients``: a file with those that clients may show, and one of which they must.
    """

    def __init__(self, behaviour=None, *, port=0, certificate=None, clients=None):
        self.behaviour = behaviour or (lambda number: None)
        self.partial = 0
        self.requests = []
        self.headers = []
        self.paths = []
        self.attempts = 0
        self.condition = threading.Condition()
        self.released = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                receiver.handle(self)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request, client_address):
                pass

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
            if clients is not None:
                context.load_verify_locations(clients)
                context.verify_mode = ssl.CERT_REQUIRED
            # The handshake takes place in the thread of its connection, at the first read.
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
            self.url = f"https://localhost:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def handle(self, handler):
        data = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self.condition:
            self.attempts += 1
            number = self.attempts
        what = self.behaviour(number)
        if what == "hang":
            self.released.wait(600)
            handler.close_connection = True
            return
        if what == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
            return
        status, headers = what if isinstance(what, tuple) else (what or 200, {})
        body = b""
        if status == 200:
            encoding = handler.headers.get("Content-Encoding")
            if encoding == "gzip":
                data = gzip.decompress(data)
            elif encoding == "deflate":
                data = zlib.decompress(data)
            response = ExportTraceServiceResponse()
            if self.partial:
                response.partial_success.rejected_spans = self.partial
                response.partial_success.error_message = "no"
            body = response.SerializeToString()
            with self.condition:
                self.requests.append(data)
                self.headers.append(dict(handler.headers))
                self.paths.append(handler.path)
                self.condition.notify_all()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Type", "application/x-protobuf")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def resource_spans(self):
        out = []
        with self.condition:
            requests = list(self.requests)
        for data in requests:
            out.extend(ExportTraceServiceRequest.FromString(data).resource_spans)
        return out

    def spans(self):
        return [
            span for resource in self.resource_spans() for scope in resource.scope_spans for span in scope.spans
        ]

    def wait_for(self, condition, timeout=PATIENCE):
        """Waits until ``condition(spans)`` holds; returns the spans, after ``timeout`` seconds all the same."""
        deadline = time.monotonic() + timeout
        while True:
            spans = self.spans()
            if condition(spans) or time.monotonic() > deadline:
                return spans
            with self.condition:
                self.condition.wait(0.1)

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def attributes_of(message):
    """The attributes of a decoded message as a dictionary."""

    def value_of(value):
        kind = value.WhichOneof("value")
        if kind == "array_value":
            return [value_of(item) for item in value.array_value.values]
        return getattr(value, kind) if kind else None

    return {item.key: value_of(item.value) for item in message.attributes}
