"""The health report that the backend gets every half minute (PROTOCOL.md, `POST /orchestrator/health`).

Runs in the supervisor's loop; says what the status report says, and what the kernel knows of our processes.
"""

from __future__ import annotations

from collections.abc import Mapping

import psutil

from cronium.supervisor.core.core import WORKER
from cronium.supervisor.core.roles import QUEUE
from cronium.supervisor.core.state import JobState
from cronium.supervisor.status.report import Output, Report

INTERVAL_S = 30.0  # the contract allows 60 in five minutes
_KINDS = {WORKER: "workers", QUEUE: "standaloneQueue"}
_QUEUED = (JobState.RECEIVED, JobState.READY, JobState.WAITING)


def body(report: Report) -> dict[str, object]:
    """The body. A kind of process of which one has hung or died lately is degraded in it."""
    own = psutil.Process()
    family = [own, *own.children(recursive=True)]
    checked, output, servers = report.timestamp, report.output, report.servers
    return {
        "orchestratorId": report.installation,
        "timestamp": report.timestamp,
        "status": report.status,
        "version": report.version,
        "uptime": report.uptime_s,
        "components": {
            "sshPools": _component(checked, servers.model_dump(mode="json", by_alias=True), works=not servers.open_breakers),
            "api": _component(checked, works=bool(report.backend.works)),
            "websocket": _component(checked, _spool(output), works=output.connected and not output.spool_full),
            **{
                _KINDS.get(kind, kind): _component(
                    checked, {"restarts": figures.restarts, "hung": figures.hung}, works=not figures.recently
                )
                for kind, figures in report.processes.items()
            },
        },
        "metrics": {
            "activeJobs": report.jobs[JobState.RUNNING],
            "queuedJobs": sum(report.jobs[state] for state in _QUEUED),
            "completedJobs": report.ended_jobs["completed"],
            "failedJobs": report.ended_jobs["failed"] + report.ended_jobs["timeout"],
            "cpuUsage": psutil.cpu_percent(),
            "memoryUsage": sum(_memory(process) for process in family),
            "processes": len(family),
        },
    }


def _spool(output: Output) -> dict[str, object]:
    return {
        "spoolBytes": output.spool_bytes,
        "spoolMaxBytes": output.spool_max_bytes,
        "spoolFull": output.spool_full,
        "givenUpLines": output.lines_given_up,
        "reconnects": output.reconnects,
    }


def _component(checked: str, metadata: Mapping[str, object] | None = None, *, works: bool) -> dict[str, object]:
    found: dict[str, object] = {"status": "healthy" if works else "degraded", "lastCheck": checked}
    return found if metadata is None else {**found, "metadata": metadata}


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0  # it has ended since
