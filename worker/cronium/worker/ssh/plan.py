"""A job as it will be run on a server, within what the configuration allows. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cronium.common.config.units import format_duration
from cronium.common.job import InvalidJobError, Job, JobProblem, Script, ScriptType
from cronium.common.servers import servers_of
from cronium.worker.payload import INTERPRETERS
from cronium.worker.ssh.settings import Settings


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run, by what, for how long at most."""

    script: Script
    interpreter: str
    timeout_s: float


def plan(job: Job, settings: Settings) -> Plan:
    """The job with everything it left open filled in. Raises InvalidJobError with every reason."""
    problems = problems_of(job, settings)
    script = job.execution.script
    if problems or script is None:
        raise InvalidJobError(problems)
    shell = settings.ssh.execution.default_shell
    interpreter = shell if script.type is ScriptType.BASH else INTERPRETERS[script.type]
    return Plan(script, interpreter, job.execution.timeout or min(settings.default_timeout_s, settings.max_timeout_s))


def problems_of(job: Job, settings: Settings) -> tuple[JobProblem, ...]:
    """Every reason why this job is not run."""
    return tuple(_problems(job, settings))


def _problems(job: Job, settings: Settings) -> Iterator[JobProblem]:
    try:
        servers_of(job)
    except InvalidJobError as error:
        yield from error.problems
    execution = job.execution
    if execution.script is None:
        yield JobProblem("execution.script", "a server runs a script; requests of type http are not supported there")
    if execution.timeout is not None and execution.timeout > settings.max_timeout_s:
        limit = format_duration(settings.max_timeout_s)
        yield JobProblem("execution.timeout", f"{execution.timeout:g} s; at most {limit} (jobs.maxTimeout)")
