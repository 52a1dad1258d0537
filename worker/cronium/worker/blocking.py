"""Running something that blocks without blocking whoever waits for it.

Used by a worker's `Control`, whichever way it waits. Knows nothing of sockets or jobs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def call_in_thread(function: Callable[[], T], wait_for: Callable[[int], None]) -> T:
    """What `function` returns or raises; it runs in a thread while `wait_for` waits until a file descriptor is readable.

    What `wait_for` raises means that nobody waits any longer: the thread is left to itself.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    done = os.eventfd(0, os.EFD_CLOEXEC)

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again where the caller waits
            errors.append(error)
        os.eventfd_write(done, 1)

    thread = threading.Thread(target=run, name="blocking call", daemon=True)
    thread.start()
    # When this raises, the descriptor stays open: the thread that is left to itself will still write to it.
    wait_for(done)
    thread.join()
    os.close(done)
    if errors:
        raise errors[0]
    return results[0]
