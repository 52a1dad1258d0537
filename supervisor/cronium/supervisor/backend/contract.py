"""The contract dialect of PROTOCOL.md: the core's actions as requests, the backend's answers as events.

Blocking, one instance a helper thread. Everything that comes from the backend is checked here and nowhere else.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import orjson
import structlog

from cronium.common.errors import ExecutionError, Reason
from cronium.common.job import InvalidJobError, JobProblem, parse_job
from cronium.common.messages import Outcome, Results, ServerOutcome, StreamTotals, Summary, Usage
from cronium.common.servers import servers_of
from cronium.supervisor.backend.http import Answer, BackendSession
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.state import Lease, RetryRule

_LEASE_EXTENSION_S = 60
_NOT_FOR_US = (401, 403)
_TOO_LARGE = 413
_MOST = 2**53  # a whole number that JSON carries exactly (RFC 8259, 6); SQLite's columns take no more than 2^63
_OTHER_DIALECT = (
    "the backend's queue answers without 'metadata', so it does not speak the contract dialect, and this version speaks no "
    "other: check CRONIUM_API_URL, or set api.dialect to contract if you are sure that it does"
)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class HealthHeard:
    """A health report was sent. `error`: why the backend does not work for us, as far as that tells."""

    error: str | None


class ContractBackend:
    """Speaks for one installation. `types`: kinds of job to ask for, empty for all.

    `certain`: the backend speaks this dialect, whatever it looks like; otherwise its first answer has to show it.
    """

    def __init__(self, session: BackendSession, orchestrator_id: str, types: tuple[str, ...], *, certain: bool = False) -> None:
        self._session = session
        self._certain = certain
        self._id = orchestrator_id
        self._types = types

    def poll(self, action: do.Poll) -> on.Polled | on.PollFailed:
        """GET /jobs/queue."""
        query = {"limit": str(action.limit), "orchestratorId": self._id}
        if self._types:
            query["types"] = ",".join(self._types)
        if action.wait_s > 0:
            query["wait"] = f"{action.wait_s:g}"
        started_s = time.monotonic()
        answer = self._session.ask("GET", "/jobs/queue", query=query, key=action.key, extra_s=action.wait_s)
        if not answer.success:
            return on.PollFailed(action.key, answer.reason, answer.retry_after_s)
        jobs = answer.body.get("jobs")
        if not isinstance(jobs, list):
            return on.PollFailed(action.key, "the queue's answer has no list of jobs")
        metadata = answer.body.get("metadata")
        if not self._certain and not isinstance(metadata, Mapping):  # PROTOCOL.md: that is how the dialects are told apart
            return on.PollFailed(action.key, _OTHER_DIALECT)
        metadata = metadata if isinstance(metadata, Mapping) else {}
        next_after = metadata.get("nextPollAfter")
        cancelled = metadata.get("cancelled")
        return on.Polled(
            action.key,
            tuple(job for raw in jobs if (job := queued_job(raw)) is not None),
            tuple(str(job_id) for job_id in cancelled) if isinstance(cancelled, list) else (),
            time.monotonic() - started_s,
            float(next_after) if isinstance(next_after, int | float) and 0 <= next_after <= 3600 else None,
        )

    def acknowledge(self, action: do.Acknowledge) -> on.Taken | on.Refused | on.Unanswered:
        """POST /jobs/{id}/acknowledge."""
        body = {"orchestratorId": self._id, "timestamp": iso_now()}
        answer = self._session.ask("POST", f"/jobs/{_quoted(action.job_id)}/acknowledge", body=body, key=action.key)
        return self._statement(action.job_id, action.key, answer)

    def status(self, action: do.SayStatus) -> on.Taken | on.Refused | on.Unanswered:
        """PUT /jobs/{id}/status."""
        details: dict[str, object] = {"attempt": action.attempt}
        if action.message is not None:
            details["message"] = action.message
        if action.percentage is not None:
            details["progress"] = {"percentage": action.percentage, "message": action.message}
        body = {"status": action.status, "timestamp": iso_now(), "details": details, "epoch": action.epoch}
        answer = self._session.ask("PUT", f"/jobs/{_quoted(action.job_id)}/status", body=body, key=action.key)
        if answer.status == 409 and _is_superseded(answer, action.attempt):
            return on.Taken(action.job_id, action.key)  # a later one was said already, so this one has nothing more to tell
        return self._statement(action.job_id, action.key, answer)

    def complete(self, action: do.SayComplete) -> on.Taken | on.Refused | on.Unanswered:
        """POST /jobs/{id}/complete; without the output files where they are too much for the backend, or a proxy before it."""
        answer = self._complete(action, action.outcome)
        results = action.outcome.results
        if answer.status == _TOO_LARGE and results.files:
            _log.warning("the backend takes no report as large as this: its output files are left out", job_id=action.job_id)
            problem = f"{len(results.files)} output files were left out: the backend does not take so much at once (413)"
            answer = self._complete(action, replace(action.outcome, results=results.without_files(problem)))
        return self._statement(action.job_id, action.key, answer)

    def _complete(self, action: do.SayComplete, outcome: Outcome) -> Answer:
        body = completion(outcome, action.summary, action.attempt, action.epoch)
        return self._session.ask("POST", f"/jobs/{_quoted(action.job_id)}/complete", body=body, key=action.key)

    def renew(self, action: do.RenewLease) -> on.LeaseRenewed | on.LeaseLost | on.LeaseUnanswered:
        """POST /jobs/{id}/lease/renew."""
        body: dict[str, object] = {"renewalToken": action.token, "extensionSeconds": _LEASE_EXTENSION_S}
        if action.percentage is not None or action.message is not None:
            body["progress"] = {"percentage": action.percentage, "message": action.message}
        answer = self._session.ask("POST", f"/jobs/{_quoted(action.job_id)}/lease/renew", body=body)
        if answer.status in (404, 409, 410):
            return on.LeaseLost(action.job_id, answer.reason)
        lease = _lease(answer.body)
        if not answer.success or lease is None:
            return on.LeaseUnanswered(action.job_id)
        return on.LeaseRenewed(action.job_id, lease, _text(answer.body, "nextAction"))

    def health(self, action: do.SayHealth) -> HealthHeard:
        """POST /orchestrator/health. One that was not taken is not said again, the next one follows soon."""
        answer = self._session.ask("POST", "/orchestrator/health", body=action.body)
        works = 200 <= answer.status < 500 and answer.status not in _NOT_FOR_US
        return HealthHeard(None if works else answer.reason or "no success")

    @staticmethod
    def _statement(job_id: str, key: str, answer: Answer) -> on.Taken | on.Refused | on.Unanswered:
        if answer.success:
            return on.Taken(
                job_id,
                key,
                _text(answer.body, "nextAction"),
                _lease(answer.body),
                _count(answer.body, "epoch"),
                _count(answer.body, "nextSequence"),
            )
        if answer.refused:
            return on.Refused(job_id, key, answer.reason, gone=answer.status in (404, 409, 410))
        return on.Unanswered(job_id, key, answer.reason or "no success", answer.retry_after_s)


def queued_job(raw: object) -> on.QueuedJob | None:
    """A job as it was polled, a refusal with every reason when it cannot be run; None when it does not even have an id."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("id"), str) or not raw["id"]:
        return None
    payload = orjson.dumps(raw)
    try:
        job = parse_job(payload)
        servers = servers_of(job) if job.execution.target.type == "server" else ()
    except InvalidJobError as error:
        return on.QueuedJob(raw["id"], payload, 0, RetryRule(), _refusal(error.problems))
    policy = job.execution.retry_policy
    rule = RetryRule(policy.max_attempts, policy.backoff_type == "exponential", policy.backoff_delay)
    return on.QueuedJob(job.id, payload, job.priority, rule, servers=tuple(server.key for server in servers))


