"""The routes a person's tools use, below /api/client: submit, list, look, read lines, cancel. Event loop only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
from starlette.responses import Response, StreamingResponse

from cronium.supervisor.standalone import client_operations, operations, views
from cronium.supervisor.standalone.client_operations import LogPage
from cronium.supervisor.standalone.errors import ApiError, invalid
from cronium.supervisor.standalone.frames import Entry, unpacked
from cronium.supervisor.standalone.log_socket import cancel_frame
from cronium.supervisor.standalone.log_store import FrameRow
from cronium.supervisor.standalone.operations import Answer, iso
from cronium.supervisor.standalone.route import Call, Route
from cronium.supervisor.standalone.rules import Job, Status
from cronium.supervisor.standalone.schemas import SubmitJob
from cronium.supervisor.standalone.services import QUEUE, now_ms, wait

BASE = "/api/client"
_MAX_LIST = 1000
_FIRST, _LAST = 1, 2**53


async def submit(call: Call) -> Answer:
    """POST /jobs."""
    check = call.request.query_params.get("check") != "false"
    sent = call.body.model_dump(mode="json", by_alias=True, exclude_none=True)
    queued = client_operations.queued_job(sent, now_ms(), check=check)
    most, scope, key = call.services.settings.max_queued_jobs, "submit", call.key
    answer = await call.services.database.submit(
        lambda store: operations.once(
            store, scope, key, now_ms(), lambda: client_operations.submit(store, queued, now_ms(), most)
        )
    )
    call.services.bells.ring(QUEUE)
    return answer


async def jobs(call: Call) -> Answer:
    """GET /jobs."""
    query = call.request.query_params
    statuses = tuple(filter(None, query.get("status", "").split(",")))
    unknown = [status for status in statuses if status not in frozenset(Status)]
    if unknown:
        raise invalid([("status", f"{', '.join(unknown)} unknown; allowed: {', '.join(Status)}")])
    limit = int(call.number("limit", 50, 1, _MAX_LIST))
    before = int(call.number("before", _LAST, 0, _LAST))
    found = await call.services.database.submit(lambda store: store.listed(statuses, query.get("executor"), before, limit))
    return Answer(200, {"jobs": [views.summary(job) for job in found]})


async def job(call: Call) -> Answer:
    """GET /jobs/{id}; with `wait`, answered when the job has ended (and its lines are here), or when the time is over."""
    deadline = time.monotonic() + min(call.number("wait", 0, 0, 3600), call.services.settings.max_wait_s)
    over: Callable[[Job], bool] = _ended if call.request.query_params.get("until") == "ended" else views.settled
    with call.services.bells.listen(call.job_id) as rung:
        while True:
            rung.clear()
            row = await call.services.database.submit(lambda store: operations.known(store, call.job_id))
            if over(row) or time.monotonic() >= deadline or call.services.bells.stopping:
                break
            await wait(rung, deadline - time.monotonic())
    return Answer(
        200,
        await call.services.database.submit(lambda store: views.everything(store, operations.known(store, call.job_id))),
    )


async def cancel(call: Call) -> Answer:
    """POST /jobs/{id}/cancel."""
    cancelled = await call.services.database.submit(lambda store: client_operations.cancel(store, call.job_id, now_ms()))
    call.services.tell(cancelled.owner, cancel_frame(cancelled.id))
    call.services.bells.ring(QUEUE)
    call.services.bells.ring(cancelled.id)
    return Answer(200, views.summary(cancelled))


async def logs(call: Call) -> Answer:
    """GET /jobs/{id}/logs: a page of lines; with `wait`, as soon as there is one."""
    first = int(call.number("from", _FIRST, _FIRST, _LAST))
    limit = int(call.number("limit", 10_000, 1, 100_000))
    deadline = time.monotonic() + min(call.number("wait", 0, 0, 3600), call.services.settings.max_wait_s)
    with call.services.bells.listen(call.job_id) as rung:
        while True:
            rung.clear()
            page = await _page(call, first)
            if page.frames or views.settled(page.job) or time.monotonic() >= deadline or call.services.bells.stopping:
                break
            await wait(rung, deadline - time.monotonic())
    entries = await asyncio.to_thread(_entries, call, page, limit)
    end = views.settled(page.job) and not page.more and (not entries or entries[-1]["sequence"] >= page.last)
    following = entries[-1]["sequence"] + 1 if entries else first
    return Answer(200, {"entries": entries, "nextSequence": following, "end": end, **_state(page)})


async def stream(call: Call) -> Response:
    """GET /jobs/{id}/logs/stream: lines as NDJSON, `{entries}` each, and `{end}` at last."""
    first = int(call.number("from", _FIRST, _FIRST, _LAST))
    follow = call.request.query_params.get("follow", "false") == "true"
    await call.services.database.submit(lambda store: operations.known(store, call.job_id))  # 404 while it can be said
    return StreamingResponse(_lines(call, first, follow), media_type="application/x-ndjson")


async def orchestrators(call: Call) -> Answer:
    """GET /orchestrators."""
    rows = await call.services.database.submit(lambda store: store.orchestrators())
    return Answer(200, {"orchestrators": [{"id": r.id, "seenAt": iso(r.seen_ms), "health": r.health} for r in rows]})


async def _lines(call: Call, first: int, follow: bool) -> AsyncIterator[bytes]:
    with call.services.bells.listen(call.job_id) as rung:
        while True:
            rung.clear()
            try:
                page = await _page(call, first)
            except ApiError as error:  # the answer has begun: say it in its place
                yield orjson.dumps(error.body(iso(now_ms()) or "", None)) + b"\n"
                return
            for frame in page.frames:
                yield await asyncio.to_thread(_as_line, call, page, frame)
                first = frame.last + 1
            if page.frames:
                continue
            if call.services.bells.stopping:
                return  # without an end: the follower comes again
            if not follow or _over(call, page):
                yield orjson.dumps({"end": _state(page)}) + b"\n"
                return
            await wait(rung, call.services.settings.follow_pending_s)


def _ended(job: Job) -> bool:
    return job.ended


def _over(call: Call, page: LogPage) -> bool:
    """Whether a follower has seen all that will come, or has waited long enough for what is missing."""
    if views.settled(page.job):
        return True
    ended_ms = page.job.ended_ms
    return ended_ms is not None and now_ms() - ended_ms > call.services.settings.follow_pending_s * 1000


async def _page(call: Call, first: int) -> LogPage:
    def read(store: Any) -> LogPage:
        page = client_operations.read_logs(store, call.job_id, first, past_holes=False)
        if not page.frames and _over(call, page):
            return client_operations.read_logs(store, call.job_id, first, past_holes=True)
        return page

    return await call.services.database.submit(read)


def _entries(call: Call, page: LogPage, limit: int) -> list[Entry]:
    entries: list[Entry] = []
    for frame in page.frames:
        entries += _of_frame(call, page, frame)
        if len(entries) >= limit:
            break
    return entries[:limit]


def _as_line(call: Call, page: LogPage, frame: FrameRow) -> bytes:
    return orjson.dumps({"entries": _of_frame(call, page, frame)}) + b"\n"


def _of_frame(call: Call, page: LogPage, frame: FrameRow) -> list[Entry]:
    return unpacked(frame, page.first, page.last, call.services.settings.max_frame_bytes)


def _state(page: LogPage) -> dict[str, Any]:
    return {
        "status": page.job.status,
        "exitCode": page.job.exit_code,
        "lastSequence": page.job.last_sequence,
        "logsComplete": views.logs_complete(page.job),
    }


ROUTES = (
    Route(
        "POST",
        f"{BASE}/jobs",
        submit,
        "Submit a job: a QueuedJob, or the parts of its execution",
        body=SubmitJob,
        parameters=(("check", "false: take it as it is, and let the supervisor say what is wrong with it"),),
        answer="the job as in the list (201)",
    ),
    Route(
        "GET",
        f"{BASE}/jobs",
        jobs,
        "List jobs, the newest first",
        parameters=(
            ("status", "wanted statuses, separated by commas"),
            ("executor", "container or ssh"),
            ("limit", "how many at most, 1 to 1000"),
            ("before", "the `number` of the last job of the page before"),
        ),
        answer="{jobs: [...]}",
    ),
    Route(
        "GET",
        f"{BASE}/jobs/{{job_id}}",
        job,
        "Everything about a job",
        parameters=(
            ("wait", "seconds to wait for its end"),
            ("until", "ended, or settled (the default): and its lines are here"),
        ),
        answer="the job, its report, and the check of its lines",
    ),
    Route("POST", f"{BASE}/jobs/{{job_id}}/cancel", cancel, "End a job", answer="the job as in the list"),
    Route(
        "GET",
        f"{BASE}/jobs/{{job_id}}/logs",
        logs,
        "A page of a job's lines",
        parameters=(
            ("from", "the first sequence wanted"),
            ("limit", "how many lines at most"),
            ("wait", "seconds to wait for one"),
        ),
        answer="{entries, nextSequence, end, status, exitCode, lastSequence, logsComplete}",
    ),
    Route(
        "GET",
        f"{BASE}/jobs/{{job_id}}/logs/stream",
        stream,
        "A job's lines as NDJSON",
        parameters=(("from", "the first sequence wanted"), ("follow", "true: stay until the job has ended")),
        answer="lines {entries: [...]}, and at last {end: {status, exitCode, lastSequence, logsComplete}}",
    ),
    Route("GET", f"{BASE}/orchestrators", orchestrators, "Orchestrators and their last health report", answer="{orchestrators}"),
)
