"""Ending a job from outside: on request, past its deadline, when its place holds too much.

Runs in a worker, as a part of the follower's loop. The launcher ends a job by itself at its deadline; this is for when it cannot.
"""

from __future__ import annotations

import time

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.container.execution import Execution
from cronium.worker.errand import Errand

_SLACK_S = 5.0  # what the launcher may take beyond deadline and grace
_REPEAT_S = 3.0  # between two signals to a container that does not end
_FLOOD_LOOK_S = 0.5
_AFTER_DRAINED_S = 15.0


class Enforcer:
    """Decides which signal the container needs, and sends it."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._errand: Errand[None] = Errand()
        self._sent: str | None = None
        self._sent_s = 0.0
        self._terminated_s: float | None = None
        self._drained_s: float | None = None
        self._next_flood_s = 0.0

    def descriptors(self) -> tuple[int, ...]:
        """Readable when a signal was sent."""
        return (self._errand.descriptor,)

    def look(self) -> None:
        """Send what is due."""
        now_s = time.monotonic()
        back = self._errand.take()
        if back is not None and back[1] is not None:
            self._execution.engine_was_away = True
            self._sent = None  # not heard: say it again
        self._look_for_flood(now_s)
        signal = self._due(now_s)
        if signal is None or self._errand.out:
            return
        if signal == self._sent and (signal == "SIGTERM" or now_s < self._sent_s + _REPEAT_S):
            return
        engine, container = self._execution.engine, self._execution.container
        self._errand.send(lambda: engine.kill(container, signal))
        self._sent, self._sent_s = signal, now_s
        if signal == "SIGTERM":
            self._terminated_s = now_s

    def close(self) -> None:
        """Forget what is on its way."""
        self._errand.close()

    def _due(self, now_s: float) -> str | None:
        """The signal that the container should have had by now. TERM said again means nothing more to the launcher."""
        execution = self._execution
        grace_s = execution.settings.grace_s + _SLACK_S
        if execution.story.drained is not None:
            self._drained_s = self._drained_s or now_s
            return "SIGKILL" if now_s > self._drained_s + _AFTER_DRAINED_S else None
        if now_s > execution.deadline_s() + grace_s:
            execution.overdue = True
            return "SIGKILL"
        cancelled = execution.control.cancelled()
        late = self._terminated_s is not None and now_s > self._terminated_s + grace_s
        if execution.verdict is not None or cancelled > 1 or late:
            return "SIGKILL"
        return "SIGTERM" if cancelled else None

    def _look_for_flood(self, now_s: float) -> None:
        execution = self._execution
        if now_s < self._next_flood_s or execution.verdict is not None or execution.files is None:
            return
        self._next_flood_s = now_s + _FLOOD_LOOK_S
        much = execution.files.overfull()
        if much is not None:
            execution.verdict = ExecutionError(
                Reason.OUTPUT_FLOOD,
                f"the job was ended: {much}; print to stdout and stderr, and leave files in $CRONIUM_OUTPUT_DIR",
            )
