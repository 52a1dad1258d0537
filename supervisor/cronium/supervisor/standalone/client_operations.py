"""What requests of a client mean: submit, cancel, read lines. Each is one transaction; the database's thread only."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cronium.common.job import InvalidJobError, parse_job
from cronium.supervisor.standalone import rules
from cronium.supervisor.standalone.errors import ApiError, invalid
from cronium.supervisor.standalone.log_store import FrameRow
from cronium.supervisor.standalone.operations import Answer, granted, iso, known
from cronium.supervisor.standalone.rules import Job, Status
from cronium.supervisor.standalone.store import Store
from cronium.supervisor.standalone.views import settled, summary

_JOB_FIELDS = frozenset({"id", "type", "priority", "createdAt", "scheduledFor", "attempts", "metadata"})
_PAGE_BYTES = 1024 * 1024  # as stored, mostly compressed


@dataclass(frozen=True, slots=True)
class LogPage:
    """Stored frames to be read from `first` to `last`; `more`: there are further ones already; `job` as it is now."""

    job: Job
    first: int
    last: int
    frames: tuple[FrameRow, ...]
    more: bool


def queued_job(body: dict[str, Any], now_ms: int, *, check: bool) -> dict[str, Any]:
    """The QueuedJob of what a client sent. Raises ApiError with every reason why it is none.

    `check` false takes a job as it is, whatever its supervisor will say to it.
    """
    if body.get("execution") is None:
        execution = {key: value for key, value in body.items() if key not in _JOB_FIELDS and key != "execution"}
        body = {**{key: value for key, value in body.items() if key in _JOB_FIELDS}, "execution": execution}
    job = {
        "priority": 5,
        "scheduledFor": None,
        "metadata": {},
        **{key: value for key, value in body.items() if value is not None},
        "createdAt": iso(now_ms),
        "attempts": 0,
    }
    job.setdefault("id", f"job-{now_ms:x}-{secrets.token_hex(4)}")
    job.setdefault("type", _type(job["execution"]))
    if check:
        try:
            parse_job(job)
        except InvalidJobError as error:
            raise invalid([(problem.path, problem.message) for problem in error.problems]) from error
    return job


def submit(store: Store, queued: dict[str, Any], now_ms: int, max_queued: int) -> Answer:
    """Put a job into the queue."""
    if store.job(queued["id"]) is not None:
        raise ApiError(409, "RESOURCE_ALREADY_PROCESSED", f"there is a job {queued['id']} already: choose another id, or none")
    if store.count(Status.QUEUED) >= max_queued:
        raise ApiError(
            503, "SERVICE_UNAVAILABLE", f"the queue is full ({max_queued} jobs): try again later", headers={"Retry-After": "5"}
        )
    priority = queued["priority"]
    job = store.add(
        Job(
            number=0,
            id=queued["id"],
            type=str(queued["type"]),
            executor="ssh" if _type(queued["execution"]) == "ssh" else "container",
            priority=min(max(priority, 0), 10) if isinstance(priority, int) else 5,
            created_ms=now_ms,
            scheduled_ms=_scheduled_ms(queued["scheduledFor"]),
        )
    )
    store.put_blob(job, "spec", queued)
    return Answer(201, summary(job))


def cancel(store: Store, job_id: str, now_ms: int) -> Job:
    """Have a job ended. Raises ApiError when it has ended otherwise."""
    job = granted(rules.cancel(known(store, job_id), now_ms))
    store.save(job)
    return job


def read_logs(store: Store, job_id: str, first: int, *, past_holes: bool) -> LogPage:
    """The next lines from `first` on. Lines behind a hole of the current epoch wait for it unless nothing more is to come."""
    job = known(store, job_id)
    last = job.last_sequence
    if not past_holes and not settled(job):
        begun = store.logs.extents(job.number, job.epoch, job.first_sequence, job.first_sequence)
        last = begun[0].last if begun and begun[0].first <= job.first_sequence else job.first_sequence - 1
    frames, more = store.logs.frames(job.number, first, last, _PAGE_BYTES)
    return LogPage(job, first, last, tuple(frames), more)


def _type(execution: Any) -> str:
    target = execution.get("target") if isinstance(execution, dict) else None
    if isinstance(target, dict) and target.get("type") == "server":
        return "ssh"
    return "http" if isinstance(execution, dict) and execution.get("http") and not execution.get("script") else "container"


def _scheduled_ms(text: Any) -> int:
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000) if isinstance(text, str) else 0
    except (ValueError, OverflowError):
        return 0
