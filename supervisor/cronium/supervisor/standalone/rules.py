"""Who may do what to a job, and what becomes of it. Pure: a job and a wish go in, the changed job or a refusal comes out.

    queued ──poll──► claimed ──acknowledge──► acknowledged ──► preparing ⇄ running ──complete──► completed, failed,
      ▲                 │ offer runs out             │ lease runs out                            timeout, cancelled
      └─────────────────┴────────────────────────────┘
Rules: (1) A job has one owner. It stays the owner, also of a job back in the queue, until another orchestrator claims it: then
the epoch rises, and nothing that carries a lower epoch counts any more. (2) A sign of life of the owner takes a job whose lease
ran out back from the queue. (3) The first terminal report counts, and no other. (4) A job in the queue is cancelled at once;
one that somebody has is cancelled by that one, who is told. Nobody else changes these fields.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from cronium.supervisor.standalone.errors import Refusal


class Status(StrEnum):
    """Where a job is; the protocol's words, and two of the queue's own (`queued`, `claimed`: offered to an orchestrator)."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    ACKNOWLEDGED = "acknowledged"
    PREPARING = "preparing"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.TIMEOUT, Status.CANCELLED})
REPORTABLE = frozenset(Status) - {Status.QUEUED, Status.CLAIMED}


@dataclass(frozen=True, slots=True)
class Job:
    """The state of a job; times in Unix milliseconds.

    `reached` is what its owner last said; `first_sequence` begins its epoch. `attempts` counts earlier hosts that had
    acknowledged it, `attempt` is its last host's own count since it was last offered. `reports` counts the terminal reports
    that were taken.
    """

    number: int
    id: str
    type: str
    executor: str
    priority: int
    created_ms: int
    scheduled_ms: int = 0
    status: Status = Status.QUEUED
    reached: Status | None = None
    owner: str | None = None
    epoch: int = 0
    acknowledged: bool = False
    attempts: int = 0
    lease_token: str | None = None
    lease_ms: int | None = None
    cancel_ms: int | None = None
    cancel_told: bool = False
    started_ms: int | None = None
    ended_ms: int | None = None
    exit_code: int | None = None
    reports: int = 0
    refused_reports: int = 0
    report_key: str | None = None
    first_sequence: int = 1
    last_sequence: int = 0
    attempt: int | None = None
    log_bytes: int = 0
    log_refused: bool = False
    expected_logs: str | None = None
    logs_complete: str | None = None

    @property
    def ended(self) -> bool:
        """Whether its status is terminal."""
        return self.status in TERMINAL


@dataclass(frozen=True, slots=True)
class Sender:
    """Who speaks: the orchestrator, and the epoch it believes in (from 1; None when it does not know)."""

    orchestrator: str
    epoch: int | None = None


def claim(job: Job, orchestrator: str, now_ms: int, offer_ms: int, token: str) -> Job | Refusal:
    """Offer a queued job to an orchestrator; what it holds already is offered as it is."""
    if job.ended:
        return _ended(job)
    if job.status is not Status.QUEUED:
        return job if job.owner == orchestrator else _held(job)
    offered = replace(job, status=Status.CLAIMED, lease_ms=now_ms + offer_ms, attempt=None)
    if job.owner == orchestrator:
        return offered
    return replace(
        offered,
        owner=orchestrator,
        epoch=job.epoch + 1,
        acknowledged=False,
        attempts=job.attempts + int(job.acknowledged),
        reached=None,
        lease_token=token,
        first_sequence=job.last_sequence + 1,
    )


def acknowledge(job: Job, sender: Sender, now_ms: int, lease_ms: int) -> Job | Refusal:
    """The owner has it in its journal: the offer becomes a lease. May be said again."""
    if (refusal := _not_the_owner(job, sender)) is not None:
        return refusal
    if job.ended:
        return _ended(job)
    until_ms = now_ms + lease_ms
    if job.acknowledged and job.lease_ms is not None:  # said again: a lease that was renewed meanwhile is not cut short
        until_ms = max(until_ms, job.lease_ms)
    return replace(job, acknowledged=True, status=job.reached or Status.ACKNOWLEDGED, lease_ms=until_ms)


def renew(job: Job, sender: Sender, token: str, now_ms: int, extension_ms: int) -> Job | Refusal:
    """A lease goes on, also one that ran out, unless another orchestrator claimed the job or it has ended."""
    if (refusal := _not_the_owner(job, sender)) is not None:
        return refusal
    if job.ended:
        return _ended(job, status=410)
    if token != job.lease_token:
        return Refusal(409, "RESOURCE_ALREADY_PROCESSED", f"the lease of job {job.id} has another renewalToken: stop the job")
    return replace(_alive(job, now_ms, extension_ms), lease_ms=now_ms + extension_ms)


