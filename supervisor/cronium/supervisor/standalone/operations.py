"""What requests of an orchestrator mean: each function is one transaction on the store. The database's thread only.

It loads, asks rules.py, stores what came out, and makes the answer's body. Nothing here waits, and no clock is read: the time
of the request is passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from cronium.supervisor.standalone import rules
from cronium.supervisor.standalone.coverage import Expected, Totals, Verdict, check, joined, uncovered
from cronium.supervisor.standalone.errors import ApiError, Refusal, invalid, not_found
from cronium.supervisor.standalone.frames import Batch
from cronium.supervisor.standalone.rules import Job, Sender, Status
from cronium.supervisor.standalone.schemas import Complete, StatusReport
from cronium.supervisor.standalone.store import Store

_MAX_DETAILS_BYTES = 256 * 1024
_EXPIRE_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's HTTP status and JSON body, and whether it changed the state of the job."""

    status: int
    body: Any


@dataclass(frozen=True, slots=True)
class PollRequest:
    """What an orchestrator asks of the queue; `token` becomes the lease's if a job is new to it."""

    orchestrator: str
    limit: int
    min_priority: int
    types: tuple[str, ...]
    key: str | None
    token: str


@dataclass(frozen=True, slots=True)
class Polled:
    """The jobs of a poll as QueuedJob, the jobs to be cancelled (and whether one of them is news), the queue's length."""

    jobs: tuple[Any, ...]
    cancelled: tuple[str, ...]
    news: bool
    queue_size: int


def iso(unix_ms: int | None) -> str | None:
    """A time as the protocol writes it, UTC."""
    if unix_ms is None:
        return None
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def granted(decision: Job | Refusal) -> Job:
    """The job of a decision. Raises ApiError for a refusal."""
    if isinstance(decision, Refusal):
        raise ApiError.of(decision)
    return decision


def known(store: Store, job_id: str) -> Job:
    """The job of that id. Raises ApiError 404."""
    job = store.job(job_id)
    if job is None:
        raise not_found(f"job {job_id}")
    return job


def once(store: Store, scope: str, key: str | None, now_ms: int, make: Callable[[], Answer]) -> Answer:
    """The answer of `make`; the same again when the key is repeated in that scope."""
    if key is None:
        return make()
    if (given := store.answer(scope, key)) is not None:
        return Answer(given.status, given.body)
    answer = make()
    if answer.status < 400:
        store.keep_answer(scope, key, now_ms, answer.status, answer.body)
    return answer


def expire(store: Store, now_ms: int) -> tuple[Job, ...]:
    """Put jobs back whose offer or lease has run out; those that changed."""
    changed = tuple(rules.expire(job, now_ms) for job in store.leases_over(now_ms, _EXPIRE_AT_ONCE))
    for job in changed:
        store.save(job)
    return changed


def poll(store: Store, request: PollRequest, now_ms: int, offer_ms: int) -> Polled:
    """Offer jobs to an orchestrator. The same key brings the same jobs, as far as they are still its own."""
    expire(store, now_ms)
    scope = f"poll {request.orchestrator}"
    given = store.answer(scope, request.key) if request.key is not None else None
    if given is not None:
        candidates = [job for job_id in given.body if (job := store.job(job_id)) is not None]
        candidates = [job for job in candidates if job.owner in (None, request.orchestrator)]
    else:
        candidates = store.due(now_ms, request.min_priority, request.types, request.limit)
    offered: list[Any] = []
    for candidate in candidates:
        decision = rules.claim(candidate, request.orchestrator, now_ms, offer_ms, request.token)
        if isinstance(decision, Job):
            store.save(decision)
            offered.append(_queued_job(store, decision))
    if offered and given is None and request.key is not None:
        store.keep_answer(scope, request.key, now_ms, 200, [job["id"] for job in offered])
    to_cancel = store.cancelled_of(request.orchestrator)
    news = [job for job in to_cancel if not job.cancel_told]
    for job in news:
        store.save(replace(job, cancel_told=True))
    return Polled(tuple(offered), tuple(job.id for job in to_cancel), bool(news), store.count(Status.QUEUED))


def acknowledge(store: Store, job_id: str, sender: Sender, now_ms: int, lease_ms: int) -> Answer:
    """An orchestrator has the job in its journal."""
    job = granted(rules.acknowledge(known(store, job_id), sender, now_ms, lease_ms))
    store.save(job)
    return Answer(
        200,
        {
            "success": True,
            "lease": _lease(job),
            "epoch": job.epoch,
            "nextSequence": max(job.first_sequence, job.last_sequence + 1),
            "nextAction": rules.next_action(job),
        },
    )


def renew(store: Store, job_id: str, sender: Sender, token: str, now_ms: int, extension_ms: int, progress: Any) -> Answer:
    """A lease goes on."""
    job = granted(rules.renew(known(store, job_id), sender, token, now_ms, extension_ms))
    store.save(job)
    if progress is not None:
        _merge_details(store, job, {"progress": progress})
    return Answer(200, {"success": True, "lease": _lease(job), "nextAction": rules.next_action(job)})


