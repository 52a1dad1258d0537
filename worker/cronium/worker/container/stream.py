"""A hijacked connection of the engine (attach, exec): bytes in, frames out.

Runs in a worker. The engine puts 8 bytes before each piece (POST /containers/{id}/attach, 'Stream format'): channel, three NULs,
length. Reading never blocks; whoever waits, waits for `descriptor` to be readable.
"""

from __future__ import annotations

import select
import socket
import threading
from typing import Any

from cronium.common.errors import ExecutionError, Reason

_HEADER_BYTES = 8
STDOUT, STDERR = 1, 2


class Stream:
    """One connection. `take` gives (channel, piece) as they come; `ended` once the other side has closed."""

    def __init__(self, hijacked: Any) -> None:
        # docker-py gives an io object over the socket, and keeps the response alive through it.
        self._keep = hijacked
        self._socket: socket.socket = getattr(hijacked, "_sock", hijacked)
        self._socket.settimeout(None)
        self._header = b""
        self._left = 0
        self._channel = 0
        self.ended = False

    @property
    def descriptor(self) -> int:
        """Readable when there is something to take, or the end."""
        return self._socket.fileno()

    def take(self, limit: int) -> tuple[int, bytes] | None:
        """The next piece of at most `limit` bytes; None when there is nothing now."""
        while not self.ended:
            want = min(limit, self._left) if self._left else _HEADER_BYTES - len(self._header)
            data = self._receive(want)
            if not data:
                return None
            if self._left:
                self._left -= len(data)
                return self._channel, data
            self._header += data
            if len(self._header) == _HEADER_BYTES:
                self._channel, self._left = self._header[0], int.from_bytes(self._header[4:], "big")
                self._header = b""
        return None

    def wait(self, timeout_s: float) -> None:
        """Until there is something to take, or the time is up. For short dealings in a helper thread."""
        poller = select.poll()  # select(2) knows descriptors below 1024 only
        poller.register(self._socket, select.POLLIN)
        poller.poll(timeout_s * 1000)

    def send(self, data: bytes, timeout_s: float) -> None:
        """Write all of it; blocks. Raises OSError when the other side is gone or takes nothing in all that time."""
        self._socket.settimeout(timeout_s)
        try:
            self._socket.sendall(data)
        finally:
            self._socket.settimeout(None)

    def send_end(self) -> None:
        """Close our side; the other side goes on."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.ended = True  # it is closed altogether: nobody needs our end of file any more

    def close(self) -> None:
        """Drop the connection."""
        self.ended = True
        try:
            self._socket.close()
        finally:
            self._keep.close()

    def _receive(self, want: int) -> bytes:
        try:
            data = self._socket.recv(want, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError:
            data = b""  # a connection that breaks has ended, whatever the cause; who needs to know asks the engine
        if not data:
            self.ended = True
        return data


class Feeder(threading.Thread):
    """Sends a payload while somebody else starts the container: more than the socket's buffer is only taken then."""

    def __init__(self, stream: Stream, payload: bytes, timeout_s: float) -> None:
        super().__init__(name="feeder", daemon=True)
        self._stream, self._payload, self._timeout_s = stream, payload, timeout_s
        self._error: OSError | None = None

    def run(self) -> None:
        """Send it, then say that it was all."""
        try:
            self._stream.send(self._payload, self._timeout_s)
            self._stream.send_end()
        except OSError as error:
            self._error = error

    def finish(self) -> None:
        """Wait for it. Raises ExecutionError when it did not get through."""
        self.join(self._timeout_s + 1)
        if self._error is not None or self.is_alive():
            raise ExecutionError(
                Reason.START_FAILED, f"the script could not be handed to its container ({self._error or 'no end'}): try again"
            )