def completion(outcome: Outcome, summary: Summary, attempt: int, epoch: int) -> dict[str, object]:
    """The body of `complete`."""
    body: dict[str, object] = {
        "status": outcome.status,
        "exitCode": outcome.exit_code,
        "output": {
            "stdout": summary.stdout.decode("utf-8", "replace"),
            "stderr": summary.stderr.decode("utf-8", "replace"),
        },
        "metrics": {
            "startTime": iso(outcome.started_ms),
            "endTime": iso(outcome.ended_ms),
            "duration": outcome.ended_ms - outcome.started_ms,
            "resourceUsage": _usage(outcome.usage),
        },
        "timestamp": iso_now(),
        "attempt": attempt,
        "epoch": epoch,
        "logs": {
            "firstSequence": summary.first_sequence,
            "lastSequence": summary.position.next_sequence - 1,
            "stdout": _totals(summary.position.stdout),
            "stderr": _totals(summary.position.stderr),
        },
    }
    if summary.truncated:
        body["outputTruncated"] = True
    if outcome.error is not None:
        error = outcome.error
        body["error"] = {
            "type": error.type,
            "message": error.message,
            "retryable": error.retryable,
            "details": dict(error.details),
            "timestamp": iso(error.timestamp_ms),
        }
    if outcome.servers:
        body["details"] = {"servers": [_server(server) for server in outcome.servers]}
    body.update(_results(outcome.results))
    return body


