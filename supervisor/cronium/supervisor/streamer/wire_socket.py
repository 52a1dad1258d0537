"""A socket as websocket-client wants it, that two threads may use: one reads, one writes, anyone may break it off.

Reads ahead, so that many small frames cost one system call. With TLS, one lock is held for each single call (the descriptor
itself never blocks): OpenSSL's objects are not made for two threads at once.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading

_READ_AHEAD_BYTES = 64 * 1024


class WireSocket:
    """Wraps a connected socket. Timeouts are in seconds, None is no limit."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self._timeout_s = inner.gettimeout()
        self._ahead = b""
        self._lock: contextlib.AbstractContextManager[object] = (
            threading.Lock() if isinstance(inner, ssl.SSLSocket) else contextlib.nullcontext()
        )
        inner.setblocking(False)

    def recv(self, count: int) -> bytes:
        """Up to `count` bytes; empty at the end. Raises TimeoutError, OSError."""
        if not self._ahead:
            self._ahead = self._read()
        data, self._ahead = self._ahead[:count], self._ahead[count:]
        return data

    def send(self, data: bytes) -> int:
        """Write some of it; how much. Raises TimeoutError, OSError."""
        while True:
            try:
                with self._lock:
                    return self._inner.send(data)
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait(select.POLLOUT)
            except ssl.SSLWantReadError:
                self._wait(select.POLLIN)

    def gettimeout(self) -> float | None:
        """The limit of one read or write."""
        return self._timeout_s

    def settimeout(self, timeout_s: float | None) -> None:
        """Change the limit."""
        self._timeout_s = timeout_s

    def fileno(self) -> int:
        """The descriptor."""
        return self._inner.fileno()

    def break_off(self) -> None:
        """Make both sides fail at once; from any thread, never waits."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._inner, socket.SHUT_RDWR)

    def shutdown(self, how: int) -> None:
        """As a socket's."""
        self._inner.shutdown(how)

    def close(self) -> None:
        """As a socket's."""
        self._inner.close()

    def _read(self) -> bytes:
        while True:
            try:
                with self._lock:
                    return self._inner.recv(_READ_AHEAD_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait(select.POLLIN)
            except ssl.SSLWantWriteError:
                self._wait(select.POLLOUT)

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._inner, event)
        if not poll.poll(None if self._timeout_s is None else self._timeout_s * 1000):
            raise TimeoutError("timed out")
