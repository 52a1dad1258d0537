"""What every HTTP route has in common: token, rate limit, bounded and checked body, error bodies. Event loop only.

A route is a value (`Route`); OpenAPI is made from the same values. A handler gets a `Call` and returns an answer.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

import orjson
import structlog
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from cronium.supervisor.standalone.errors import ApiError, Refusal, invalid, not_found, too_large, unauthorized
from cronium.supervisor.standalone.limits import Limit
from cronium.supervisor.standalone.operations import Answer, iso
from cronium.supervisor.standalone.schemas import Body
from cronium.supervisor.standalone.services import Services, now_ms

_log = structlog.get_logger()
_MAX_KEY_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Call:
    """A checked request."""

    services: Services
    request: Request
    body: Any
    orchestrator: str
    key: str | None

    @property
    def job_id(self) -> str:
        """The job of the path."""
        return unquote(str(self.request.path_params["job_id"]))

    def scope(self) -> str:
        """Where its Idempotency-Key counts: the caller's own requests to this route and job."""
        return f"{self.request.method} {self.request.url.path} {self.orchestrator}"

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number of the query. Raises ApiError 400."""
        text = self.request.query_params.get(name)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise invalid([(name, f"must be a number from {low:g} to {high:g}, not {text[:40]!r}")])
        return value

    async def gone(self) -> bool:
        """Whether the caller has hung up."""
        return await self.request.is_disconnected()

    async def hung_up(self) -> None:
        """Wait until the caller has hung up."""
        while (await self.request.receive())["type"] != "http.disconnect":
            pass


Handler = Callable[[Call], Awaitable[Answer | Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """One route: where, what it takes, who answers; `summary`, `parameters` and `answer` are for people."""

    method: Literal["GET", "POST", "PUT"]
    path: str
    handler: Handler
    summary: str
    body: type[Body] | None = None
    limit: Callable[[Request], Limit | None] = field(default=lambda _: None)
    parameters: tuple[tuple[str, str], ...] = ()
    answer: str = "done"
    public: bool = False

    def mounted(self, services: Services) -> StarletteRoute:
        """For Starlette."""

        async def endpoint(request: Request) -> Response:
            return await _answered(self, services, request)

        return StarletteRoute(self.path, endpoint, methods=[self.method])


def json_response(status: int, body: Any, headers: dict[str, str] | None = None) -> Response:
    """JSON as an answer."""
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


async def unknown_route(request: Request, _: Exception) -> Response:
    """The answer to a path or method that does not exist."""
    error = not_found(f"{request.method} {request.url.path}")
    return json_response(404, error.body(iso(now_ms()) or "", request.headers.get("X-Request-Id")))


async def _answered(route: Route, services: Services, request: Request) -> Response:
    headers: dict[str, str] = {}
    try:
        answer = await _handled(route, services, request, headers)
    except ApiError as error:
        body = error.body(iso(now_ms()) or "", request.headers.get("X-Request-Id"))
        return json_response(error.status, body, {**headers, **error.headers})
    except asyncio.CancelledError:
        raise
    except Exception:  # noqa: BLE001  # the outermost place of a request: told to the caller, kept in the log
        _log.exception("a request failed", method=request.method, path=request.url.path)
        failure = ApiError(500, "INTERNAL_ERROR", "the queue failed to handle this request; see its log")
        return json_response(500, failure.body(iso(now_ms()) or "", request.headers.get("X-Request-Id")), headers)
    if isinstance(answer, Answer):
        return json_response(answer.status, answer.body, headers)
    answer.headers.update(headers)
    return answer


async def _handled(route: Route, services: Services, request: Request, headers: dict[str, str]) -> Answer | Response:
    if not route.public and not services.authentic(_bearer(request)):
        raise unauthorized()
    orchestrator = request.headers.get("X-Orchestrator-Id") or request.query_params.get("orchestratorId") or ""
    if len(orchestrator) > _MAX_KEY_LENGTH:
        raise invalid([("X-Orchestrator-Id", f"longer than {_MAX_KEY_LENGTH} characters")])
    if (limit := route.limit(request)) is not None:
        allowance = services.limits.take(orchestrator, limit, time.monotonic())
        headers.update(allowance.headers(time.time()))
        if not allowance.allowed:
            seconds = headers["Retry-After"]
            raise ApiError(429, "RATE_LIMIT_EXCEEDED", f"more requests than allowed: try again in {seconds} s")
    key = request.headers.get("Idempotency-Key")
    if key is not None and len(key) > _MAX_KEY_LENGTH:
        raise invalid([("Idempotency-Key", f"longer than {_MAX_KEY_LENGTH} characters")])
    body = None if route.body is None else _checked(route.body, await _read(request, services.settings.max_body_bytes))
    answer = await route.handler(Call(services, request, body, orchestrator, key))
    if isinstance(answer, Answer) and isinstance(answer.body, Refusal):
        raise ApiError.of(answer.body)
    return answer


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


async def _read(request: Request, limit_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit_bytes:
                raise too_large("the body", limit_bytes)
            parts.append(part)
    except ClientDisconnect:  # nobody hears the answer; without it, it would be told as a fault of ours
        raise ApiError(400, "VALIDATION_INVALID_PARAMS", "the connection broke off inside the body") from None
    return b"".join(parts)


def _checked(model: type[Body], raw: bytes) -> Body:
    try:
        return model.model_validate(orjson.loads(raw))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        problems = [(".".join(map(str, e["loc"])) or "body", str(e["msg"])) for e in found]
        raise invalid(problems, missing=any(e["type"] == "missing" for e in found)) from error
    except ValueError as error:
        raise invalid([("body", f"not JSON: {error}")]) from error
