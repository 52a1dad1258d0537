"""Which executor runs a job: decided by its target, nothing else. A new executor is a folder and a line here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from cronium.common.errors import ExecutionError, Reason
from cronium.common.job import Job
from cronium.common.messages import Message
from cronium.worker.container.executor import ContainerExecutor
from cronium.worker.executor import Executor, Resident
from cronium.worker.settings import WorkerSettings
from cronium.worker.ssh.executor import SshExecutor

Tell = Callable[[Message], None]

EXECUTORS: Mapping[str, Callable[[WorkerSettings, Tell], Executor]] = {
    "local": lambda settings, _: ContainerExecutor(settings),
    "server": SshExecutor,
}


class Executors:
    """The executors of one worker, each made when it is first needed and kept with its connections.

    `tell` takes what they have to say to the supervisor between two jobs.
    """

    def __init__(self, settings: WorkerSettings, tell: Tell) -> None:
        self._settings = settings
        self._tell = tell
        self._made: dict[str, Executor] = {}
        self._residents: tuple[Resident, ...] = ()

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

    def tend(self, now_s: float) -> float:
        """Let those that keep something look after it; when (monotonic) to come again."""
        return min((resident.tend(now_s) for resident in self._residents), default=math.inf)

    def descriptors(self) -> tuple[int, ...]:
        """Readable when `tend` has something to do."""
        return tuple(descriptor for resident in self._residents for descriptor in resident.descriptors())

    def hear(self, message: Message) -> None:
        """An order for whoever keeps what it is about."""
        for resident in self._residents:
            resident.hear(message)

    def close(self) -> None:
        """Let go of what is kept."""
        for resident in self._residents:
            resident.close()

    def _get(self, target: str) -> Executor:
        if target not in self._made:
            self._made[target] = made = EXECUTORS[target](self._settings, self._tell)
            if isinstance(made, Resident):  # a slow question: it is asked once
                self._residents = (*self._residents, made)
        return self._made[target]
