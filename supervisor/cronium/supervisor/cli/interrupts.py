"""Signals that ask for the end of what a command is doing, as numbers that a loop can look at.

Runs in the command line's process, in its main thread; handlers only note.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Within it, signals are counted instead of ending the process."""

    def __init__(self) -> None:
        self._descriptor, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.count = 0
        self.first: int | None = None

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            signal.signal(number, self._take)
        # A signal that comes while we wait must end the wait, though the handler runs only after it.
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, before in self._before.items():
            # Who has asked for the end may ask once more while we leave: the exit code is known, and not to be lost by that.
            signal.signal(number, signal.SIG_IGN if self.count else before)
        os.close(self._descriptor)
        os.close(self._wake)

    def fileno(self) -> int:
        """Readable when there was a signal since the last `taken`."""
        return self._descriptor

    def taken(self) -> int:
        """How many there were so far."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 64)
        return self.count

    def _take(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self.first = self.first or number
