"""One command on a server: its output as it comes, by a descriptor that can be waited for.

Runs in a worker. The transport's thread puts in, the reader takes out; what waits here is bounded by the channel's window, and
a server that ignores it loses the connection.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import paramiko
from paramiko.buffered_pipe import BufferedPipe
from paramiko.ssh_exception import SSHException

from cronium.worker.ssh.guard import Cause
from cronium.worker.ssh.transport import WINDOW_BYTES, SshTransport

if TYPE_CHECKING:
    _Pipe = BufferedPipe[bytes]
else:
    _Pipe = BufferedPipe  # generic in its stubs only

STDOUT: Final = 1
STDERR: Final = 2
_SEND_BYTES: Final = 32 * 1024
_SMALL_BYTES: Final = 4 * 1024  # pieces below this are put together, so that many small ones cost no more memory than one
_MAX_EXIT_CODE: Final = 255


class RemoteChannel:
    """A command that runs on a server. Made by `Connection.open`; not for two readers at once, nor for two senders."""

    def __init__(self, transport: SshTransport, channel: paramiko.Channel) -> None:
        """Takes over the output of `channel`, whose command is not started yet."""
        self._transport = transport
        self._channel = channel
        self._intake = _Intake(transport)
        self._last = STDERR
        self._due = 0  # of its window
        # What came before the command was asked for would be nobody's output.
        channel.in_buffer = _Inlet(self._intake, STDOUT, channel)
        channel.in_stderr_buffer = _Inlet(self._intake, STDERR, channel)
        if channel.closed:
            self._intake.end()

    @property
    def descriptor(self) -> int:
        """Readable when `take` may have something, or the end has come. Level-triggered; valid until `close`."""
        return self._intake.descriptor

    @property
    def ended(self) -> bool:
        """The other side has closed it, or the connection is gone, and everything was taken."""
        return self._intake.ended and not self._intake.size

    @property
    def cut(self) -> bool:
        """It ended with its connection: what the command does further is not known."""
        return self.ended and not getattr(self._channel, "closed_by_peer", False)

    @property
    def exit_code(self) -> int | None:
        """Once ended, if the server said one that can be (0-255)."""
        if not self.ended:
            return None
        code = self._channel.exit_status
        return code if 0 <= code <= _MAX_EXIT_CODE else None

    def take(self, limit: int) -> tuple[int, bytes] | None:
        """(STDOUT | STDERR, piece of at most `limit` bytes), in turn where both have some; None when there is nothing now.

        Waits for no data; only while the connection itself takes nothing at all.
        """
        self._give_window()
        first, second = (STDERR, STDOUT) if self._last == STDOUT else (STDOUT, STDERR)
        for stream in (first, second):
            piece = self._intake.pull(stream, limit)
            if piece:
                self._last = stream
                self._due += self._transport.taken(self._channel, len(piece))
                self._give_window()
                return stream, piece
        return None

    def _give_window(self) -> None:
        if not self._due or self._transport.rekeying:
            return
        try:
            self._transport.give_window(self._channel, self._due)
        except (SSHException, OSError, EOFError) as error:
            self._transport.guard.fail(Cause.RESET, str(error))  # the end follows; what was taken counts
        self._due = 0

    def send(self, data: bytes, timeout_s: float) -> None:
        """Write all of it to the command's stdin. Raises OSError: TimeoutError, or BrokenPipeError when nobody takes it."""
        deadline_s = time.monotonic() + timeout_s
        sent = 0
        while sent < len(data):
            count = self._send(data[sent : sent + _SEND_BYTES], max(0.001, deadline_s - time.monotonic()))
            sent += count
            if sent < len(data) and time.monotonic() > deadline_s:
                raise TimeoutError(f"{len(data) - sent} of {len(data)} bytes were not taken within {timeout_s:g} s")

    def offer(self, data: bytes) -> int:
        """Write what the command takes right now; how many bytes that was. Raises BrokenPipeError."""
        if self._transport.guard.jammed or self._transport.rekeying:
            return 0
        try:
            return self._send(data[:_SEND_BYTES], 0.0)
        except TimeoutError:
            return 0

    def send_end(self) -> None:
        """Nothing more comes on stdin."""
        try:
            self._channel.shutdown_write()
        except (SSHException, OSError, EOFError) as error:
            self._transport.guard.fail(Cause.RESET, str(error))

    def close(self) -> None:
        """Let go of it. The server is told, unless that would have to wait; what the command does with it is its own affair."""
        if self._intake.descriptor < 0:
            return
        self._intake.close()
        if self._transport.guard.jammed:
            return
        if self._transport.rekeying:
            threading.Thread(target=self._say_closed, name="ssh-close", daemon=True).start()
        else:
            self._say_closed()

    def _say_closed(self) -> None:
        try:
            self._channel.close()
        except (SSHException, OSError, EOFError) as error:
            self._transport.guard.fail(Cause.RESET, str(error))

    def _send(self, piece: bytes, timeout_s: float) -> int:
        self._channel.settimeout(timeout_s)
        try:
            count = self._channel.send(piece)
        except (SSHException, EOFError) as error:
            raise BrokenPipeError(f"the connection is gone: {error}") from error
        if not count or not self._transport.is_active():  # paramiko drops what it cannot send any more
            raise BrokenPipeError("the command takes no more input, or the connection is gone")
        return count


