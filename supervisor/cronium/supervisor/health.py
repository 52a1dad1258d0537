"""The health report that the backend gets every half minute (PROTOCOL.md, `POST /orchestrator/health`).

Runs in the supervisor's loop; says what it is told and what the kernel knows of our processes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil

from cronium.common import VERSION
from cronium.common.messages import StreamerBeat
from cronium.supervisor.backend.contract import iso_now
from cronium.supervisor.core.state import JobState

INTERVAL_S = 30.0  # the contract allows 60 in five minutes
_BEAT_IS_OLD_S = 5.0
_QUEUED = (JobState.RECEIVED, JobState.READY, JobState.WAITING)


@dataclass(slots=True)
class HealthReport:
    """What is known between two reports."""

    orchestrator_id: str
    started_s: float = field(default_factory=time.monotonic)
    _beat: StreamerBeat | None = None
    _beat_s: float = 0.0
    _due_s: float = 0.0

    def beat(self, beat: StreamerBeat, now_s: float) -> None:
        """The streamer's word on itself."""
        self._beat, self._beat_s = beat, now_s

    def is_due(self, now_s: float) -> bool:
        """Whether it is time for one."""
        return now_s >= self._due_s

    def body(
        self, counts: Mapping[str, int], servers: Mapping[str, object], *, api_works: bool, now_s: float
    ) -> dict[str, object]:
        """The report; the next is due half a minute later. `counts` and `servers`: see `Core`."""
        self._due_s = now_s + INTERVAL_S
        streamer_lives = now_s - self._beat_s < _BEAT_IS_OLD_S
        connected = streamer_lives and self._beat is not None and self._beat.connected
        own = psutil.Process()
        processes = [own, *own.children(recursive=True)]
        return {
            "orchestratorId": self.orchestrator_id,
            "timestamp": iso_now(),
            "status": "healthy" if connected and api_works else "degraded",
            "version": VERSION,
            "uptime": round(now_s - self.started_s, 1),
            "components": {
                "sshPools": {**_component(works=not servers["openBreakers"]), "metadata": dict(servers)},
                "api": _component(works=api_works),
                "websocket": self._websocket(connected=connected),
            },
            "metrics": {
                "activeJobs": counts.get(JobState.RUNNING, 0),
                "queuedJobs": sum(counts.get(state, 0) for state in _QUEUED),
                "completedJobs": counts.get("completed", 0),
                "failedJobs": counts.get("failed", 0) + counts.get("timeout", 0),
                "cpuUsage": psutil.cpu_percent(),
                "memoryUsage": sum(_memory(process) for process in processes),
                "processes": len(processes),
            },
        }

    def _websocket(self, *, connected: bool) -> dict[str, object]:
        component = _component(works=connected)
        if self._beat is not None:
            component["metadata"] = {"spoolBytes": self._beat.spool_bytes, "reconnects": self._beat.reconnects}
        return component


def _component(*, works: bool) -> dict[str, object]:
    return {"status": "healthy" if works else "degraded", "lastCheck": iso_now()}


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0  # it has ended since