def report(store: Store, job_id: str, sender: Sender, said: StatusReport, now_ms: int, lease_ms: int) -> Answer:
    """How far a job is."""
    job = granted(rules.report(known(store, job_id), sender, Status(said.status), now_ms, lease_ms, said.attempt))
    store.save(job)
    if said.details:
        _merge_details(store, job, said.details)
    return Answer(200, {"success": True, "timestamp": iso(now_ms), "nextAction": rules.next_action(job)})


def complete(store: Store, job_id: str, sender: Sender, said: Complete, key: str | None, now_ms: int) -> Answer:
    """The terminal report. A second one is refused, and counted."""
    before = known(store, job_id)
    decision = rules.complete(before, sender, Status(said.status), said.exit_code, key, now_ms)
    if isinstance(decision, Refusal):
        if before.ended:
            store.save(replace(before, refused_reports=before.refused_reports + 1))
        return Answer(decision.status, decision)
    if decision.reports > before.reports:
        store.put_blob(decision, "report", said.model_dump(mode="json", by_alias=True, exclude_none=True))
        decision = replace(decision, attempt=said.attempt)
        if said.logs is not None:
            expected = said.logs.expected(decision.first_sequence)
            decision = replace(decision, expected_logs=_expected_as_text(expected))
        store.save(_checked(store, decision))
    return Answer(200, {"success": True})


def take_lines(store: Store, batch: Batch, sender: Sender, limit_bytes: int) -> Refusal | None:
    """Store what is new of a batch, and check the job's lines if it has ended. A refusal is for good."""
    job = store.job(batch.job_id)
    if job is None:
        return Refusal(404, "RESOURCE_NOT_FOUND", f"job {batch.job_id} is not known here: drop its lines")
    first, last = batch.extent.first, batch.extent.last
    if (refusal := rules.take_lines(job, sender, first)) is not None:
        return refusal
    extents = store.logs.extents(job.number, job.epoch, first, last)
    gaps = uncovered(extents, first, last)
    if not gaps:
        return None
    pieces = [batch.piece(*gap) for gap in gaps]
    size = sum(len(row.body) for _, row in pieces)
    if job.log_bytes + size > limit_bytes:
        store.save(_checked(store, replace(job, log_refused=True)))
        return Refusal(
            413,
            "VALIDATION_INVALID_PARAMS",
            f"job {job.id} has {job.log_bytes} bytes of log, the most is {limit_bytes}: raise max_job_log_bytes or print less",
        )
    for extent, row in pieces:
        store.logs.add_frame(job.number, row)
        neighbours = store.logs.extents(job.number, job.epoch, extent.first, extent.last)
        whole, gone = joined(neighbours, extent)
        store.logs.replace_extents(job.number, job.epoch, gone, whole)
    job = replace(job, log_bytes=job.log_bytes + size, last_sequence=max(job.last_sequence, last))
    store.save(_checked(store, job))
    return None


def verdict(store: Store, job: Job) -> Verdict | None:
    """The check of an ended job's lines against its report; None when the report says nothing of them."""
    if job.expected_logs is None:
        return None
    found = check(_expected_from_text(job.expected_logs), store.logs.extents(job.number, job.epoch))
    if job.log_refused and found.state != "true":
        return replace(found, state="false", problems=(*found.problems, "lines beyond the job's log limit were refused"))
    return found


def _checked(store: Store, job: Job) -> Job:
    found = verdict(store, job)
    return job if found is None else replace(job, logs_complete=found.state)


def _merge_details(store: Store, job: Job, details: Any) -> None:
    if len(orjson.dumps(details)) > _MAX_DETAILS_BYTES:
        raise invalid([("details", f"larger than {_MAX_DETAILS_BYTES} bytes")])
    store.put_blob(job, "details", {**(store.blob(job, "details") or {}), **details})


def _lease(job: Job) -> dict[str, Any]:
    return {"expiresAt": iso(job.lease_ms), "renewalToken": job.lease_token}


def _queued_job(store: Store, job: Job) -> dict[str, Any]:
    spec: dict[str, Any] = store.blob(job, "spec")
    return {**spec, "attempts": job.attempts}


def _expected_as_text(expected: Expected) -> str:
    numbers = (expected.first, expected.last, *_numbers(expected.stdout), *_numbers(expected.stderr))
    return orjson.dumps(numbers).decode()


def _expected_from_text(text: str) -> Expected:
    numbers = orjson.loads(text)
    return Expected(numbers[0], numbers[1], Totals(*numbers[2:5]), Totals(*numbers[5:8]))


def _numbers(totals: Totals) -> tuple[int, int, int]:
    return totals.lines, totals.bytes, totals.crc32
