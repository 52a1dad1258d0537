"""Which executor runs a job: decided by its target, nothing else. A new executor is a folder and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cronium.common.errors import ExecutionError, Reason
from cronium.common.job import Job
from cronium.worker.container.executor import ContainerExecutor
from cronium.worker.executor import Executor
from cronium.worker.settings import WorkerSettings

EXECUTORS: Mapping[str, Callable[[WorkerSettings], Executor]] = {"local": ContainerExecutor}


def executor_for(job: Job, settings: WorkerSettings) -> Executor:
    """The executor of a job's target. Raises ExecutionError (`unsupported`) when this version has none."""
    kind = job.execution.target.type
    make = EXECUTORS.get(kind)
    if make is None:
        raise ExecutionError(
            Reason.UNSUPPORTED,
            f"jobs with target '{kind}' cannot be run by this version: use target 'local', or another orchestrator",
            target=kind,
        )
    return make(settings)
