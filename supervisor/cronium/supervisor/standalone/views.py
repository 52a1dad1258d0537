"""How a job looks to a client: JSON of its row, and of everything about it. Pure but for reading the store it is given."""

from __future__ import annotations

from typing import Any

from cronium.supervisor.standalone import operations
from cronium.supervisor.standalone.operations import iso
from cronium.supervisor.standalone.rules import Job
from cronium.supervisor.standalone.store import Store

HIDDEN = "***"
_SECRETS = frozenset({"privateKey", "passphrase", "password"})
_LOGS_COMPLETE: dict[str | None, bool | str | None] = {None: None, "true": True, "false": False, "pending": "pending"}


def summary(job: Job) -> dict[str, Any]:
    """A job in a list."""
    return {
        "id": job.id,
        "number": job.number,
        "status": job.status,
        "exitCode": job.exit_code,
        "type": job.type,
        "executor": job.executor,
        "priority": job.priority,
        "createdAt": iso(job.created_ms),
        "scheduledFor": iso(job.scheduled_ms or None),
        "startedAt": iso(job.started_ms),
        "endedAt": iso(job.ended_ms),
        "attempts": job.attempts + (job.attempt if job.attempt is not None else int(job.acknowledged)),
        "orchestratorId": job.owner,
        "epoch": job.epoch,
        "cancelRequested": job.cancel_ms is not None,
        "lastSequence": job.last_sequence,
        "logBytes": job.log_bytes,
        "logsComplete": logs_complete(job),
        "terminalReports": job.reports,
        "refusedReports": job.refused_reports,
    }


def logs_complete(job: Job) -> bool | str | None:
    """`logsComplete`: true, false, "pending", or null when no report says what was sent."""
    return _LOGS_COMPLETE[job.logs_complete]


def settled(job: Job) -> bool:
    """Whether nothing more is to come: it has ended, and its lines are checked or cannot be."""
    return job.ended and job.logs_complete != "pending"


def everything(store: Store, job: Job) -> dict[str, Any]:
    """All that is known of a job; secrets of what it was told are hidden."""
    report = store.blob(job, "report")
    found = operations.verdict(store, job)
    view = summary(job)
    view["leaseExpiresAt"] = iso(job.lease_ms)
    view["job"] = without_secrets(store.blob(job, "spec"))
    view["details"] = details = store.blob(job, "details") or {}
    view["report"] = report
    view["error"] = (report or {}).get("error", details.get("error"))
    view["logsCheck"] = (
        None
        if found is None
        else {
            "state": logs_complete(job),
            "missing": [list(gap) for gap in found.missing[:100]],
            "problems": list(found.problems),
        }
    )
    return view


def without_secrets(spec: Any) -> Any:
    """A QueuedJob whose environment values and credentials are not shown."""
    if isinstance(spec, list):
        return [without_secrets(item) for item in spec]
    if not isinstance(spec, dict):
        return spec
    return {key: _shown(key, value) for key, value in spec.items()}


def _shown(key: str, value: Any) -> Any:
    if key in _SECRETS and value is not None:
        return HIDDEN
    if key == "environment" and isinstance(value, dict):
        return dict.fromkeys(value, HIDDEN)
    return without_secrets(value)
