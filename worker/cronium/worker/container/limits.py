"""What a job gets: its limits, its image, its network, all within what the configuration allows.

Pure. A job that asks for more is refused with every reason at once; nothing is quietly made smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from cronium.common.config.units import format_duration, format_size
from cronium.common.job import InvalidJobError, Job, JobProblem, Script, ScriptType
from cronium.worker.container.settings import Settings
from cronium.worker.payload import INTERPRETERS

# The engine itself refuses less than 6 MiB (daemon/daemon_unix.go, linuxMinMemory); the launcher and its small tmpfs need some.
MIN_MEMORY_BYTES = 16 * 1024 * 1024
MIN_DISK_BYTES = 1024 * 1024
MIN_CPU = 0.01


@dataclass(frozen=True, slots=True)
class Limits:
    """What an attempt may use: cores, bytes, processes, seconds."""

    cpu: float
    memory_bytes: int
    disk_bytes: int
    pids: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A job as it will be run. `image` is what the person or the configuration names; a twin may stand in for it."""

    script: Script
    interpreter: str
    limits: Limits
    image: str
    network: str


def plan(job: Job, settings: Settings) -> Plan:
    """The job with everything it left open filled in. Raises InvalidJobError with every reason."""
    problems = problems_of(job, settings)
    script = job.execution.script
    if problems or script is None:
        raise InvalidJobError(problems)
    asked, have = job.execution.resources, settings.container.resources
    return Plan(
        script=script,
        interpreter=INTERPRETERS[script.type],
        limits=Limits(
            cpu=asked.cpu_limit or min(have.default_cpu, have.max_cpu),
            memory_bytes=asked.memory_limit or min(have.default_memory, have.max_memory),
            disk_bytes=asked.disk_limit or min(have.default_disk, have.max_disk),
            pids=asked.pids_limit or min(have.default_pids, have.max_pids),
            timeout_s=job.execution.timeout or min(settings.default_timeout_s, settings.max_timeout_s),
        ),
        image=job.execution.image or configured_image(script.type, settings),
        network=job.execution.network or settings.container.network.default,
    )


def configured_image(script_type: ScriptType, settings: Settings) -> str:
    """The image for scripts of this type."""
    images = settings.container.images
    return {ScriptType.BASH: images.bash, ScriptType.PYTHON: images.python, ScriptType.NODE: images.node}[script_type]


def problems_of(job: Job, settings: Settings) -> tuple[JobProblem, ...]:
    """Every reason why this job is not run here."""
    return tuple(_problems(job, settings))


def _problems(job: Job, settings: Settings) -> Iterator[JobProblem]:
    execution = job.execution
    if execution.script is None:
        yield JobProblem("execution.script", "a container runs a script; requests of type http are not supported yet")
    asked, have = execution.resources, settings.container.resources
    yield from _between("cpuLimit", asked.cpu_limit, MIN_CPU, have.max_cpu, "container.resources.maxCPU", _cores)
    yield from _between(
        "memoryLimit", asked.memory_limit, MIN_MEMORY_BYTES, have.max_memory, "container.resources.maxMemory", format_size
    )
    yield from _between("diskLimit", asked.disk_limit, MIN_DISK_BYTES, have.max_disk, "container.resources.maxDisk", format_size)
    yield from _between("pidsLimit", asked.pids_limit, 1, have.max_pids, "container.resources.maxPids", str)
    if execution.timeout is not None and execution.timeout > settings.max_timeout_s:
        yield JobProblem(
            "execution.timeout",
            f"{execution.timeout:g} s; at most {format_duration(settings.max_timeout_s)} (jobs.maxTimeout)",
        )
    if execution.image is not None and not image_allowed(execution.image, settings):
        yield JobProblem(
            "execution.image",
            f"{execution.image!r} is not allowed; allowed: {_allowed_images(settings)} (container.images.allowed)",
        )
    network = settings.container.network
    if execution.network is not None and execution.network not in {*network.allowed, network.default}:
        names = ", ".join(sorted({*network.allowed, network.default}))
        yield JobProblem(
            "execution.network", f"{execution.network!r} is not allowed; allowed: {names} (container.network.allowed)"
        )


def image_allowed(image: str, settings: Settings) -> bool:
    """Whether a job may name this image: one of the configured ones, or one on the list."""
    return image in _own_images(settings) or any(fnmatchcase(image, pattern) for pattern in settings.container.images.allowed)


def _own_images(settings: Settings) -> tuple[str, ...]:
    return tuple(dict.fromkeys(configured_image(script_type, settings) for script_type in ScriptType))


def _allowed_images(settings: Settings) -> str:
    return ", ".join((*_own_images(settings), *settings.container.images.allowed))


def _between(
    name: str, value: float | None, least: float, most: float, key: str, show: Callable[[Any], str]
) -> Iterator[JobProblem]:
    path = f"execution.resources.{name}"
    if value is not None and value > most:
        yield JobProblem(path, f"{show(value)}; at most {show(most)} ({key})")
    if value is not None and value < least:
        yield JobProblem(path, f"{show(value)}; at least {show(least)}")


def _cores(value: float) -> str:
    return f"{value:g} cores"
