"""A process of its own that is not forked: the standalone queue, which has to survive the forkserver's death.

Started from a module with a `__main__`; it gets its settings as one blob on stdin (no token in argv or environment) and dies
with us.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Role:
    """One process. `settings` is asked for at each start; `descriptor` is its pidfd, -1 while there is none.

    `environ`: what stands in its environment beside what stands in ours.
    """

    name: str
    module: str
    settings: Callable[[], bytes]
    wants_stdout: bool = False
    environ: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    descriptor: int = -1

    def start(self) -> None:
        """Start it now. Main thread only: the kernel ends it with the thread that forked it. Raises OSError."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if self.wants_stdout else None,
            env={**os.environ, **self.environ},
            start_new_session=True,  # Ctrl-C in a terminal is for the supervisor alone
        )
        self.descriptor = os.pidfd_open(self.process.pid)
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            self.process.stdin.write(self.settings())
            self.process.stdin.close()
        except BrokenPipeError:
            return  # it is dead already, which its descriptor tells

    def reap(self) -> str:
        """Let go of it when it is dead; how it ended."""
        assert self.process is not None  # noqa: S101 - it was started
        code = self.process.wait()
        os.close(self.descriptor)
        self.descriptor = -1
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it is there."""
        if self.process is not None and self.descriptor >= 0:
            self.process.send_signal(number)

    def stop(self, deadline_s: float) -> None:
        """SIGTERM, and SIGKILL when it is still there at `deadline_s` (monotonic)."""
        if self.process is None or self.descriptor < 0:
            return
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(max(0.05, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.reap()
