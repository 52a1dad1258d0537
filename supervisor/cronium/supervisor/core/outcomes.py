"""How jobs end that no worker ends. Pure; part of the core."""

from __future__ import annotations

from dataclasses import replace

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome
from cronium.common.servers import together
from cronium.supervisor.core.events import Now
from cronium.supervisor.core.state import JobRecord


def cancelled(record: JobRecord, now: Now) -> Outcome:
    """No worker has it. `record.attempt`: whether anything of it has run."""
    text = f"cancelled: nothing was started after attempt {record.attempt}"
    text = text if record.attempt else "cancelled before it was started"
    return _of("cancelled", ExecutionError(Reason.CANCELLED, text), now)


def worker_lost(deaths: int, reason: str, now: Now) -> Outcome:
    """It has cost too many workers."""
    error = ExecutionError(
        Reason.WORKER_LOST,
        f"{deaths} workers in a row died soon after they got this job, the last one: {reason}. See the supervisor's log; "
        "jobs.maxWorkerDeaths says how many are allowed",
        deaths=deaths,
        quarantined=True,
    )
    return _of("failed", error, now)


def given_up(record: JobRecord, now: Now) -> Outcome:
    """A parked job whose server nobody got to in time; of several, each has an end of its own."""
    assert record.parked is not None  # noqa: S101 - asked by the caller
    servers = (*record.finished, *record.missing) if record.missing else ()
    if record.cancelled:
        text = f"cancelled; whether its script still runs is not known: {record.parked.message}"
        return replace(_of("cancelled", ExecutionError(Reason.CANCELLED, text), now), servers=servers)
    if servers:
        status, exit_code, error = together(servers)
        report = None if error is None else error.report()
        return Outcome(status, exit_code, report, now.unix_ms, now.unix_ms, servers=servers)
    return Outcome("failed", None, record.parked, now.unix_ms, now.unix_ms)


def unreachable(reason: str, now: Now) -> Outcome:
    """It was not started, because its server cannot be reached."""
    todo = "check the server and the network (ssh.circuitBreaker and ssh.unreachableAfter say how long a job waits)"
    return _of("failed", ExecutionError(Reason.UNREACHABLE, f"not started: {reason}; {todo}"), now)


def _of(status: str, error: ExecutionError, now: Now) -> Outcome:
    return Outcome(status, None, error.report(), now.unix_ms, now.unix_ms)
