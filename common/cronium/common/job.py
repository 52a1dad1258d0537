"""A job as the backend gives it (PROTOCOL.md, QueuedJob), checked at the boundary: all reasons of a bad one at once.

Pure; used by the supervisor (is it a job at all? where does it go?) and by the worker (what is to be run?). Whether it fits the
configured limits is the executor's question, not this module's. Unknown fields are kept and ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from cronium.common.errors import CroniumError

MAX_SCRIPT_BYTES = 4 * 1024 * 1024  # it is unpacked into a small tmpfs that counts against the job's memory
MAX_ID_LENGTH = 200
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_HELPER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")


class ScriptType(StrEnum):
    """The languages of a script."""

    BASH = "bash"
    PYTHON = "python"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class JobProblem:
    """One reason why a job cannot be run: where (`execution.timeout`), and what is wrong and allowed."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InvalidJobError(CroniumError):
    """A job that cannot be run, with every reason."""

    def __init__(self, problems: tuple[JobProblem, ...]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


def _or_default(value: Any) -> Any:
    return {} if value is None else value


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="allow")


class Script(_Part):
    """The script: its language, its text, and where it runs (absolute, or empty for the place's own)."""

    type: Annotated[ScriptType, BeforeValidator(lambda v: {"nodejs": "node"}.get(str(v).lower(), str(v).lower()))]
    content: str
    working_directory: Annotated[str, BeforeValidator(lambda v: v or "")] = ""
    helpers: tuple[Helper, ...] = ()


class Helper(_Part):
    """A file laid beside the script's helpers."""

    name: str
    content: str


class Target(_Part):
    """Where the job runs: `local` is a container here, `server` an SSH session there."""

    type: Literal["local", "server"] = "local"
    server_id: str | None = None
    server_details: Mapping[str, Any] | None = None


class JobResources(_Part):
    """What the job may use; None means the configured default. Cores, bytes, bytes, count."""

    cpu_limit: float | None = Field(default=None, gt=0)
    memory_limit: int | None = Field(default=None, gt=0)
    disk_limit: int | None = Field(default=None, gt=0)
    pids_limit: int | None = Field(default=None, gt=0)


class RetryPolicy(_Part):
    """How often and when a failed attempt is followed by another; `backoff_delay` in seconds."""

    max_attempts: int = Field(default=1, ge=1, le=100)
    backoff_type: Literal["fixed", "exponential"] = "exponential"
    backoff_delay: float = Field(default=5, ge=0, le=86_400)


class Execution(_Part):
    """What is to be run, where, and with what."""

    target: Annotated[Target, BeforeValidator(_or_default)] = Target()
    script: Script | None = None
    http: Mapping[str, Any] | None = None
    environment: Annotated[Mapping[str, str], BeforeValidator(_or_default)] = Field(default_factory=dict)
    input_data: Any = None
    variables: Annotated[Mapping[str, Any], BeforeValidator(_or_default)] = Field(default_factory=dict)
    image: str | None = None
    network: str | None = None
    timeout: float | None = Field(default=None, gt=0)
    resources: Annotated[JobResources, BeforeValidator(_or_default)] = JobResources()
    retry_policy: Annotated[RetryPolicy, BeforeValidator(_or_default)] = RetryPolicy()


class Job(_Part):
    """A job that is well-formed. Times as ISO 8601; `priority` 0 (low) to 10 (high)."""

    id: str = Field(min_length=1, max_length=MAX_ID_LENGTH)
    type: str | None = None
    priority: int = Field(default=5, ge=0, le=10)
    created_at: datetime | None = None
    scheduled_for: datetime | None = None
    attempts: int = 0
    execution: Execution
    metadata: Annotated[Mapping[str, Any], BeforeValidator(_or_default)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _runnable(self) -> Job:
        problems = tuple(_problems(self.execution))
        if problems:
            raise InvalidJobError(problems)
        return self


def parse_job(raw: Mapping[str, Any] | bytes) -> Job:
    """The job of a QueuedJob as JSON text or as parsed. Raises InvalidJobError with every reason."""
    try:
        return Job.model_validate_json(raw) if isinstance(raw, bytes) else Job.model_validate(raw)
    except ValidationError as error:
        problems = (JobProblem(_path(e["loc"]), _message(e)) for e in error.errors(include_url=False))
        raise InvalidJobError(tuple(problems)) from None


def _problems(execution: Execution) -> list[JobProblem]:
    """What types alone cannot say."""
    found: list[JobProblem] = []
    script = execution.script
    if script is None and execution.http is None:
        found.append(JobProblem("execution.script", "a job needs a script (type and content) or an http request"))
    if script is not None:
        size = len(script.content.encode("utf-8", "replace"))
        if size > MAX_SCRIPT_BYTES:
            found.append(
                JobProblem("execution.script.content", f"{size} bytes; at most {MAX_SCRIPT_BYTES}: pass data as inputData")
            )
        directory = script.working_directory
        if directory and (not directory.startswith("/") or "\n" in directory or "\0" in directory):
            found.append(JobProblem("execution.script.workingDirectory", "must be an absolute path without line breaks"))
        for helper in script.helpers:
            if not _HELPER.match(helper.name):
                found.append(JobProblem("execution.script.helpers", f"{helper.name!r} is not a plain file name"))
    for name, value in execution.environment.items():
        if not _VARIABLE.match(name):
            found.append(
                JobProblem("execution.environment", f"{name!r} is no variable name a shell can export: use letters, digits and _")
            )
        if "\0" in value:
            found.append(JobProblem(f"execution.environment.{name}", "a NUL byte cannot be in an environment"))
    return found


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "job"


def _message(error: Any) -> str:
    text = str(error["msg"])
    given = error.get("input")
    simple = isinstance(given, str | int | float | bool) and "environment" not in error["loc"]
    return f"{text} (given: {str(given)[:80]!r})" if simple else text


Script.model_rebuild()
