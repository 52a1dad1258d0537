"""File descriptors: how many we may have, whether they are enough, and how one is waited for.

Used in the supervisor's process. A forkserver to which we have connected, and for which we then have no pipes, dies with all that
it has forked (CPython, Lib/multiprocessing/forkserver.py): so there must be enough before anybody asks it for anything.
"""

from __future__ import annotations

import os
import resource
import select
from contextlib import ExitStack

_OF_A_WORKER = 4  # its pidfd, its status, what shows it that we live, its connection
_OF_OURS = 64  # some 30 without any worker, and those of roles and of workers that are being replaced
_OF_A_START = 8  # multiprocessing has seven open for a moment, of which two stay; then comes the pidfd


def raise_limit() -> int:
    """As many descriptors as the hard limit allows, for us and what we start; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def needed(workers: int) -> int:
    """How many descriptors a supervisor with so many workers may come to have. Pure."""
    return _OF_OURS + _OF_A_WORKER * workers


def check_room() -> None:
    """Raises OSError when there are too few left to fork one process more."""
    with ExitStack() as stack:
        for _ in range(_OF_A_START):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def wait_readable(descriptor: int, timeout_s: float) -> bool:
    """Whether it can be read, at the latest after `timeout_s`; of a pidfd: whether the process is dead. No number is too high."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(max(0.0, timeout_s) * 1000))
