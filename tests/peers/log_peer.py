"""A small backend for log lines: acknowledges WebSocket frames and takes `POST …/jobs/{id}/logs`. Speaks the real protocol.

Its knobs make it a bad backend: never acknowledges, refuses, drops connections, repeats acknowledgements, does not read. Runs
in threads of the test process; it keeps every line, so the test can check them.
"""

from __future__ import annotations

import gzip
import http.server
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

TOKEN = "peer-token"


@dataclass
class LogPeer:
    """`lines` holds each job's entries by sequence, in the order in which they first came."""

    acknowledge: bool = True
    refuse: Callable[[dict[str, Any]], str | None] = lambda frame: None
    drop_every: int = 0
    repeat_acks: bool = False
    ack_backwards: int = 0  # so many acknowledgements are held and sent in reverse order
    read: threading.Event = field(default_factory=threading.Event)
    keep_lines: bool = True
    http_status: int = 200
    http_refuse: Callable[[dict[str, Any]], bool] = lambda body: False
    http_headers: dict[str, str] = field(default_factory=dict)

    lines: dict[str, dict[int, Any]] = field(default_factory=dict)
    frames: list[dict[str, Any]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    posts: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    posted_at_s: list[float] = field(default_factory=list)
    connections: int = 0
    repeats: int = 0
    binary_frames: int = 0
    count: int = 0
    authenticated: list[dict[str, Any]] = field(default_factory=list)
    handshakes: list[dict[str, str]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    _server: Server | None = None
    _http: http.server.ThreadingHTTPServer | None = None
    _open: set[ServerConnection] = field(default_factory=set)
    port: int = 0
    http_port: int = 0

    def start(self, port: int = 0) -> LogPeer:
        self.read.set()
        self._server = serve(self._handle, "127.0.0.1", port or self.port, max_size=None, compression=None)
        self.port = self._server.socket.getsockname()[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def start_http(self) -> LogPeer:
        peer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = 422 if peer.http_refuse(body) else peer.http_status
                with peer.changed:
                    peer.posted_at_s.append(time.monotonic())
                    peer.posts.append((self.path, body, dict(self.headers)))
                    if status == 200:
                        for entry in body["entries"]:
                            peer._take(entry)
                    peer.changed.notify_all()
                answer = json.dumps({"success": status == 200}).encode()
                self.send_response(status)
                for name, value in peer.http_headers.items() if status != 200 else ():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.http_port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop taking connections, and close those there are."""
        self.read.set()
        if self._server is not None:
            self._server.shutdown()
            self._server = None
        for connection in list(self._open):
            connection.socket.shutdown(2)

    def stop_http(self) -> None:
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/api/socket"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}/api/internal"

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait until something holds. Raises TimeoutError."""
        until = time.monotonic() + timeout_s
        with self.changed:
            while not condition():
                if time.monotonic() >= until:
                    raise TimeoutError("what the test waits for did not come")
                self.changed.wait(0.05)

    def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.handshakes.append({name.lower(): value for name, value in connection.request.headers.raw_items()})
        self._open.add(connection)
        held: list[str] = []
        seen = 0
        try:
            first = json.loads(connection.recv(timeout=10))
            self.authenticated.append(first)
            connection.send(json.dumps({"type": "ack", "payload": {"messageId": None, "success": True}}))
            with self.changed:
                self.connections += 1
                self.changed.notify_all()
            for raw in connection:
                self.read.wait()
                with self.changed:
                    answer = self._frame(raw)
                    self.changed.notify_all()
                if answer is None:
                    continue
                seen += 1
                if self.drop_every and seen >= self.drop_every:
                    connection.socket.shutdown(2)
                    return
                held.append(answer)
                if len(held) > self.ack_backwards:
                    for text in reversed(held):
                        connection.send(text)
                        if self.repeat_acks:
                            connection.send(text)
                    held.clear()
        except (ConnectionClosed, OSError, TimeoutError):
            pass
        finally:
            self._open.discard(connection)

    def _frame(self, raw: str | bytes) -> str | None:
        if isinstance(raw, bytes):
            self.binary_frames += 1
            raw = gzip.decompress(raw).decode()
        frame = json.loads(raw)
        if frame["type"] == "ping":
            return None
        self.ids.append(frame["id"])
        error = self.refuse(frame)
        if error is None:
            if frame["type"] == "log":
                for entry in frame["payload"]:
                    self._take(entry)
            else:
                self.frames.append(frame)
        if not self.acknowledge:
            return None
        payload = {"messageId": frame["id"], "success": error is None}
        return json.dumps({"type": "ack", "payload": payload | ({"error": error} if error else {})})

    def _take(self, entry: dict[str, Any]) -> None:
        self.count += 1
        known = self.lines.setdefault(entry["jobId"], {})
        if entry["sequence"] in known:
            self.repeats += 1
            assert not self.keep_lines or known[entry["sequence"]]["line"] == entry["line"], "a number was used twice"
        else:
            known[entry["sequence"]] = entry if self.keep_lines else True
