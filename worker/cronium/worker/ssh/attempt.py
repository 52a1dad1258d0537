"""One attempt of a job on its servers: a visit to each, all at the same time, and one outcome of them.

Runs in a worker. It waits for all visits at once; when every one that is not over is out of reach for too long, the attempt is
parked, and somebody goes on with it later.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome
from cronium.common.servers import Server, servers_of
from cronium.worker.executor import Attempt, Complete, Control, Labels, Parked, Status, Update
from cronium.worker.payload import payload
from cronium.worker.ssh.flow import STREAMS
from cronium.worker.ssh.outcome import outcome_on, results_together, together
from cronium.worker.ssh.plan import Plan, plan
from cronium.worker.ssh.pool import Pool
from cronium.worker.ssh.settings import Settings
from cronium.worker.ssh.visit import Task, Visit

_NO_ROOM_S = 0.05  # the worker's wait ends by itself when there is room again


def run(attempt: Attempt, control: Control, pool: Pool, settings: Settings, made: set[str]) -> Iterator[Update]:
    """Until all is over, or parked. `made` is given the names of all places that may exist. Raises ExecutionError."""
    planned = plan(attempt.job, settings)
    servers = servers_of(attempt.job)
    several = len(servers) > 1
    names = place_names(attempt.place, servers)
    done = {outcome.server for outcome in attempt.finished}
    visits = [
        _visit(attempt, planned, server, names[server.key], several, control, pool, settings)
        for server in servers
        if server.key not in done
    ]
    try:
        if several:
            yield Labels({names[server.key]: server.name for server in servers})
        if not attempt.adopt:
            yield Status("preparing")
        while True:
            now_s = time.monotonic()
            for visit in visits:
                yield from visit.step(now_s)
            left = [visit for visit in visits if not visit.over]
            if not left:
                break
            if all(visit.away(now_s) for visit in left):
                yield _parked(visits, left)
                return
            _wait(left, control, now_s)
    finally:
        for visit in visits:
            if visit.touched:
                made.add(visit.place)
            visit.close()
        pool.announce()
    yield Complete(_outcome(attempt, visits, several=several))


def place_names(place: str, servers: tuple[Server, ...]) -> dict[str, str]:
    """The directory on each server, by the server's key: the attempt's own place, or one of several with a number behind it."""
    if len(servers) == 1:
        return {servers[0].key: place}
    return {server.key: f"{place}.{number}" for number, server in enumerate(servers, 1)}


def _visit(
    attempt: Attempt,
    planned: Plan,
    server: Server,
    name: str,
    several: bool,
    control: Control,
    pool: Pool,
    settings: Settings,
) -> Visit:
    def packed() -> bytes:
        return payload(
            attempt.job,
            planned.script,
            attempt=attempt.number,
            interpreter=planned.interpreter,
            timeout_s=planned.timeout_s,
            grace_s=settings.grace_s,
            max_unread_bytes=settings.max_unread_bytes,
            max_results_bytes=settings.max_results_bytes,
        )

    task = Task(
        server=server,
        name=name,
        label=name if several else "",
        job_id=attempt.job.id,
        payload=packed,
        interpreter=planned.interpreter,
        timeout_s=planned.timeout_s,
        adopt=attempt.adopt,
        begun=name in attempt.begun_at if several else attempt.begun,
        placed_ms=attempt.placed_ms,
    )
    offsets = {stream: attempt.position.mark(name, stream).offset for stream in STREAMS}
    return Visit(task, offsets, control, pool, settings)


def _wait(left: list[Visit], control: Control, now_s: float) -> None:
    if not control.room():
        control.wait((), _NO_ROOM_S)
        return
    descriptors = tuple(dict.fromkeys(descriptor for visit in left for descriptor in visit.descriptors()))
    control.wait(descriptors, min(visit.look_after_s(now_s) for visit in left))


def _parked(visits: list[Visit], left: list[Visit]) -> Parked:
    first = left[0]
    trouble = first.trouble or ExecutionError(Reason.UNREACHABLE, f"{first.server.address} cannot be reached: check the network")
    begun = any(visit.begun for visit in left)
    touched = any(visit.touched for visit in visits)
    hint = " (the script goes on there)" if begun else ""
    error = ExecutionError(Reason.UNREACHABLE, f"{trouble.message}{hint}", server=first.server.name)
    return Parked(first.server.key, error.report(), max(visit.give_up_ms for visit in left), begun, touched)


def _outcome(attempt: Attempt, visits: list[Visit], *, several: bool) -> Outcome:
    parts = [(visit.server, visit.ending) for visit in visits if visit.ending is not None]
    ending = together(parts, attempt.finished) if several else parts[0][1]
    ended_ms = max(visit.ended_ms for visit in visits)
    started_ms = min((visit.started_ms for visit in visits if visit.started_ms), default=ended_ms)
    return Outcome(
        status=ending.status,
        exit_code=ending.exit_code,
        error=ending.error.report() if ending.error is not None else None,
        started_ms=min(started_ms, ended_ms),
        ended_ms=ended_ms,
        results=results_together([(visit.server, visit.results) for visit in visits]),
        servers=(*attempt.finished, *(outcome_on(server, part) for server, part in parts)) if several else (),
    )
