"""What signals mean: SIGTERM stops as configured, SIGQUIT drains, SIGINT drains and, said again, ends what runs.

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

_LAST_S = 1.5  # after the second SIGINT: what has not ended by then is left to the next start


class StopOrders:
    """Signals as orders. `on_stop` is jobs.onStop; `tell` shows a line to whoever pressed the keys."""

    def __init__(self, on_stop: str, tell: Callable[[str], None]) -> None:
        self._on_stop = on_stop
        self._tell = tell
        self._descriptor, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._new: list[signal.Signals] = []
        self._interrupts = 0
        self._detach = False
        self._leave_at_s: float | None = None
        self._killed = False

    def install(self) -> None:
        """Take the signals. Main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._take)
        # A signal that comes while the loop waits must wake it, though the handler runs only after the wait.
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def fileno(self) -> int:
        """See `loop.Orders`."""
        return self._descriptor

    def events(self, busy: int) -> list[on.Event]:
        """See `loop.Orders`."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 64)
        new, self._new = self._new, []
        out: list[on.Event] = []
        for number in new:
            out.extend(self._obey(number, busy))
        if self._leave_at_s is not None and not self._killed:
            self._killed = True
            out += [on.CancelAll(), on.CancelAll()]  # the second means: at once
        return out

    def leave_now(self, now_s: float) -> bool:
        """See `loop.Orders`."""
        return self._detach or (self._leave_at_s is not None and now_s >= self._leave_at_s)

    def _obey(self, number: signal.Signals, busy: int) -> list[on.Event]:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts == 1:
                if busy:
                    self._tell(f"Waiting for {busy} running job{'s' if busy > 1 else ''}; press Ctrl-C again to end them.")
                return [on.DrainRequested()]
            self._leave_at_s = self._leave_at_s or time.monotonic() + _LAST_S
            return []
        if number == signal.SIGQUIT or self._on_stop == "drain":
            return [on.DrainRequested()]
        if self._on_stop == "cancel":
            return [on.CancelAll()]
        self._detach = True
        return []

    def _take(self, number: int, _frame: FrameType | None) -> None:
        self._new.append(signal.Signals(number))
