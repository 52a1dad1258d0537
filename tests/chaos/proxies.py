"""What stands between the supervisor and the queue: an HTTP proxy that can repeat a poll's answer, and one for the WebSocket.

In threads of the driver. Both stay at their addresses while the queue behind them is ended and started again.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import random
import socket
import threading
from urllib.parse import urlsplit

from peers.faulty_proxy import FaultyProxy

_PATIENCE_S = 5.0
_MOST_ANSWERS = 400


class RepeatingProxy(FaultyProxy):
    """A FaultyProxy that, when asked to, answers the next poll with jobs that the supervisor has had before."""

    def __init__(self, choose: random.Random) -> None:
        super().__init__()
        self._choose = choose
        self._to_repeat = 0
        self.repeated = 0

    def repeat(self) -> bool:
        """Deliver jobs again with the next poll. Says whether there are any."""
        self._to_repeat = 1
        return any(one.answer.get("jobs") for one in self.exchanges)

    def _handle(self, request: http.server.BaseHTTPRequestHandler) -> None:
        is_poll = urlsplit(request.path).path.endswith("/jobs/queue")
        had = [one.answer for one in list(self.exchanges) if one.answer.get("jobs")] if is_poll and self._to_repeat else []
        if had:
            self._to_repeat = 0
            self.repeated += 1
            # One of the latest still runs, one of the first has ended long ago.
            content = json.dumps(self._choose.choice([*had[-3:], *had[-3:], *had]))
            self._answer(request, 200, content.encode())
            return
        super()._handle(request)
        if len(self.exchanges) > 2 * _MOST_ANSWERS:  # what was answered is needed for the polls only
            keep = [one for one in self.exchanges if one.answer.get("jobs")][-_MOST_ANSWERS:]
            self.exchanges[:] = keep


class Wire:
    """TCP on a port of its own to `port`, until it is cut; `silent` keeps connections open and passes nothing on."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._lock = threading.Lock()
        self._pairs: list[socket.socket] = []
        self._passing = threading.Event()
        self._passing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> int:
        """Break every connection; how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for one in pairs:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        return len(pairs) // 2

    def silent(self, silent: bool) -> None:
        """Hold back all bytes, or pass them on again."""
        if silent:
            self._passing.clear()
        else:
            self._passing.set()

    def close(self) -> None:
        """End it."""
        self.silent(False)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), _PATIENCE_S)
            except OSError:
                near.close()  # the queue is away
                continue
            far.settimeout(None)
            with self._lock:
                self._pairs += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._passing.wait()
                target.sendall(data)
        for one in (source, target):  # an end in one direction is the end: a WebSocket has no half-closed state
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
