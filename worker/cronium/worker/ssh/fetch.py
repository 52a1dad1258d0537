"""Fetching what a job left in its output directory: a tar, into a file of ours that has no name.

Runs in a worker's helper thread. The server decides what it sends, so how much and how long is bounded here.
"""

from __future__ import annotations

import errno
import select
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.ssh.channel import STDOUT, RemoteChannel
from cronium.worker.ssh.commands import Marker, RemoteError, RemotePlace, results_command
from cronium.worker.ssh.connection import Connection

_PIECE_BYTES: Final = 256 * 1024
_OPEN_S: Final = 15.0
_SILENT_S: Final = 30.0
_LOOK_S: Final = 0.5
_BESIDE_BYTES: Final = 1024 * 1024  # what a login shell prints, on either stream
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def fetch_results(
    connection: Connection,
    place: RemotePlace,
    said_bytes: int,
    most: int,
    scratch: Path,
    timeout_s: float,
    enough: Callable[[], bool],
) -> IO[bytes] | None:
    """The archive, at its start, cut at `most` bytes; None when there is none. `enough`: nobody wants it any more.

    `said_bytes`: what its place says that it has. Raises ExecutionError: unreachable when the way there is lost, or the archive
    ends before that, ssh_protocol when something else comes, disk_full when our own disk has no room, internal when it takes
    nothing for another reason.
    """
    try:
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed by whoever reads it
    except OSError as error:
        raise _not_kept(scratch, error) from error
    try:
        channel = connection.open(results_command(place), _OPEN_S)
        try:
            size = _copy(channel, file, most, _Limits(connection, most + _BESIDE_BYTES, timeout_s, enough))
            if size < min(said_bytes, most):  # a channel that is lost ends like a file
                raise _cut(connection, size, said_bytes)
        finally:
            channel.close()
        file.seek(0)
    except RemoteError:
        file.close()
        return None
    except OSError as error:
        _drop(file)
        raise _not_kept(scratch, error) from error
    except ExecutionError:
        _drop(file)
        raise
    return file


class _Limits:
    """How much may come, on both streams together, and for how long."""

    def __init__(self, connection: Connection, most: int, timeout_s: float, enough: Callable[[], bool]) -> None:
        self._address, self._left_bytes, self._enough = connection.server.address, most, enough
        self._heard_s = time.monotonic()
        self._give_up_s = self._heard_s + timeout_s

    def check(self, came_bytes: int) -> None:
        """After each look at the channel. Raises ExecutionError."""
        now_s = time.monotonic()
        self._left_bytes -= came_bytes
        if came_bytes:
            self._heard_s = now_s
        if self._left_bytes < 0:
            text = "sends more than the job's files: see the login's shell and what its start files print"
            raise ExecutionError(Reason.SSH_PROTOCOL, f"{self._address} {text}")
        if now_s > min(self._give_up_s, self._heard_s + _SILENT_S) or self._enough():
            text = "has not sent all of the job's files in time: check the network"
            raise ExecutionError(Reason.UNREACHABLE, f"{self._address} {text}")


def _copy(channel: RemoteChannel, file: IO[bytes], most: int, limits: _Limits) -> int:
    marker: Marker | None = Marker()
    size = 0
    poller = select.poll()
    poller.register(channel.descriptor, select.POLLIN)
    while size < most:
        piece = channel.take(_PIECE_BYTES)
        limits.check(0 if piece is None else len(piece[1]))
        if piece is None:
            if channel.ended:
                break
            poller.poll(_LOOK_S * 1000)
            continue
        number, data = piece
        if number != STDOUT:
            continue
        if marker is not None:
            found = marker.feed(data)
            if found is None:
                continue
            marker, data = None, found[1]
        size += file.write(data[: most - size])
    file.flush()
    return size


def _cut(connection: Connection, size: int, said_bytes: int) -> ExecutionError:
    text = f"{size} of {said_bytes} bytes of the job's files came, then no more: check the network"
    return ExecutionError(Reason.UNREACHABLE, f"{connection.server.address}: {text}")


def _drop(file: IO[bytes]) -> None:
    with suppress(OSError):  # what it still held finds no room either
        file.close()


def _not_kept(scratch: Path, error: OSError) -> ExecutionError:
    if error.errno in _FULL:
        return ExecutionError(Reason.DISK_FULL, f"the disk of {scratch} is full: make room there")
    return ExecutionError(Reason.INTERNAL, f"the job's files cannot be kept in {scratch} ({error}): see its rights and its disk")
