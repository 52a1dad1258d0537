"""Which executor runs a job: decided by its target, nothing else. A new executor is a folder and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cronium.common.errors import ExecutionError, Reason
from cronium.common.job import Job
from cronium.worker.container.executor import ContainerExecutor
from cronium.worker.executor import Executor
from cronium.worker.settings import WorkerSettings

EXECUTORS: Mapping[str, Callable[[WorkerSettings], Executor]] = {"local": ContainerExecutor}


class Executors:
    """The executors of one worker, each made when it is first needed and kept with its connections."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._made: dict[str, Executor] = {}

    def for_job(self, job: Job) -> Executor:
        """The executor of a job's target. Raises ExecutionError (`unsupported`) when this version has none."""
        target = job.execution.target.type
        if target not in EXECUTORS:
            raise ExecutionError(
                Reason.UNSUPPORTED,
                f"jobs with target '{target}' cannot be run by this version: use target 'local', or another orchestrator",
                target=target,
            )
        return self._get(target)

    def all(self) -> tuple[Executor, ...]:
        """One of each kind."""
        return tuple(self._get(target) for target in EXECUTORS)

    def _get(self, target: str) -> Executor:
        if target not in self._made:
            self._made[target] = EXECUTORS[target](self._settings)
        return self._made[target]
