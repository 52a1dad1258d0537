"""A blocking call on its way in a thread of its own, whose end can be waited for together with other things.

Runs in a worker, for what must not stop the reading of a job's output: an engine may take a minute to say nothing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from cronium.common.errors import ExecutionError, Reason

T = TypeVar("T")


class Errand(Generic[T]):
    """One call at a time. `descriptor` is readable once it is back. `discard` gets a result that nobody takes any more."""

    def __init__(self, discard: Callable[[T], object] | None = None) -> None:
        self._discard = discard
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._out = False
        self._result: T | None = None
        self._error: ExecutionError | None = None
        self._back = False
        self._lock = threading.Lock()
        self._closed = False

    @property
    def out(self) -> bool:
        """Whether it is on its way, or back and not yet taken."""
        return self._out

    def send(self, function: Callable[[], T]) -> None:
        """Start it; there must be none on its way."""
        self._out, self._result = True, None
        self._error = ExecutionError(Reason.INTERNAL, "an errand to the engine broke off: see the worker's log")
        threading.Thread(target=self._run, args=(function,), name="errand", daemon=True).start()

    def take(self) -> tuple[T | None, ExecutionError | None] | None:
        """What it brought back (result, error); None while it is out, or when there is none."""
        with self._lock:
            if not self._back:
                return None
            self._back = self._out = False
            os.eventfd_read(self.descriptor)
            return self._result, self._error

    def close(self) -> None:
        """Forget about it; one that is still out ends unheard."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.close(self.descriptor)
        if self._back:
            self._drop()

    def _run(self, function: Callable[[], T]) -> None:
        try:
            self._result = function()
            self._error = None
        except ExecutionError as error:
            self._error = error
        finally:  # whatever else it raises is shown by the thread's own hook, and must not leave the errand out for ever
            with self._lock:
                unheard = self._closed
                if not unheard:
                    self._back = True
                    os.eventfd_write(self.descriptor, 1)
            if unheard:
                self._drop()

    def _drop(self) -> None:
        result, self._result = self._result, None
        if result is not None and self._discard is not None:
            self._discard(result)
