"""One attempt of a job on its servers: a visit to each, all at the same time, and one outcome of them.

Runs in a worker. It waits for all visits at once; when every one that is not over is out of reach for too long, the attempt is
parked, and somebody goes on with it later.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome, Results, ServerOutcome
from cronium.common.servers import Server, servers_of, together
from cronium.worker.executor import Attempt, Complete, Control, Labels, Parked, Status, Update
from cronium.worker.payload import payload
from cronium.worker.ssh.flow import STREAMS
from cronium.worker.ssh.outcome import folders_of, outcome_on, results_together
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
    if attempt.adopt:  # what is over has left its place for whoever sees the attempt's end
        made |= {names[outcome.server] for outcome in attempt.finished if outcome.touched}
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
                yield _parked(attempt, visits, left, settings.max_results_bytes, several=several)
                return
            _wait(left, control, now_s)
    finally:
        for visit in visits:
            if visit.touched:
                made.add(visit.place)
            visit.close()
        pool.announce()
    yield Complete(_outcome(attempt, visits, settings.max_results_bytes, several=several))


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


def _parked(attempt: Attempt, visits: list[Visit], left: list[Visit], max_results_bytes: int, *, several: bool) -> Parked:
    troubles = [_trouble(visit) for visit in left]
    begun = any(visit.begun for visit in left)
    touched = any(visit.touched for visit in visits)
    give_up_ms = max(visit.give_up_ms for visit in left)
    # Somebody can get there who is not let in (any more): no end of what may run there.
    error = ExecutionError(Reason.UNREACHABLE, troubles[0].message, server=left[0].server.name)
    if not several:
        return Parked(left[0].server.key, error.report(), give_up_ms, begun, touched)
    missing = tuple(
        ServerOutcome(visit.server.key, visit.server.name, "failed", None, trouble.reason.value, trouble.message)
        for visit, trouble in zip(left, troubles, strict=True)
    )
    over = [visit for visit in visits if visit.over]
    return Parked(
        left[0].server.key,
        error.report(),
        give_up_ms,
        begun,
        touched,
        _outcomes(over),
        missing,
        _results(attempt, over, max_results_bytes),
        tuple(visit.place for visit in over),
    )


def _trouble(visit: Visit) -> ExecutionError:
    """Why it is parked; how it ends on this server if nobody gets there."""
    known = visit.trouble or ExecutionError(Reason.UNREACHABLE, f"{visit.server.address} cannot be reached: check the network")
    if not visit.begun:
        return known
    return ExecutionError(Reason.UNREACHABLE, f"{known.message} (the script goes on there)")


def _outcomes(visits: list[Visit]) -> tuple[ServerOutcome, ...]:
    return tuple(outcome_on(visit.server, visit.ending, touched=visit.touched) for visit in visits if visit.ending is not None)


def _results(attempt: Attempt, visits: list[Visit], max_bytes: int) -> Results:
    parts = [(visit.server, visit.results) for visit in visits]
    return results_together(parts, folders_of(servers_of(attempt.job)), max_bytes)


def _outcome(attempt: Attempt, visits: list[Visit], max_results_bytes: int, *, several: bool) -> Outcome:
    ended_ms = max(visit.ended_ms for visit in visits)
    started_ms = min((min(visit.started_ms, ended_ms) for visit in visits if visit.started_ms), default=ended_ms)
    if several:
        servers = (*attempt.finished, *_outcomes(visits))
        status, exit_code, error = together(servers)
        results = _results(attempt, visits, max_results_bytes)
    else:
        ending, results, servers = visits[0].ending, visits[0].results, ()
        assert ending is not None  # noqa: S101 - all visits are over
        status, exit_code, error = ending.status, ending.exit_code, ending.error
    return Outcome(
        status=status,
        exit_code=exit_code,
        error=error.report() if error is not None else None,
        started_ms=started_ms,
        ended_ms=ended_ms,
        results=results,
        servers=servers,
    )