def _server(server: ServerOutcome) -> dict[str, object]:
    body: dict[str, object] = {"name": server.name, "status": server.status, "exitCode": server.exit_code}
    if server.reason is not None or server.message is not None:
        body["error"] = {"reason": server.reason, "message": server.message}
    return body


def _results(results: Results) -> dict[str, object]:
    body: dict[str, object] = {}
    artifacts: dict[str, object] = {}
    if results.script_output is not None:
        body["scriptOutput"] = orjson.Fragment(results.script_output)
    if results.condition is not None:
        body["condition"] = results.condition
    if results.variables is not None:
        artifacts["variables"] = orjson.Fragment(results.variables)
    if results.files:
        artifacts["files"] = [
            {
                "name": file.path.rsplit("/", 1)[-1],
                "path": file.path,
                "size": len(file.content),
                "mimeType": file.mime_type,
                "content": base64.b64encode(file.content).decode(),
            }
            for file in results.files
        ]
    if artifacts:
        body["artifacts"] = artifacts
    if results.problems:
        body["resultProblems"] = list(results.problems)
    return body


def _usage(usage: Usage) -> dict[str, object]:
    values = {
        "peakCpu": usage.peak_cpu_percent,
        "peakMemory": usage.peak_memory_bytes,
        "networkRx": usage.network_rx_bytes,
        "networkTx": usage.network_tx_bytes,
    }
    return {name: value for name, value in values.items() if value is not None}


def _totals(totals: StreamTotals) -> dict[str, object]:
    return {"lines": totals.lines, "bytes": totals.bytes, "crc32": f"{totals.crc32:08x}"}


def _refusal(problems: tuple[JobProblem, ...]) -> Outcome:
    texts = [str(problem) for problem in problems]
    error = ExecutionError(Reason.INVALID_JOB, "this job cannot be run: " + "; ".join(texts), problems=texts).report()
    return Outcome("failed", None, error, error.timestamp_ms, error.timestamp_ms)


def _lease(body: Mapping[str, object]) -> Lease | None:
    lease = body.get("lease")
    if not isinstance(lease, Mapping):
        return None
    token, expires = lease.get("renewalToken"), lease.get("expiresAt")
    if not isinstance(token, str) or not isinstance(expires, str):
        return None
    try:
        return Lease(token, round(datetime.fromisoformat(expires).timestamp() * 1000))
    except (ValueError, OverflowError):
        return None


def _is_superseded(answer: Answer, attempt: int) -> bool:
    """Whether a status was refused as the backend knows of a later attempt of ours: the job is ours all the same."""
    error = answer.body.get("error")
    details = error.get("details") if isinstance(error, Mapping) else None
    return isinstance(details, Mapping) and (_count(details, "attempt") or 0) > attempt


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) else None


def _count(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value < _MOST else None


def _quoted(job_id: str) -> str:
    return quote(job_id, safe="")


def iso(unix_ms: int) -> str:
    """UTC, ISO 8601 with milliseconds."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_now() -> str:
    """Now, the same way."""
    return iso(time.time_ns() // 1_000_000)