class _Intake:
    """Both streams of a channel on their way to the reader, with one descriptor for both."""

    def __init__(self, transport: SshTransport) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._pieces: dict[int, deque[bytes | bytearray]] = {STDOUT: deque(), STDERR: deque()}
        self._signalled = False
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.size = 0
        self.ended = False

    def feed(self, stream: int, data: bytes) -> None:
        with self._lock:
            if self.descriptor < 0 or not data:
                return
            if self.size + len(data) > WINDOW_BYTES:
                self._transport.guard.fail(Cause.WINDOW)
                return
            pieces = self._pieces[stream]
            if len(data) >= _SMALL_BYTES:
                pieces.append(data)
            elif pieces and isinstance(pieces[-1], bytearray) and len(pieces[-1]) < _SEND_BYTES:
                pieces[-1] += data
            else:
                pieces.append(bytearray(data))
            self.size += len(data)
            self._signal()

    def pull(self, stream: int, limit: int) -> bytes:
        with self._lock:
            pieces = self._pieces[stream]
            out: list[bytes | bytearray] = []
            room = limit
            while pieces and room:
                piece = pieces.popleft()
                if len(piece) > room:
                    pieces.appendleft(piece[room:])
                    piece = piece[:room]
                out.append(piece)
                room -= len(piece)
            self.size -= limit - room
            if self._signalled and not self.size and not self.ended:
                os.eventfd_read(self.descriptor)
                self._signalled = False
        return out[0] if len(out) == 1 and isinstance(out[0], bytes) else b"".join(out)

    def end(self) -> None:
        with self._lock:
            self.ended = True
            if self.descriptor >= 0:
                self._signal()

    def close(self) -> None:
        with self._lock:
            os.close(self.descriptor)
            self.descriptor = -1
            self.ended, self.size = True, 0
            for pieces in self._pieces.values():
                pieces.clear()

    def _signal(self) -> None:
        if not self._signalled:
            os.eventfd_write(self.descriptor, 1)
            self._signalled = True


class _Inlet(_Pipe):
    """What paramiko takes for a channel's buffer of one stream."""

    def __init__(self, intake: _Intake, stream: int, channel: paramiko.Channel) -> None:
        super().__init__()
        self._intake = intake
        self._stream = stream
        self._channel = channel

    def feed(self, data: bytes) -> None:
        self._intake.feed(self._stream, data)

    def close(self) -> None:
        # paramiko says it at the end of a stream already; what counts is the end of the channel, with the exit code before it.
        if self._channel.closed:
            self._intake.end()
