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
from cronium.supervisor.core.core import WORKER
from cronium.supervisor.core.roles import QUEUE
from cronium.supervisor.core.state import JobState

INTERVAL_S = 30.0  # the contract allows 60 in five minutes
_BEAT_IS_OLD_S = 5.0
_KINDS = {WORKER: "workers", QUEUE: "standaloneQueue"}
_QUEUED = (JobState.RECEIVED, JobState.READY, JobState.WAITING)


@dataclass(slots=True)
class HealthReport:
    """What is known between two reports."""

    orchestrator_id: str
    started_s: float = field(default_factory=time.monotonic)
    _beat: StreamerBeat | None = None
    _beat_s: float = 0.0
    _due_s: float = 0.0
    _processes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def beat(self, beat: StreamerBeat, now_s: float) -> None:
        """The streamer's word on itself."""
        self._beat, self._beat_s = beat, now_s

    def is_due(self, now_s: float) -> bool:
        """Whether it is time for one."""
        return now_s >= self._due_s

    def body(
        self,
        counts: Mapping[str, int],
        servers: Mapping[str, object],
        processes: Mapping[str, Mapping[str, int]],
        *,
        api_works: bool,
        now_s: float,
    ) -> dict[str, object]:
        """The report; the next is due half a minute later. `counts`, `servers` and `processes`: see `Core`.

        A kind of process of which one has hung or died since the last report is degraded in this one.
        """
        self._due_s = now_s + INTERVAL_S
        before, self._processes = self._processes, {kind: dict(figures) for kind, figures in processes.items()}
        streamer_lives = now_s - self._beat_s < _BEAT_IS_OLD_S
        connected = streamer_lives and self._beat is not None and self._beat.connected
        full = self._beat is not None and self._beat.spool_full
        own = psutil.Process()
        family = [own, *own.children(recursive=True)]
        return {
            "orchestratorId": self.orchestrator_id,
            "timestamp": iso_now(),
            "status": "healthy" if connected and api_works and not full else "degraded",
            "version": VERSION,
            "uptime": round(now_s - self.started_s, 1),
            "components": {
                "sshPools": {**_component(works=not servers["openBreakers"]), "metadata": dict(servers)},
                "api": _component(works=api_works),
                "websocket": self._websocket(connected=connected and not full),
                **{
                    _KINDS.get(kind, kind): {**_component(works=before.get(kind, figures) == figures), "metadata": figures}
                    for kind, figures in self._processes.items()
                },
            },
            "metrics": {
                "activeJobs": counts.get(JobState.RUNNING, 0),
                "queuedJobs": sum(counts.get(state, 0) for state in _QUEUED),
                "completedJobs": counts.get("completed", 0),
                "failedJobs": counts.get("failed", 0) + counts.get("timeout", 0),
                "cpuUsage": psutil.cpu_percent(),
                "memoryUsage": sum(_memory(process) for process in family),
                "processes": len(family),
            },
        }

    def _websocket(self, *, connected: bool) -> dict[str, object]:
        component = _component(works=connected)
        if (beat := self._beat) is not None:
            component["metadata"] = {
                "spoolBytes": beat.spool_bytes,
                "spoolMaxBytes": beat.spool_max_bytes,
                "spoolFull": beat.spool_full,
                "givenUpLines": beat.given_up_lines,
                "reconnects": beat.reconnects,
            }
        return component


def _component(*, works: bool) -> dict[str, object]:
    return {"status": "healthy" if works else "degraded", "lastCheck": iso_now()}


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0  # it has ended since
