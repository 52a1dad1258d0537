"""One HTTP session to the backend: headers, bounds, and what each kind of failure means. Blocking; runs in helper threads.

An answer is a value. `Answer.refused` follows PROTOCOL.md: a 4xx other than 401, 408, 409, 425 and 429 is for good; so is a 409
that says that the thing is done already. Everything else that is not a success may be tried again; a success is only what the
backend itself has said, in a JSON object (or a 204), not whatever answers in its place.
"""

from __future__ import annotations

import email.utils
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson
import requests
import structlog
import urllib3

from cronium.common import VERSION

SERVICE_NAME = "cronium-orchestrator"
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024
_CONNECT_S = 5.0
_MAYBE_LATER = frozenset({401, 408, 409, 425, 429})
_ID = re.compile("^/jobs/[^/]+/")
_ALREADY = "RESOURCE_ALREADY_PROCESSED"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `status` 0: nothing that counts did. `body`: the JSON object, empty when there was none."""

    status: int
    body: Mapping[str, object] = field(default_factory=dict)
    reason: str = ""
    retry_after_s: float | None = None

    @property
    def success(self) -> bool:
        """Whether the backend did as it was asked."""
        return 200 <= self.status < 300 and self.body.get("success") is not False

    @property
    def refused(self) -> bool:
        """Whether it never will."""
        return 400 <= self.status < 500 and (self.status not in _MAYBE_LATER or (self.status == 409 and self.code == _ALREADY))

    @property
    def code(self) -> str:
        """The backend's error code, empty when it gave none."""
        error = self.body.get("error")
        return str(error.get("code", "")) if isinstance(error, Mapping) else ""


class BackendSession:
    """A connection pool of one thread. `orchestrator_id` is this installation's stable id.

    `max_answer_bytes`: of an answer's body; a longer one is none.
    """

    def __init__(
        self, base_url: str, token: str, orchestrator_id: str, timeout_s: float, max_answer_bytes: int = _MAX_ANSWER_BYTES
    ) -> None:
        self._base = base_url.rstrip("/")
        self._timeout_s = timeout_s
        self._max_answer_bytes = max_answer_bytes
        self._session = requests.Session()
        self._warned: set[str] = set()
        self._session.headers.update(
            {
                "Authorization": f"Bearer {token}",
                "X-Service-Name": SERVICE_NAME,
                "X-Service-Version": VERSION,
                "X-Orchestrator-Id": orchestrator_id,
                "Accept": "application/json; version=1",
                "Content-Type": "application/json",
            }
        )

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, object] | bytes | None = None,
        query: Mapping[str, str] | None = None,
        key: str | None = None,
        extra_s: float = 0.0,
    ) -> Answer:
        """One request, one answer; never raises for what the network or the backend does.

        `body`: bytes are JSON already. `extra_s`: a long poll's wait.
        """
        headers = {"X-Request-Id": str(uuid.uuid4())}
        if key is not None:
            headers["Idempotency-Key"] = key
        deadline_s = time.monotonic() + self._timeout_s + extra_s
        try:
            with self._session.request(
                method,
                self._base + path,
                data=body if body is None or isinstance(body, bytes) else orjson.dumps(body),
                params=query,
                headers=headers,
                timeout=(_CONNECT_S, self._timeout_s + extra_s),
                allow_redirects=False,  # the token is for this backend only
                stream=True,
            ) as response:
                self._warn_of_sunset(response, f"{method} {_ID.sub('/jobs/{id}/', path)}")
                return self._read(response, deadline_s)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            return Answer(0, reason=f"{type(error).__name__}: {_short(str(error))}")

    def close(self) -> None:
        """Drop the connections."""
        self._session.close()

    def _read(self, response: requests.Response, deadline_s: float) -> Answer:
        content = bytearray()
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):  # what is there: `read` waits until all of it is
            content += chunk
            if len(content) > self._max_answer_bytes:
                return Answer(0, reason=f"the answer is larger than {self._max_answer_bytes} bytes")
            if time.monotonic() > deadline_s:
                return Answer(0, reason="the answer did not end in time")
        status, retry_after_s = response.status_code, _retry_after(response.headers.get("Retry-After"))
        try:
            body = {} if status == 204 else orjson.loads(bytes(content))  # RFC 9110, 15.3.5: it has none
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            if 200 <= status < 300:
                return Answer(
                    0,
                    reason=f"HTTP {status}, but the answer is no JSON object: {_short(content[:200].decode('utf-8', 'replace'))}",
                )
            body = {}
        answer = Answer(status, body, retry_after_s=retry_after_s)
        if answer.success:
            return answer
        error = body.get("error")
        text = error.get("message", "") if isinstance(error, dict) else error or ""
        return Answer(status, body, f"HTTP {status} {answer.code} {_short(str(text))}".strip(), retry_after_s)

    def _warn_of_sunset(self, response: requests.Response, route: str) -> None:
        """Once for each route, whatever job it was asked for."""
        sunset = response.headers.get("Sunset")
        if sunset and route not in self._warned:
            self._warned.add(route)
            _log.warning("the backend will drop this route", route=route, sunset=sunset, link=response.headers.get("Link"))


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3: a number or a date); at most an hour, None if there is none."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), 3600.0)


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:300] + "…"
