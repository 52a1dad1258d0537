"""The tree of errors and the stable words that say why an attempt ended.

Used in every process. An `ExecutionError` is raised where the cause is known and turned into a report in one place (the
worker's outcome or the supervisor's core); it travels between processes as plain data. Nothing here talks to anyone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class ErrorType(StrEnum):
    """The seven kinds of SEED.md, 'Error Types'."""

    VALIDATION = "validation"
    DOCKER = "docker"
    SSH = "ssh"
    API = "api"
    TIMEOUT = "timeout"
    RESOURCE = "resource"
    SCRIPT = "script"


class Reason(StrEnum):
    """One word that says why an attempt ended. Stable: programs compare it; add, never rename."""

    INVALID_JOB = "invalid_job"
    UNSUPPORTED = "unsupported"
    SCRIPT_EXIT = "script_exit"
    SIGNAL = "signal"
    INTERPRETER_MISSING = "interpreter_missing"
    LAUNCH_FAILED = "launch_failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    OOM = "oom"
    PIDS = "pids"
    DISK_FULL = "disk_full"
    OUTPUT_FLOOD = "output_flood"
    OUTPUT_LOST = "output_lost"
    WORKER_LOST = "worker_lost"
    PLACE_VANISHED = "place_vanished"
    ENGINE_DOWN = "engine_down"
    ENGINE_ERROR = "engine_error"
    IMAGE_MISSING = "image_missing"
    IMAGE_AUTH = "image_auth"
    IMAGE_UNSUITABLE = "image_unsuitable"
    PULL_FAILED = "pull_failed"
    CREATE_FAILED = "create_failed"
    START_FAILED = "start_failed"
    UNREACHABLE = "unreachable"
    AUTH_FAILED = "auth_failed"
    KEY_INVALID = "key_invalid"
    HOST_KEY_UNKNOWN = "host_key_unknown"
    HOST_KEY_CHANGED = "host_key_changed"
    SSH_PROTOCOL = "ssh_protocol"
    SERVER_UNSUITABLE = "server_unsuitable"
    HOST_REBOOTED = "host_rebooted"
    INTERNAL = "internal"


_TYPE_OF: Mapping[Reason, ErrorType] = {
    Reason.INVALID_JOB: ErrorType.VALIDATION,
    Reason.UNSUPPORTED: ErrorType.VALIDATION,
    Reason.SCRIPT_EXIT: ErrorType.SCRIPT,
    Reason.SIGNAL: ErrorType.SCRIPT,
    Reason.INTERPRETER_MISSING: ErrorType.SCRIPT,
    Reason.LAUNCH_FAILED: ErrorType.SCRIPT,
    Reason.CANCELLED: ErrorType.SCRIPT,
    Reason.TIMEOUT: ErrorType.TIMEOUT,
    Reason.OOM: ErrorType.RESOURCE,
    Reason.PIDS: ErrorType.RESOURCE,
    Reason.DISK_FULL: ErrorType.RESOURCE,
    Reason.OUTPUT_FLOOD: ErrorType.RESOURCE,
    Reason.OUTPUT_LOST: ErrorType.RESOURCE,
    Reason.WORKER_LOST: ErrorType.RESOURCE,
    Reason.PLACE_VANISHED: ErrorType.RESOURCE,
    Reason.ENGINE_DOWN: ErrorType.DOCKER,
    Reason.ENGINE_ERROR: ErrorType.DOCKER,
    Reason.IMAGE_MISSING: ErrorType.DOCKER,
    Reason.IMAGE_AUTH: ErrorType.DOCKER,
    Reason.IMAGE_UNSUITABLE: ErrorType.DOCKER,
    Reason.PULL_FAILED: ErrorType.DOCKER,
    Reason.CREATE_FAILED: ErrorType.DOCKER,
    Reason.START_FAILED: ErrorType.DOCKER,
    Reason.UNREACHABLE: ErrorType.SSH,
    Reason.AUTH_FAILED: ErrorType.SSH,
    Reason.KEY_INVALID: ErrorType.SSH,
    Reason.HOST_KEY_UNKNOWN: ErrorType.SSH,
    Reason.HOST_KEY_CHANGED: ErrorType.SSH,
    Reason.SSH_PROTOCOL: ErrorType.SSH,
    Reason.SERVER_UNSUITABLE: ErrorType.SSH,
    Reason.HOST_REBOOTED: ErrorType.SSH,
    Reason.INTERNAL: ErrorType.RESOURCE,
}

# What another try cannot mend. Everything else is retried as far as the job's own policy allows.
_FINAL = frozenset(
    {
        Reason.INVALID_JOB,
        Reason.UNSUPPORTED,
        Reason.CANCELLED,
        Reason.IMAGE_MISSING,
        Reason.IMAGE_AUTH,
        Reason.IMAGE_UNSUITABLE,
        Reason.INTERPRETER_MISSING,
        Reason.AUTH_FAILED,
        Reason.KEY_INVALID,
        Reason.HOST_KEY_UNKNOWN,
        Reason.HOST_KEY_CHANGED,
        Reason.SERVER_UNSUITABLE,
    }
)


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """An error as plain data, ready for a message, the journal or the backend (PROTOCOL.md, `details.error`)."""

    type: str
    reason: str
    message: str
    retryable: bool
    details: Mapping[str, object] = field(default_factory=dict)
    timestamp_ms: int = 0


class CroniumError(Exception):
    """Root of every error this project raises on purpose."""


class ExecutionError(CroniumError):
    """Why an attempt could not be done or did not succeed.

    `reason` decides the type and whether another try can help. `message` ends with the next step for a person.
    `details` holds plain values only, never a secret. `timestamp_ms` is Unix time.
    """

    def __init__(self, reason: Reason, message: str, *, retryable: bool | None = None, **details: object) -> None:
        super().__init__(message)
        self.reason = reason
        self.type = _TYPE_OF[reason]
        self.message = message
        self.retryable = reason not in _FINAL if retryable is None else retryable
        self.details: dict[str, object] = {"reason": reason.value, **details}
        self.timestamp_ms = time.time_ns() // 1_000_000

    def report(self) -> ErrorReport:
        """The same as data."""
        return ErrorReport(self.type.value, self.reason.value, self.message, self.retryable, self.details, self.timestamp_ms)
