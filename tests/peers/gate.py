"""A gate before an engine's socket: passes everything through until it is shut, as if the engine had died.

It can hold one kind of request back, as an engine does that carries out later what it was asked for.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path


class Gate:
    """Listens on `path`, forwards to `target`. Shut: refuses new connections, and cuts those there are."""

    def __init__(self, path: Path, target: str) -> None:
        self.path, self._target = path, target
        self._pairs: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._held = b""
        self.holds, self._released = threading.Event(), threading.Event()
        self.open()

    def hold(self, words: bytes) -> None:
        """Requests with these words in them wait (`holds` is set when one does) until `release`, also when who asked has gone."""
        self._held = words

    def release(self) -> None:
        self._held = b""
        self._released.set()

    def open(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        if self._listener is None:
            return
        self.path.unlink()
        for one in (self._listener, *self._pairs):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._pairs.clear()
        self._listener = None

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(self._target)
            except OSError:  # the engine itself is dead
                near.close()
                far.close()
                continue
            self._pairs += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self._held and self._held in data:
                    self.holds.set()
                    self._released.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
