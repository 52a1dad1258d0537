"""The socket below an SSH connection, with what paramiko does not limit: time, bytes before the login, a packet's length.

Runs in a worker: the transport's thread reads, whoever sends writes. Whatever goes wrong first stays written down as `cause`;
from then on nothing comes through, and everybody who waits is woken.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from enum import Enum
from typing import Final

import paramiko

# An SSH packet may be refused above 35,000 bytes (RFC 4253, 6.1); OpenSSH takes up to 256 KiB (packet.c, PACKET_MAX_SIZE).
MAX_PACKET_BYTES: Final = 256 * 1024 + 1024
# Version, lists of algorithms, keys and a legal notice are a few KiB; nobody needs this much before a login.
_MAX_BYTES_BEFORE_LOGIN: Final = 512 * 1024
_READ_BEFORE_LOGIN: Final = 16 * 1024
_READ_BYTES: Final = 256 * 1024
_BEGINNING_BYTES: Final = 256
# How long a read or write sleeps at most before it looks around; whoever cuts the connection wakes it at once.
_LOOK_BEFORE_LOGIN_S: Final = 0.1
_LOOK_S: Final = 2.0


class Cause(Enum):
    """Why a connection has ended."""

    CLOSED = "we closed it"
    EOF = "the other side closed it"
    RESET = "it broke"
    DISCONNECT = "the other side ended it"
    DEADLINE = "the time was up"
    SILENT = "the other side does not answer"
    STALLED = "the other side takes no data"
    FLOOD = "the other side sent too much before the login"
    PACKET = "the other side sent a packet that is too long"
    WINDOW = "the other side sent more than it was allowed to"


# After these, what has come already still counts.
_LEAVES_DATA: Final = (None, Cause.RESET, Cause.STALLED)


class Guard:
    """Looks like a socket to paramiko. `deadline_s` (monotonic) holds until `logged_in`; `stall_s` bounds each write."""

    def __init__(self, below: socket.socket | paramiko.Channel, deadline_s: float, stall_s: float) -> None:
        self._below = below
        self._deadline_s: float | None = deadline_s
        self._stall_s = stall_s
        self._bytes_left: int | None = _MAX_BYTES_BEFORE_LOGIN
        self._held = b""
        self._held_from = 0
        self._blocked_since_s: float | None = None
        self._lock = threading.Lock()
        self._closed = False  # paramiko looks at this name
        self.cause: Cause | None = None
        self.detail = ""
        self.beginning = b""
        below.settimeout(_LOOK_BEFORE_LOGIN_S)

    @property
    def jammed(self) -> bool:
        """Somebody is waiting for the other side to take data."""
        return self._blocked_since_s is not None

    def logged_in(self) -> None:
        """From here on the other side is known: no deadline, and as many bytes as it likes."""
        self._deadline_s = self._bytes_left = None
        self._below.settimeout(_LOOK_S)

    def fail(self, cause: Cause, detail: str = "") -> ConnectionError:
        """End it; the first cause stays. Gives what a reader or writer is to raise."""
        with self._lock:
            if self.cause is None:
                self.cause, self.detail = cause, detail
        if isinstance(self._below, socket.socket):
            with contextlib.suppress(OSError):  # it may be closed already
                self._below.shutdown(socket.SHUT_RDWR)
        else:
            self._below.close()
        return self._broken(cause)

    def release(self) -> None:
        """Give the descriptor back, once nobody reads or writes any more."""
        self._below.close()

    # What paramiko calls.

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; TimeoutError from time to time, b"" at the end."""
        if size > MAX_PACKET_BYTES:
            raise self.fail(Cause.PACKET)
        if self.cause not in _LEAVES_DATA:
            self._held = b""
        if not self._held:
            self._held, self._held_from = self._receive(), 0
        start, end = self._held_from, self._held_from + size
        data = self._held[start:end]
        if end < len(self._held):
            self._held_from = end
        else:
            self._held = b""
        return data

    def send(self, data: bytes) -> int:
        """How much of it was taken; TimeoutError from time to time."""
        self._look()
        try:
            sent = self._below.send(data)
        except TimeoutError:
            now_s = time.monotonic()
            if self._blocked_since_s is None:
                self._blocked_since_s = now_s
            elif now_s > self._blocked_since_s + self._stall_s:
                raise self.fail(Cause.STALLED) from None
            raise
        except OSError as error:
            raise self.fail(Cause.RESET, _said(error)) from None
        self._blocked_since_s = None
        return sent

    def close(self) -> None:
        """End it. The descriptor stays until `release`: whoever still reads must not find another one under its number."""
        self._closed = True
        self.fail(Cause.CLOSED)

    def settimeout(self, timeout_s: float) -> None:
        """Ours hold."""

    def _receive(self) -> bytes:
        self._look()
        try:
            data = self._below.recv(_READ_BYTES if self._bytes_left is None else _READ_BEFORE_LOGIN)
        except TimeoutError:
            raise
        except OSError as error:
            raise self.fail(Cause.RESET, _said(error)) from None
        if not data:
            self.fail(Cause.EOF)
        if len(self.beginning) < _BEGINNING_BYTES:
            self.beginning += data[: _BEGINNING_BYTES - len(self.beginning)]
        if self._bytes_left is not None:
            self._bytes_left -= len(data)
            if self._bytes_left < 0:
                raise self.fail(Cause.FLOOD)
        return data

    @staticmethod
    def _broken(cause: Cause) -> ConnectionError:
        return ConnectionError(errno.ECONNABORTED, cause.value)  # paramiko prints both, and fails over one without a number

    def _look(self) -> None:
        if self.cause is not None:
            raise self._broken(self.cause)
        if self._deadline_s is not None and time.monotonic() > self._deadline_s:
            raise self.fail(Cause.DEADLINE)


def _said(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
