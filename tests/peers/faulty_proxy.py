"""An HTTP proxy before a backend that does to requests what networks, load balancers and bad releases do. In threads of the test.

`plan` is asked about each request and names a fault, or None. Everything that passed is kept, with what was answered. `refuse`
names a status with which the backend itself refuses a request, without carrying it out.
"""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

HANG_S = 4.0
FINE = "/fine"  # where redirects point
_BACKEND_TIMEOUT_S = 90
_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "content-length", "server", "date"})


class Fault(Enum):
    """What becomes of a request."""

    ERROR_500 = "answered 500, not carried out"
    TOO_MANY = "answered 429 with Retry-After, not carried out"
    HANG = "carried out, answered only after the client's patience"
    CUT_BEFORE = "connection cut, not carried out"
    CUT_AFTER = "connection cut after it was carried out"
    CUT_INSIDE = "carried out, the answer cut in its middle"
    GARBAGE = "carried out, answered with what is no JSON"
    HTML_502 = "carried out, answered by a load balancer's page"
    HTML_200 = "a page that greets with 200, not carried out"
    REDIRECT = "sent elsewhere, where everything is fine; not carried out"
    NO_SUCCESS = "answered 200 and that it was no success, not carried out"


@dataclass(frozen=True)
class Exchange:
    """A request that reached the proxy. `status` 0: nobody heard an answer. `answer`: what the backend said, if it was asked."""

    method: str
    path: str
    key: str | None
    fault: Fault | None
    status: int
    answer: dict[str, Any]


@dataclass
class FaultyProxy:
    """`start` names the backend; `url` is to be used instead of it. `refuses`: the ends of paths that are answered 400."""

    plan: Callable[[str, str], Fault | None] = lambda method, path: None
    refuse: Callable[[str, str], int | None] = lambda method, path: None
    exchanges: list[Exchange] = field(default_factory=list)
    refuses: tuple[str, ...] = ()
    port: int = 0
    _server: http.server.ThreadingHTTPServer | None = None
    _backend: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, backend: str = "") -> FaultyProxy:
        """Listen, on the same port as before if there was one."""
        self._backend = backend or self._backend
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._handle(self)

            do_GET = do_POST = do_PUT = handle_any

            def log_message(self, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *args: object) -> None:
                """A client that went away."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{urlsplit(self._backend).path}"

    def stop(self) -> None:
        """Nobody listens any more: connections are refused, those that are open answer 503."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def count(self, fault: Fault) -> int:
        """How many requests met it."""
        return sum(1 for exchange in self.exchanges if exchange.fault is fault)

    def _handle(self, request: http.server.BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        path = urlsplit(request.path).path
        if path == FINE:
            self._note(request, None, 200, {})
            self._answer(request, 200, b'{"success": true, "jobs": [], "metadata": {}}')
            return
        if (status := self.refuse(request.command, path)) is not None:
            self._note(request, None, status, {})
            self._answer(request, status, json.dumps({"error": {"code": "REFUSED", "message": "on purpose"}}).encode())
            return
        with self._lock:
            fault = self.plan(request.command, path)
        if self._server is None:
            self._note(request, fault, 503, {})
            self._answer(request, 503, b"{}")
            return
        if self.refuses and path.endswith(self.refuses):
            self._note(request, fault, 400, {})
            error = {"code": "VALIDATION_INVALID_PARAMS", "message": "refused on purpose"}
            self._answer(request, 400, json.dumps({"error": error}).encode())
            return
        match fault:
            case Fault.ERROR_500:
                self._note(request, fault, 500, {})
                self._answer(request, 500, json.dumps({"error": {"code": "INTERNAL_ERROR", "message": "on purpose"}}).encode())
            case Fault.TOO_MANY:
                self._note(request, fault, 429, {})
                error = {"error": {"code": "RATE_LIMIT_EXCEEDED", "message": "on purpose"}}
                self._answer(request, 429, json.dumps(error).encode(), {"Retry-After": "1"})
            case Fault.HTML_200:
                self._note(request, fault, 200, {})
                self._answer(request, 200, b"<html><h1>Welcome</h1></html>", {"Content-Type": "text/html"})
            case Fault.REDIRECT:
                self._note(request, fault, 302, {})
                self._answer(request, 302, b"{}", {"Location": f"http://127.0.0.1:{self.port}{FINE}"})
            case Fault.NO_SUCCESS:
                self._note(request, fault, 200, {})
                self._answer(request, 200, b'{"success": false}')
            case Fault.CUT_BEFORE:
                self._note(request, fault, 0, {})
                self._cut(request)
            case _:
                self._forward(request, body, fault)

    def _forward(self, request: http.server.BaseHTTPRequestHandler, body: bytes, fault: Fault | None) -> None:
        parts = urlsplit(self._backend)
        backend = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_BACKEND_TIMEOUT_S)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
            backend.request(request.command, request.path, body or None, headers)
            answer = backend.getresponse()
            content = answer.read()
        except OSError:
            self._note(request, fault, 0, {})
            self._cut(request)
            return
        finally:
            backend.close()
        self._note(request, fault, answer.status, _parsed(content))
        rest = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
        match fault:
            case Fault.HANG:
                time.sleep(HANG_S)
                self._cut(request)
            case Fault.CUT_AFTER:
                self._cut(request)
            case Fault.CUT_INSIDE:
                request.wfile.write(f"HTTP/1.1 {answer.status} OK\r\nContent-Length: {len(content)}\r\n\r\n".encode())
                request.wfile.write(content[: len(content) // 2])
                self._cut(request)
            case Fault.GARBAGE:
                self._answer(request, answer.status, b'\xff{"jobs": [' + content[:10])
            case Fault.HTML_502:
                self._answer(request, 502, b"<html><h1>502 Bad Gateway</h1></html>")
            case _:
                self._answer(request, answer.status, content, rest)

    def _note(
        self, request: http.server.BaseHTTPRequestHandler, fault: Fault | None, status: int, answer: dict[str, Any]
    ) -> None:
        path, key = urlsplit(request.path).path, request.headers.get("Idempotency-Key")
        self.exchanges.append(Exchange(request.command, path, key, fault, status, answer))

    @staticmethod
    def _answer(
        request: http.server.BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str] | None = None
    ) -> None:
        request.send_response(status)
        for name, value in (headers or {"Content-Type": "application/json"}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    @staticmethod
    def _cut(request: http.server.BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        try:
            request.wfile.flush()
            request.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
