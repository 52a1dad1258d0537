"""A client of the standalone queue, for the command line and for tests: submit, look, follow, cancel.

Blocking (requests); every call has a deadline. Errors end with what to do next.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import orjson
import requests

from cronium.common.errors import CroniumError

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 30.0
_LONG_POLL_S = 20.0


class StandaloneError(CroniumError):
    """The queue did not do what it was asked. `status` is the HTTP status, 0 when there was no answer; `code` the protocol's."""

    def __init__(self, message: str, *, status: int = 0, code: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A job in a list; times as ISO 8601. `logs_complete` is True, False, "pending", or None (nothing to check against)."""

    id: str
    status: str
    exit_code: int | None
    type: str
    executor: str
    priority: int
    created_at: str
    started_at: str | None
    ended_at: str | None
    attempts: int
    terminal_reports: int
    logs_complete: bool | str | None
    raw: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        """Whether its status is terminal."""
        return self.ended_at is not None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        """From the queue's JSON; all of it stays in `raw`."""
        return cls(
            raw["id"],
            raw["status"],
            raw["exitCode"],
            raw["type"],
            raw["executor"],
            raw["priority"],
            raw["createdAt"],
            raw["startedAt"],
            raw["endedAt"],
            raw["attempts"],
            raw["terminalReports"],
            raw["logsComplete"],
            raw,
        )


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a job: its number, stream (stdout, stderr, system), time in Unix milliseconds, and text.

    `continued`: the text is a piece, the line goes on in the next one of its stream.
    """

    sequence: int
    stream: str
    timestamp_ms: int
    line: str
    continued: bool
    server: str | None


class StandaloneClient:
    """Talks to the queue at `base_url` (as `http://127.0.0.1:5001`) with its service token. Also a context manager."""

    def __init__(self, base_url: str, token: str) -> None:
        self._base = base_url.rstrip("/") + "/api/client"
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy, no .netrc: the queue is on this machine
        self._session.headers["Authorization"] = f"Bearer {token}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def submit(self, job: Mapping[str, Any], *, key: str | None = None, check: bool = True) -> JobSummary:
        """Submit a QueuedJob, or the parts of its `execution`; the id is made if there is none.

        `key` makes a repetition harmless. `check` false takes a job that is not well-formed too. Raises StandaloneError; all
        that is wrong with the job is in its `problems`.
        """
        return JobSummary.of(
            self._json(
                "POST",
                "/jobs",
                params={} if check else {"check": "false"},
                data=orjson.dumps(job),
                headers={"Content-Type": "application/json", "Idempotency-Key": key or str(uuid.uuid4())},
            )
        )

    def jobs(self, *, status: Sequence[str] = (), executor: str | None = None, limit: int = 50) -> list[JobSummary]:
        """The newest jobs first."""
        params = {"limit": str(limit), "status": ",".join(status)}
        if executor is not None:
            params["executor"] = executor
        return [JobSummary.of(raw) for raw in self._json("GET", "/jobs", params=params)["jobs"]]

    def job(self, job_id: str, *, wait_s: float = 0, logs: bool = True) -> dict[str, Any]:
        """Everything about a job: its row, `job`, `details`, `report`, `logsCheck`.

        `wait_s`: at most so long for its end, and (with `logs`) for all its lines.
        """
        params = {"wait": str(wait_s), "until": "settled" if logs else "ended"}
        answer: dict[str, Any] = self._json("GET", f"/jobs/{_quoted(job_id)}", params=params, wait_s=wait_s)
        return answer

    def wait(self, job_id: str, timeout_s: float, *, logs: bool = True) -> dict[str, Any]:
        """The job as `job` has it, when it has ended and (with `logs`) all its lines are here. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            job = self.job(job_id, wait_s=min(max(left_s, 0.0), _LONG_POLL_S), logs=logs)
            if job["endedAt"] is not None and not (logs and job["logsComplete"] == "pending"):
                return job
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"job {job_id} is {job['status']} after {timeout_s:g} s (lines complete: {job['logsComplete']}): "
                    f"'logs -f {job_id}' follows it, 'cancel {job_id}' ends it"
                )

    def logs(self, job_id: str, *, follow: bool = False, first: int = 1) -> Iterator[LogLine]:
        """The job's lines from number `first` on, in order; with `follow` until it has ended and all its lines are here.

        A connection that breaks is taken up again where it was. Raises StandaloneError.
        """
        tries = 0
        while True:
            try:
                for batch in self._batches(job_id, first, follow=follow):
                    for line in batch:
                        yield line
                        first = line.sequence + 1
                    tries = 0
            except requests.RequestException as error:
                tries += 1
                if tries > 5:
                    raise self._unreachable(error) from error
                time.sleep(0.1 * 2**tries)
            else:
                return

    def cancel(self, job_id: str) -> JobSummary:
        """Have a job ended; one that runs is ended by its supervisor. Raises StandaloneError when it has ended otherwise."""
        return JobSummary.of(self._json("POST", f"/jobs/{_quoted(job_id)}/cancel"))

    def orchestrators(self) -> list[dict[str, Any]]:
        """Supervisors that reported their health, and what they said."""
        found: list[dict[str, Any]] = self._json("GET", "/orchestrators")["orchestrators"]
        return found

    def _batches(self, job_id: str, first: int, *, follow: bool) -> Iterator[list[LogLine]]:
        response = self._session.get(
            f"{self._base}/jobs/{_quoted(job_id)}/logs/stream",
            params={"from": str(first), "follow": "true" if follow else "false"},
            timeout=(_CONNECT_TIMEOUT_S, None if follow else _ANSWER_TIMEOUT_S),
            stream=True,
        )
        with response:
            _raise_for(response)
            for text in _lines(response):
                part = orjson.loads(text)
                if "end" in part:
                    return
                if "error" in part:
                    raise StandaloneError(part["error"]["message"], code=part["error"]["code"])
                yield [_log_line(entry) for entry in part["entries"]]
        raise requests.ConnectionError("the stream of lines broke off")

    def _json(self, method: str, path: str, *, wait_s: float = 0, **request: Any) -> Any:
        try:
            response = self._session.request(
                method, self._base + path, timeout=(_CONNECT_TIMEOUT_S, _ANSWER_TIMEOUT_S + wait_s), **request
            )
        except requests.RequestException as error:
            raise self._unreachable(error) from error
        _raise_for(response)
        return orjson.loads(response.content)

    def _unreachable(self, error: Exception) -> StandaloneError:
        host = self._base.removesuffix("/api/client")
        reason = type(error).__name__
        return StandaloneError(
            f"no answer from the standalone queue at {host} ({reason}): start it with 'cronium-supervisor run --standalone'"
        )


def _quoted(job_id: str) -> str:
    return quote(job_id, safe="")


def _lines(response: requests.Response) -> Iterator[bytes]:
    """Lines of a stream, each as soon as it is here. (requests' own iter_lines splits at more than newlines.)"""
    rest = b""
    for data in response.iter_content(chunk_size=None):
        *whole, rest = (rest + data).split(b"\n")
        yield from whole


def _log_line(entry: Mapping[str, Any]) -> LogLine:
    return LogLine(
        entry["sequence"],
        entry["stream"],
        entry["timestamp"],
        entry["line"],
        entry.get("continued") is True,
        entry.get("server"),
    )


def _raise_for(response: requests.Response) -> None:
    if response.ok:
        return
    try:
        error = orjson.loads(response.content)["error"]
        code, message, details = error["code"], error["message"], error.get("details") or ()
    except (ValueError, KeyError, TypeError):
        code, message, details = "", f"HTTP {response.status_code}: is this the standalone queue's address?", ()
    if response.status_code == 401:
        message += "; the token is in the queue's token file"
    problems = [f"{d['path']}: {d['message']}" for d in details if isinstance(d, dict)]
    raise StandaloneError(message, status=response.status_code, code=code, problems=problems)
