"""What signals mean: SIGTERM stops as configured, SIGQUIT drains, SIGINT drains, said again ends what runs, a third time leaves.

Runs in the supervisor's main thread; handlers only count. See README, 'Stopping'.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from types import FrameType

from cronium.supervisor.core import events as on

_REPORTS_S = 1.5  # after the second SIGINT: what the backend has not taken by then is said by the next start
_PLACES_S = 10.0  # and what an engine has not ended by then is found by the next start


class StopOrders:
    """Signals as orders. `on_stop` is jobs.onStop; `tell` shows a line to whoever pressed the keys."""

    def __init__(self, on_stop: str, tell: Callable[[str], None]) -> None:
        self._on_stop = on_stop
        self._tell = tell
        self._descriptor, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._new: list[signal.Signals] = []
        self._interrupts = 0
        self._detach = False
        self._ended_s: float | None = None  # when it was said for the second time
        self._killed = False
        self._busy = 0

    def install(self) -> None:
        """Take the signals. Main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._take)
        # A signal that comes while the loop waits must wake it, though the handler runs only after the wait.
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def fileno(self) -> int:
        """See `loop.Orders`."""
        return self._descriptor

    def events(self, busy: int, *, stuck: bool = False) -> list[on.Event]:
        """See `loop.Orders`. Where nothing can be written down nothing can be waited for, so the first SIGINT already leaves."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 64)
        new, self._new = self._new, []
        out: list[on.Event] = []
        for number in new:
            if stuck and number == signal.SIGINT:
                self._tell("Nothing can be written down, so nothing is waited for. Jobs go on in their places.")
                self._detach = True
            else:
                out.extend(self._obey(number, busy))
        self._busy = busy
        if self._ended_s is not None and not self._killed:
            self._killed = True
            out.append(on.CancelAll(at_once=True))
        return out

    def leave_now(self, now_s: float) -> bool:
        """See `loop.Orders`."""
        if self._detach:
            return True
        if self._ended_s is None:
            return False
        return now_s >= self._ended_s + (_PLACES_S if self._busy else _REPORTS_S)

    def _obey(self, number: signal.Signals, busy: int) -> list[on.Event]:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts == 1:
                if busy:
                    self._tell(f"Waiting for {busy} running job{'s' if busy > 1 else ''}; press Ctrl-C again to end them.")
                return [on.DrainRequested()]
            if self._interrupts > 2:
                self._detach = True
            self._ended_s = self._ended_s or time.monotonic()
            return []
        if number == signal.SIGQUIT or self._on_stop == "drain":
            return [on.DrainRequested()]
        if self._on_stop == "cancel":
            return [on.CancelAll()]
        self._detach = True
        return []

    def _take(self, number: int, _frame: FrameType | None) -> None:
        self._new.append(signal.Signals(number))
