"""The routes an orchestrator uses (PROTOCOL, contract dialect), below /api/internal. Event loop only.

Each handler turns a request into one operation, and rings for those whom its outcome concerns.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Any

import orjson
from starlette.requests import Request

from cronium.supervisor.standalone import operations
from cronium.supervisor.standalone.errors import ApiError, invalid
from cronium.supervisor.standalone.frames import Entry, batch_of
from cronium.supervisor.standalone.limits import Limit
from cronium.supervisor.standalone.log_store import PLAIN
from cronium.supervisor.standalone.operations import Answer, Polled, PollRequest, iso
from cronium.supervisor.standalone.route import Call, Route
from cronium.supervisor.standalone.rules import Sender
from cronium.supervisor.standalone.schemas import Acknowledge, Complete, Health, LogUpload, Renew, StatusReport
from cronium.supervisor.standalone.services import QUEUE, now_ms, wait
from cronium.supervisor.standalone.store import Store

BASE = "/api/internal"
_MAX_BATCH = 50
_MIN_LEASE_S = 1.0


async def poll(call: Call) -> Answer:
    """GET /jobs/queue; with `wait`, answered as soon as there is a job or something to cancel."""
    request = PollRequest(
        orchestrator=_orchestrator(call),
        limit=int(call.number("limit", 10, 0, _MAX_BATCH)),
        min_priority=int(call.number("priority", 0, 0, 10)),
        types=tuple(filter(None, call.request.query_params.get("types", "").split(","))),
        key=call.key,
        token=secrets.token_hex(16),
    )
    settings = call.services.settings
    started = time.monotonic()
    deadline = started + min(call.number("wait", 0, 0, 3600), settings.max_wait_s)
    with call.services.bells.listen(QUEUE) as rung:
        while True:
            rung.clear()
            if await call.gone():  # a job must not be offered to nobody
                return _polled(Polled((), (), False, 0))
            polled = await call.services.database.submit(
                lambda store: operations.poll(store, request, now_ms(), int(settings.offer_s * 1000))
            )
            if polled.jobs or polled.news or time.monotonic() >= deadline or call.services.bells.stopping:
                return _polled(polled, held=deadline > started)
            await _rung_or_gone(call, rung, deadline - time.monotonic())


async def acknowledge(call: Call) -> Answer:
    """POST /jobs/{id}/acknowledge."""
    sender = Sender(call.body.orchestrator_id)
    lease_ms = int(call.services.settings.lease_s * 1000)
    return await _stated(call, lambda store, at_ms: operations.acknowledge(store, call.job_id, sender, at_ms, lease_ms))


async def renew(call: Call) -> Answer:
    """POST /jobs/{id}/lease/renew."""
    settings = call.services.settings
    extension_s = min(max(call.body.extension_seconds, _MIN_LEASE_S), settings.max_lease_s)
    progress = call.body.progress.model_dump(mode="json", by_alias=True, exclude_none=True) if call.body.progress else None
    sender = Sender(_orchestrator(call))
    token, extension_ms = call.body.renewal_token, int(extension_s * 1000)
    return await _stated(
        call, lambda store, at_ms: operations.renew(store, call.job_id, sender, token, at_ms, extension_ms, progress)
    )


async def report(call: Call) -> Answer:
    """PUT /jobs/{id}/status."""
    sender = Sender(_orchestrator(call), call.body.epoch or None)
    lease_ms = int(call.services.settings.lease_s * 1000)
    return await _stated(call, lambda store, at_ms: operations.report(store, call.job_id, sender, call.body, at_ms, lease_ms))


async def complete(call: Call) -> Answer:
    """POST /jobs/{id}/complete."""
    sender = Sender(_orchestrator(call), call.body.epoch or None)
    return await _stated(call, lambda store, at_ms: operations.complete(store, call.job_id, sender, call.body, call.key, at_ms))


async def upload_logs(call: Call) -> Answer:
    """POST /jobs/{id}/logs, for when the WebSocket is away."""
    entries: list[Entry] = [{**entry, "jobId": entry.get("jobId", call.job_id)} for entry in call.body.entries]
    batch = await asyncio.to_thread(batch_of, entries, orjson.dumps({"payload": entries}), PLAIN, lambda: entries)
    if batch.job_id != call.job_id:
        raise invalid([("entries.jobId", f"the lines are of job {batch.job_id}, the path names {call.job_id}")])
    sender = Sender(_orchestrator(call), call.body.epoch or None)
    limit_bytes = call.services.settings.max_job_log_bytes
    refusal = await call.services.database.submit(lambda store: operations.take_lines(store, batch, sender, limit_bytes))
    if refusal is not None:
        raise ApiError.of(refusal)
    call.services.bells.ring(call.job_id)
    return Answer(200, {"success": True})


async def health(call: Call) -> Answer:
    """POST /orchestrator/health."""
    said = call.body.model_dump(mode="json", by_alias=True)
    await call.services.database.submit(lambda store: store.keep_health(call.body.orchestrator_id, now_ms(), said))
    return Answer(200, {"success": True})


async def _stated(call: Call, operation: Callable[[Store, int], Answer]) -> Answer:
    """Have a statement about a job done once, and wake who follows that job."""
    scope, key = call.scope(), call.key
    answer = await call.services.database.submit(
        lambda store: operations.once(store, scope, key, now_ms(), lambda: operation(store, now_ms()))
    )
    call.services.bells.ring(call.job_id)
    return answer


async def _rung_or_gone(call: Call, rung: asyncio.Event, timeout_s: float) -> None:
    """Wait for news, for the time to be over, or for the caller to hang up."""
    hung_up = asyncio.ensure_future(call.hung_up())
    news = asyncio.ensure_future(wait(rung, timeout_s))
    await asyncio.wait({hung_up, news}, return_when=asyncio.FIRST_COMPLETED)
    for task in (hung_up, news):
        task.cancel()


def _orchestrator(call: Call) -> str:
    if not call.orchestrator:
        raise invalid([("X-Orchestrator-Id", "the header is missing")], missing=True)
    return call.orchestrator


def _polled(polled: Polled, *, held: bool = False) -> Answer:
    """The answer; who lets a poll be held open may ask again at once, the waiting is done here."""
    metadata: dict[str, Any] = {"timestamp": iso(now_ms()), "queueSize": polled.queue_size}
    if held:
        metadata["nextPollAfter"] = 0
    if polled.cancelled:
        metadata["cancelled"] = polled.cancelled
    return Answer(200, {"jobs": polled.jobs, "metadata": metadata})


def _poll_limit(request: Request) -> Limit | None:
    return None if request.query_params.get("wait", "0") not in ("", "0") else Limit.POLL


ROUTES = (
    Route(
        "GET",
        f"{BASE}/jobs/queue",
        poll,
        "Take jobs from the queue",
        limit=_poll_limit,
        parameters=(
            ("limit", "how many jobs at most, 0 to 50 (0: only hear what is to be cancelled)"),
            ("priority", "the lowest priority wanted, 0 to 10"),
            ("types", "wanted types, separated by commas"),
            ("wait", "seconds to wait for a job (long poll)"),
        ),
        answer="{jobs, metadata: {timestamp, queueSize, cancelled?}}",
    ),
    Route(
        "POST",
        f"{BASE}/jobs/{{job_id}}/acknowledge",
        acknowledge,
        "The job is written down; take its lease",
        body=Acknowledge,
        answer="{success, lease: {expiresAt, renewalToken}, epoch, nextSequence, nextAction}",
    ),
    Route(
        "POST",
        f"{BASE}/jobs/{{job_id}}/lease/renew",
        renew,
        "Keep the lease",
        body=Renew,
        answer="{success, lease: {expiresAt, renewalToken}, nextAction}",
    ),
    Route(
        "PUT",
        f"{BASE}/jobs/{{job_id}}/status",
        report,
        "Say how far the job is (its end is told by complete)",
        body=StatusReport,
        limit=lambda _: Limit.STATUS,
        answer="{success, timestamp, nextAction}",
    ),
    Route(
        "POST",
        f"{BASE}/jobs/{{job_id}}/complete",
        complete,
        "The terminal report; exactly one counts",
        body=Complete,
        answer="{success}",
    ),
    Route(
        "POST",
        f"{BASE}/jobs/{{job_id}}/logs",
        upload_logs,
        "Lines, when the WebSocket is away",
        body=LogUpload,
        limit=lambda _: Limit.LOGS,
        answer="{success}",
    ),
    Route(
        "POST",
        f"{BASE}/orchestrator/health",
        health,
        "An orchestrator's health",
        body=Health,
        limit=lambda _: Limit.HEALTH,
        answer="{success}",
    ),
)
