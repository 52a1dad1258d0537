"""The supervisor's other processes: the streamer and, standalone, the queue. Started, watched by pidfd, started again.

A role is a module with a `__main__`; it gets its settings as one blob on stdin (no token in argv or environment), dies with us,
and is started again at once when it dies, after a pause that grows when it dies young.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

_YOUNG_S = 2.0  # a role that lived longer is started again without a pause
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_log = structlog.get_logger()


@dataclass(slots=True)
class Role:
    """One process that must be there. `settings` is asked for at each start."""

    name: str
    module: str
    settings: Callable[[], bytes]
    wants_stdout: bool = False
    process: subprocess.Popen[bytes] | None = None
    descriptor: int = -1
    _started_s: float = 0.0
    _failures: int = 0
    _start_at_s: float = field(default=0.0)

    def start(self) -> None:
        """Start it now. Main thread only: the kernel ends it with the thread that forked it."""
        self._started_s = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if self.wants_stdout else None,
            start_new_session=True,  # Ctrl-C in a terminal is for the supervisor alone
        )
        self.descriptor = os.pidfd_open(self.process.pid)
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            self.process.stdin.write(self.settings())
            self.process.stdin.close()
        except BrokenPipeError:
            return  # it is dead already, which its descriptor tells

    def died(self, now_s: float) -> None:
        """It is dead: say so, and when it is to be started again."""
        assert self.process is not None  # noqa: S101 - it was started
        code = self.process.wait()
        os.close(self.descriptor)
        self.descriptor = -1
        self._failures = 0 if now_s - self._started_s > _YOUNG_S else self._failures + 1
        pause_s = 0.0 if self._failures <= 1 else min(_FIRST_PAUSE_S * 2.0**self._failures, _LONGEST_PAUSE_S)
        self._start_at_s = now_s + pause_s
        _log.warning("role died", role=self.name, code=code, again_in_s=round(pause_s, 2))

    def due_s(self) -> float | None:
        """When (monotonic) it is to be started again; None while it runs."""
        return self._start_at_s if self.descriptor < 0 else None

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        if self.process is not None and self.descriptor >= 0:
            self.process.send_signal(signal.SIGTERM)

    def stop(self, deadline_s: float) -> None:
        """SIGTERM, and SIGKILL when it is still there at `deadline_s` (monotonic)."""
        if self.process is None or self.descriptor < 0:
            return
        self.ask_to_stop()
        try:
            self.process.wait(max(0.05, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.descriptor)
        self.descriptor = -1
