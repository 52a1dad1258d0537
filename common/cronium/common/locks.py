"""Locks on files between processes, with a deadline: whoever holds one may have been stopped. Used by every process."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from typing import Final

_FIRST_PAUSE_S: Final = 0.0002
_LONGEST_PAUSE_S: Final = 0.002


def lock(descriptor: int, timeout_s: float) -> None:
    """Take the file for us alone, until the descriptor is closed (flock(2)). Raises OSError; ETIMEDOUT when somebody holds it."""
    deadline_s = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise OSError(errno.ETIMEDOUT, f"another process has held its lock for {timeout_s:g} s") from None
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        else:
            return


def write_whole(descriptor: int, data: bytes) -> None:
    """One write; less than all of it is an error. Raises OSError."""
    if os.write(descriptor, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
