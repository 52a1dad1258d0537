"""From a file on the command line, and the options beside it, to a job as PROTOCOL.md has it (QueuedJob).

Reads the file and the environment files, nothing else. Whether the job is a valid one is not this module's question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic.alias_generators import to_camel

from cronium.common.errors import CroniumError
from cronium.common.job import Job, ScriptType

_SUFFIXES: Mapping[str, ScriptType] = {
    ".sh": ScriptType.BASH,
    ".bash": ScriptType.BASH,
    ".py": ScriptType.PYTHON,
    ".js": ScriptType.NODE,
    ".cjs": ScriptType.NODE,
}
_INTERPRETERS: Mapping[str, ScriptType] = {
    "sh": ScriptType.BASH,
    "dash": ScriptType.BASH,
    "bash": ScriptType.BASH,
    "python": ScriptType.PYTHON,
    "node": ScriptType.NODE,
    "nodejs": ScriptType.NODE,
}
_JOB_FIELDS = frozenset(to_camel(name) for name in Job.model_fields if name != "execution")
_VERSION = re.compile(r"[0-9.]+\Z")


class JobFileError(CroniumError):
    """A file, or an option beside it, that makes no job. The message ends with what to do."""


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What the command line says of a job; it wins over the job's file. Seconds, cores, bytes."""

    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    image: str | None = None
    network: str | None = None
    cpu: float | None = None
    memory_bytes: int | None = None
    priority: int | None = None


def read_job(path: Path, options: JobOptions) -> dict[str, Any]:
    """The job: always with `execution`, with an `id` only if its file has one. Raises JobFileError."""
    text = _text(path)
    job: dict[str, Any] = _whole_job(path, text) if path.suffix == ".json" else {"execution": {"script": _script(path, text)}}
    execution: dict[str, Any] = dict(job["execution"])
    given: dict[str, Any] = {"timeout": options.timeout_s, "image": options.image, "network": options.network}
    execution |= {name: value for name, value in given.items() if value is not None}
    if options.environment:
        execution["environment"] = {**(execution.get("environment") or {}), **options.environment}
    limits = {"cpuLimit": options.cpu, "memoryLimit": options.memory_bytes}
    if said := {name: value for name, value in limits.items() if value is not None}:
        execution["resources"] = {**(execution.get("resources") or {}), **said}
    if options.priority is not None:
        job["priority"] = options.priority
    return {**job, "execution": execution}


def read_environment(entries: Iterable[str], files: Iterable[Path], environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of `--env` and `--env-file`; the former win, and of several the last. Raises JobFileError."""
    found: dict[str, str] = {}
    for path in files:
        for number, line in enumerate(_text(path).splitlines(), 1):
            if (entry := line.strip()) and not entry.startswith("#"):
                found |= _variable(entry, environ, f"{path}:{number}")
    for entry in entries:
        found |= _variable(entry, environ, "--env")
    return found


def _variable(entry: str, environ: Mapping[str, str], where: str) -> dict[str, str]:
    name, assigned, value = entry.partition("=")
    if not name:
        raise JobFileError(f"{where}: a variable needs a name: K=V, or K to pass on ours")
    if assigned:
        return {name: value}
    if name not in environ:
        raise JobFileError(f"{where}: {name!r} is not in the environment: set it, or write {name}=VALUE")
    return {name: environ[name]}


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise JobFileError(f"{path} cannot be read ({error.strerror}): check its name and its rights") from None
    except UnicodeDecodeError as error:
        raise JobFileError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


def _script(path: Path, text: str) -> dict[str, str]:
    kind = _SUFFIXES.get(path.suffix) or by_first_line(text.partition("\n")[0])
    if kind is None:
        raise JobFileError(
            f"{path}: is it bash, Python or Node? Name it .sh, .py or .js, or begin it with a line like #!/bin/bash "
            "(.json is a job as the README describes it)"
        )
    return {"type": kind.value, "content": text}


def by_first_line(line: str) -> ScriptType | None:
    """The language that a script's first line (`#!/usr/bin/env python3`) names."""
    if not line.startswith("#!"):
        return None
    words = [PurePosixPath(word).name for word in line[2:].split()]
    if words[:1] == ["env"]:
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    return _INTERPRETERS.get(_VERSION.sub("", words[0])) if words else None


def _whole_job(path: Path, text: str) -> dict[str, Any]:
    """A QueuedJob as it is; the parts of an execution (`script`, `timeout` …) become one."""
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise JobFileError(f"{path}:{error.lineno}:{error.colno}: no JSON ({error.msg}): correct it there") from None
    if not isinstance(given, dict):
        raise JobFileError(f"{path} holds no JSON object: a job has an 'execution', or at least a 'script'")
    if given.get("execution") is None:
        parts = {name: value for name, value in given.items() if name not in _JOB_FIELDS and name != "execution"}
        given = {**{name: value for name, value in given.items() if name in _JOB_FIELDS}, "execution": parts}
    if not isinstance(given["execution"], dict):
        raise JobFileError(f"{path}: 'execution' is no JSON object: it holds 'script', 'timeout', 'environment' …")
    for name in ("environment", "resources"):
        if not isinstance(given["execution"].get(name) or {}, dict):
            raise JobFileError(f"{path}: 'execution.{name}' is no JSON object: it holds names and values")
    return given
