"""The supervisor as the monitor sees it: a pidfd, so that no signal can ever reach somebody else under the same number."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Overseen:
    """A process above us."""

    pid: int
    descriptor: int

    @classmethod
    def above_us(cls, pid: int) -> Overseen | None:
        """The process of this number, if it is an ancestor of ours; None when it is not (any more)."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        # Asked after it was opened: an ancestor lives, so the descriptor is that of this very process.
        if pid in _ancestors():
            return cls(pid, descriptor)
        os.close(descriptor)
        return None

    def dump(self) -> None:
        """Have it write its stacks to the log."""
        self._signal(signal.SIGUSR2)

    def kill(self) -> None:
        """End it; everything else dies with it, and supervisord starts it anew."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, number)


def _ancestors() -> list[int]:
    found, pid = [], os.getppid()
    while pid > 1:
        found.append(pid)
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            break
        pid = int(stat[stat.rindex(b")") + 2 :].split()[1])  # proc(5): state, then ppid
    return found
