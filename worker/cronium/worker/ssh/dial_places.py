"""How many log in to one server at the same moment, over all processes of ours: below what sshd's MaxStartups drops.

Runs in a worker. A place is a locked file in the runtime directory, so that the kernel gives it back when its holder dies.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cronium.common.errors import ExecutionError, Reason
from cronium.common.servers import Address

_PAUSE_S: Final = (0.01, 0.03)


class NoPlaceError(ExecutionError):
    """None of our places was free in time, which says nothing of the server."""


@contextmanager
def place_to_dial(
    folder: Path, address: Address, places: int, deadline_s: float, through: Address | None = None
) -> Iterator[None]:
    """Hold one of the places for this host and port, as it is behind this jump host. Blocking, until `deadline_s` (monotonic).

    Raises NoPlaceError (UNREACHABLE) when none was free in time, ExecutionError(INTERNAL) when the folder cannot be used.
    """
    where = f"{address.host}:{address.port}" + ("" if through is None else f" through {through.host}:{through.port}")
    name = hashlib.sha256(where.encode()).hexdigest()[:16]
    while True:
        for number in random.sample(range(places), places):
            descriptor = _opened(folder / f"dial-{name}-{number}.lock")
            try:
                if _locked(descriptor):
                    yield
                    return
            finally:
                os.close(descriptor)
        pause_s = random.uniform(*_PAUSE_S)  # noqa: S311 - so that not all come back at once
        if time.monotonic() + pause_s > deadline_s:
            raise NoPlaceError(
                Reason.UNREACHABLE,
                f"{address}: {places} others of ours log in to it at the same moment, and none was done in time: see what it does"
                " with them, or raise ssh.connectionPool.maxDials",
                server=str(address),
            )
        time.sleep(pause_s)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        step = f"make its directory writable for uid {os.geteuid()}, with room on its disk"
        raise ExecutionError(Reason.INTERNAL, f"{path} cannot be opened ({error.strerror}): {step}") from error


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
