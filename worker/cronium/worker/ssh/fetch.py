"""Fetching what a job left in its output directory: a tar, into a file of ours that has no name.

Runs in a worker's helper thread. The server decides what it sends, so how much and how long is bounded here.
"""

from __future__ import annotations

import select
import tempfile
import time
from pathlib import Path
from typing import IO

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.ssh.commands import Marker, RemoteError, RemotePlace, results_command
from cronium.worker.ssh.connection import Connection

_PIECE_BYTES = 256 * 1024
_OPEN_S = 15.0
_SILENT_S = 30.0


def fetch_results(connection: Connection, place: RemotePlace, most: int, scratch: Path, timeout_s: float) -> IO[bytes] | None:
    """The archive, at its start, cut at `most` bytes; None when there is none.

    Raises ExecutionError when the way there is lost.
    """
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    channel = connection.open(results_command(place), _OPEN_S)
    file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - closed by whoever reads it
    marker: Marker | None = Marker()
    size = 0
    give_up_s = time.monotonic() + timeout_s
    poller = select.poll()
    poller.register(channel.descriptor, select.POLLIN)
    try:
        while size < most:
            piece = channel.take(_PIECE_BYTES)
            if piece is None:
                if channel.ended:
                    break
                _wait(poller, give_up_s, connection)
                continue
            number, data = piece
            if number != 1:
                continue
            if marker is not None:
                found = marker.feed(data)
                if found is None:
                    continue
                marker, data = None, found[1]
            size += file.write(data[: most - size])
    except RemoteError:
        file.close()
        return None
    except ExecutionError:
        file.close()
        raise
    finally:
        channel.close()
    if size == 0:
        file.close()
        return None
    file.seek(0)
    return file


def _wait(poller: select.poll, give_up_s: float, connection: Connection) -> None:
    if not poller.poll(_SILENT_S * 1000) or time.monotonic() > give_up_s:
        raise ExecutionError(
            Reason.UNREACHABLE, f"{connection.server.address} has stopped sending the job's files: check the network"
        )