def report(job: Job, sender: Sender, status: Status, now_ms: int, lease_ms: int, attempt: int | None = None) -> Job | Refusal:
    """The owner says how far it is, in its attempt. The end itself is told by `complete`; a terminal status here announces it."""
    if (refusal := _not_the_owner(job, sender)) is not None:
        return refusal
    if job.ended:
        return job if job.status is status else _ended(job)
    if attempt is not None and job.attempt is not None and attempt < job.attempt:
        text = f"attempt {attempt} of job {job.id} is superseded, the job is at attempt {job.attempt}: say no more of that one"
        return Refusal(409, "RESOURCE_ALREADY_PROCESSED", text, {"attempt": job.attempt})
    job = replace(job, attempt=job.attempt if attempt is None else attempt)
    started = now_ms if status is Status.RUNNING and job.started_ms is None else job.started_ms
    if status in TERMINAL:
        return _alive(job, now_ms, lease_ms)
    return _alive(replace(job, reached=status, acknowledged=True, started_ms=started), now_ms, lease_ms)


def complete(job: Job, sender: Sender, status: Status, exit_code: int | None, key: str | None, now_ms: int) -> Job | Refusal:
    """The terminal report. One counts; the same one again (same key) is no error, another one is."""
    if (refusal := _not_the_owner(job, sender)) is not None:
        return refusal
    if job.ended:
        return job if job.reports and key is not None and key == job.report_key else _ended(job)
    return replace(
        job,
        status=status,
        reached=status,
        exit_code=exit_code,
        ended_ms=now_ms,
        lease_ms=None,
        reports=job.reports + 1,
        report_key=key,
    )


def take_lines(job: Job, sender: Sender, first: int) -> Refusal | None:
    """Whether lines from `first` on may be written: by the owner, in its epoch, also after the end."""
    if (refusal := _not_the_owner(job, sender)) is not None:
        return refusal
    if first < job.first_sequence:
        return Refusal(
            400,
            "VALIDATION_INVALID_PARAMS",
            f"line {first} of job {job.id} lies before {job.first_sequence}, the first of epoch {job.epoch}: "
            "go on at nextSequence of the acknowledgement",
        )
    return None


def expire(job: Job, now_ms: int) -> Job:
    """A job whose offer or lease has run out goes back to the queue, or is cancelled if that was asked for."""
    if job.status in TERMINAL or job.status is Status.QUEUED or job.lease_ms is None or job.lease_ms > now_ms:
        return job
    back = replace(job, status=Status.QUEUED, lease_ms=None)
    return replace(back, status=Status.CANCELLED, ended_ms=now_ms) if job.cancel_ms is not None else back


def cancel(job: Job, now_ms: int) -> Job | Refusal:
    """Somebody wants it to end. May be said again."""
    if job.ended:
        return job if job.status is Status.CANCELLED else _ended(job)
    marked = replace(job, cancel_ms=job.cancel_ms or now_ms)
    if job.status is Status.QUEUED:
        return replace(marked, status=Status.CANCELLED, ended_ms=now_ms, lease_ms=None)
    return marked


def next_action(job: Job) -> str:
    """What the owner is told to do with it."""
    return "cancel" if job.cancel_ms is not None and not job.ended else "continue"


def _alive(job: Job, now_ms: int, lease_ms: int) -> Job:
    """After a sign of life of the owner: no longer in the queue."""
    status = job.reached or (Status.ACKNOWLEDGED if job.acknowledged else Status.CLAIMED)
    if job.status is Status.QUEUED:
        return replace(job, status=status, lease_ms=now_ms + lease_ms)
    return replace(job, status=status)


def _not_the_owner(job: Job, sender: Sender) -> Refusal | None:
    if sender.epoch is not None and sender.epoch != job.epoch:
        word = "superseded" if sender.epoch < job.epoch else "unknown"
        return Refusal(
            409,
            "RESOURCE_ALREADY_PROCESSED",
            f"epoch {sender.epoch} of job {job.id} is {word}, the job is at epoch {job.epoch}: stop it here and forget it",
        )
    return None if job.owner == sender.orchestrator else _held(job)


def _held(job: Job) -> Refusal:
    whose = "another orchestrator" if job.owner is not None else "nobody yet"
    return Refusal(409, "RESOURCE_ALREADY_PROCESSED", f"job {job.id} belongs to {whose}: stop it here, poll for jobs to get one")


def _ended(job: Job, status: int = 409) -> Refusal:
    return Refusal(status, "RESOURCE_ALREADY_PROCESSED", f"job {job.id} has ended ({job.status}): forget it")
