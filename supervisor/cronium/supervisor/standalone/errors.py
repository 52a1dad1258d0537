"""The errors of the queue's interfaces: status, code and body as the protocol has them ("Errors"). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cronium.common.errors import CroniumError

Code = Literal[
    "AUTH_INVALID_TOKEN",
    "AUTHZ_INSUFFICIENT_PERMISSIONS",
    "RESOURCE_NOT_FOUND",
    "RESOURCE_ALREADY_PROCESSED",
    "VALIDATION_INVALID_PARAMS",
    "VALIDATION_MISSING_FIELD",
    "RATE_LIMIT_EXCEEDED",
    "INTERNAL_ERROR",
    "DATABASE_ERROR",
    "SERVICE_UNAVAILABLE",
]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something asked for is not done: HTTP status, code, and a text that ends with the next step. `details` is JSON."""

    status: int
    code: Code
    message: str
    details: Any = None


class ApiError(CroniumError):
    """An answer that is an error. `details` is JSON; `headers` are added to the answer."""

    def __init__(
        self,
        status: int,
        code: Code,
        message: str,
        *,
        details: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code: Code = code
        self.message = message
        self.details = details
        self.headers = dict(headers or {})

    @classmethod
    def of(cls, refusal: Refusal) -> ApiError:
        """The error that tells a refusal."""
        return cls(refusal.status, refusal.code, refusal.message, details=refusal.details)

    def body(self, timestamp: str, trace_id: str | None) -> dict[str, Any]:
        """The JSON body; `timestamp` is ISO 8601."""
        error: dict[str, Any] = {"code": self.code, "message": self.message, "timestamp": timestamp}
        if self.details is not None:
            error["details"] = self.details
        if trace_id:
            error["traceId"] = trace_id
        return {"error": error}


def unauthorized() -> ApiError:
    """No token, or a wrong one."""
    return ApiError(401, "AUTH_INVALID_TOKEN", "the service token is missing or wrong: send 'Authorization: Bearer TOKEN'")


def not_found(what: str) -> ApiError:
    """What was asked for does not exist."""
    return ApiError(404, "RESOURCE_NOT_FOUND", f"{what} is not known here: 'jobs' lists what is")


def invalid(problems: Sequence[tuple[str, str]], *, missing: bool = False) -> ApiError:
    """Everything that is wrong with what was sent, as (path, message)."""
    text = "; ".join(f"{path}: {message}" for path, message in problems)
    return ApiError(
        400,
        "VALIDATION_MISSING_FIELD" if missing else "VALIDATION_INVALID_PARAMS",
        text,
        details=[{"path": path, "message": message} for path, message in problems],
    )


def too_large(what: str, limit_bytes: int) -> ApiError:
    """More was sent than is taken."""
    return ApiError(413, "VALIDATION_INVALID_PARAMS", f"{what} is larger than {limit_bytes} bytes: send less at once")
