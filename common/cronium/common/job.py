"""A job as the backend gives it (PROTOCOL.md, QueuedJob), checked at the boundary: all reasons of a bad one at once.

Pure; used by the supervisor (is it a job at all? where does it go?) and by the worker (what is to be run?). Whether it fits the
configured limits is the executor's question, not this module's. Unknown fields are kept and ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, from_json

from cronium.common.errors import CroniumError

MAX_SCRIPT_BYTES = 4 * 1024 * 1024  # it is unpacked into a small tmpfs that counts against the job's memory
MAX_ID_LENGTH = 200
_SHOWN = frozenset(  # fields whose value may stand in a message: none of them can hold a secret
    {
        *("id", "type", "priority", "createdAt", "scheduledFor", "attempts", "image", "network", "workingDirectory", "timeout"),
        *("cpuLimit", "memoryLimit", "diskLimit", "pidsLimit", "maxAttempts", "backoffType", "backoffDelay"),
    }
)
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


def _checked(find: Callable[[str], str | None]) -> AfterValidator:
    """A check of one value: `find` says what is wrong with it, None when nothing is."""

    def check(value: str) -> str:
        if (problem := find(value)) is not None:
            raise PydanticCustomError("job", "{problem}", {"problem": problem})
        return value

    return AfterValidator(check)


def _content_problem(text: str) -> str | None:
    size = len(text.encode("utf-8", "replace"))
    return f"{size} bytes; at most {MAX_SCRIPT_BYTES}: pass data as inputData" if size > MAX_SCRIPT_BYTES else None


def _directory_problem(path: str) -> str | None:
    wrong = path and (not path.startswith("/") or "\n" in path or "\0" in path)
    return "must be an absolute path without line breaks" if wrong else None


def _helper_problem(name: str) -> str | None:
    return None if _HELPER.match(name) else f"{name[:80]!r} is not a plain file name"


def _variable_problem(name: str) -> str | None:
    return None if _VARIABLE.match(name) else "is no variable name a shell can export: use letters, digits and _"


def _value_problem(value: str) -> str | None:
    return "a NUL byte cannot be in an environment" if "\0" in value else None


_VariableName = Annotated[str, _checked(_variable_problem)]
_VariableValue = Annotated[str, _checked(_value_problem)]


class _Part(BaseModel):
    """What is left out, or null, is as if it had not been said."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, Mapping) else value


class Script(_Part):
    """The script: its language, its text, and where it runs (absolute, or empty for the place's own)."""

    type: Annotated[ScriptType, BeforeValidator(lambda v: {"nodejs": "node"}.get(str(v).lower(), str(v).lower()))]
    content: Annotated[str, _checked(_content_problem)]
    working_directory: Annotated[str, _checked(_directory_problem)] = ""
    helpers: tuple[Helper, ...] = ()


class Helper(_Part):
    """A file laid beside the script's helpers."""

    name: Annotated[str, _checked(_helper_problem)]
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

    target: Target = Target()
    script: Script | None = None
    http: Mapping[str, Any] | None = None
    environment: Mapping[_VariableName, _VariableValue] = Field(default_factory=dict)
    input_data: Any = None
    variables: Mapping[str, Any] = Field(default_factory=dict)
    image: str | None = None
    network: str | None = None
    timeout: float | None = Field(default=None, gt=0)
    resources: JobResources = JobResources()
    retry_policy: RetryPolicy = RetryPolicy()


class Job(_Part):
    """A job that is well-formed. Times as ISO 8601; `priority` 0 (low) to 10 (high). `type` says nothing: the target decides."""

    id: str = Field(min_length=1, max_length=MAX_ID_LENGTH)
    type: Any = None
    priority: int = Field(default=5, ge=0, le=10)
    created_at: datetime | None = None
    scheduled_for: datetime | None = None
    attempts: int = 0
    execution: Execution
    metadata: Mapping[str, Any] = Field(default_factory=dict)


def parse_job(raw: Mapping[str, Any] | bytes) -> Job:
    """The job of a QueuedJob as JSON text or as parsed. Raises InvalidJobError with every reason."""
    try:
        said = from_json(raw) if isinstance(raw, bytes) else raw
    except ValueError as error:
        raise InvalidJobError((JobProblem("job", f"is not JSON: {error}"),)) from None
    problems: list[JobProblem] = []
    job: Job | None = None
    try:
        job = Job.model_validate(said)
    except ValidationError as error:
        problems += (JobProblem(_path(e["loc"]), _message(e)) for e in error.errors(include_url=False))
    execution = said.get("execution") if isinstance(said, Mapping) else None
    if isinstance(execution, Mapping) and execution.get("script") is None and execution.get("http") is None:
        problems.append(JobProblem("execution.script", "a job needs a script (type and content) or an http request"))
    if job is None or problems:
        raise InvalidJobError(tuple(problems))
    return job


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location if part != "[key]") or "job"


def _message(error: Any) -> str:
    """What is wrong, with the value where it cannot be a secret."""
    text, given, where = str(error["msg"]), error.get("input"), error["loc"]
    harmless = bool(where) and where[-1] in _SHOWN and "environment" not in where and isinstance(given, str | int | float)
    return f"{text} (given: {str(given)[:80]!r})" if harmless and error["type"] != "job" else text


Script.model_rebuild()
