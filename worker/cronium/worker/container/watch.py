"""Looking at a running container from time to time: CPU for the report, writable space where no quota holds it.

Runs in a worker, as a part of the follower's loop; the engine's answers come by errand. It walks the files to know their size, so
the pause grows with what a look costs: a limit is noticed after seconds, not at the byte.
"""

from __future__ import annotations

import time

from cronium.common.config.units import format_size
from cronium.common.errors import ExecutionError, Reason
from cronium.worker.container.execution import Execution
from cronium.worker.errand import Errand

_CPU_FIRST_S, _CPU_EVERY_S = 2.0, 5.0
_DISK_FIRST_S, _DISK_EVERY_S = 1.0, 2.0
_DISK_COST = 20  # a look is at most a twentieth of the time


class Watch:
    """Two errands in turn."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        now_s = time.monotonic()
        self._cpu: Errand[int | None] = Errand()
        self._disk: Errand[int | None] = Errand()
        self._cpu_at_s, self._disk_at_s = now_s + _CPU_FIRST_S, now_s + _DISK_FIRST_S
        self._disk_sent_s = now_s
        self._last: tuple[float, int] | None = None
        self.peak_cpu_percent: float | None = None

    def descriptors(self) -> tuple[int, ...]:
        """Readable when an answer is there."""
        return (self._cpu.descriptor, self._disk.descriptor)

    def look(self) -> None:
        """Take answers, ask when it is time."""
        now_s = time.monotonic()
        self._take_cpu(now_s)
        self._take_disk(now_s)
        engine, container = self._execution.engine, self._execution.container
        if not self._cpu.out and now_s >= self._cpu_at_s:
            self._cpu_at_s = now_s + _CPU_EVERY_S
            self._cpu.send(lambda: engine.cpu_usec(container))
        if not self._disk.out and now_s >= self._disk_at_s and not self._quota():
            self._disk_sent_s = now_s
            self._disk.send(lambda: engine.written_bytes(container))

    def close(self) -> None:
        """Forget what is on its way."""
        self._cpu.close()
        self._disk.close()

    def _quota(self) -> bool:
        return self._execution.found is not None and self._execution.found.disk_quota

    def _take_cpu(self, now_s: float) -> None:
        back = self._cpu.take()
        if back is None or back[0] is None:
            return
        if self._last is not None and now_s > self._last[0]:
            percent = (back[0] - self._last[1]) / (now_s - self._last[0]) / 10_000
            self.peak_cpu_percent = max(self.peak_cpu_percent or 0.0, round(percent, 1))
        self._last = (now_s, back[0])

    def _take_disk(self, now_s: float) -> None:
        back = self._disk.take()
        if back is None:
            return
        self._disk_at_s = now_s + max(_DISK_EVERY_S, _DISK_COST * (now_s - self._disk_sent_s))
        most = self._execution.plan.limits.disk_bytes
        if back[0] is not None and back[0] > most and self._execution.verdict is None:
            self._execution.verdict = ExecutionError(
                Reason.DISK_FULL,
                f"the job was ended: it has written {format_size(back[0])}, its limit is {format_size(most)}; ask for more "
                "(execution.resources.diskLimit)",
                written_bytes=back[0],
                disk_limit_bytes=most,
            )
