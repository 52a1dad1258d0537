"""The container executor: the phases of an attempt, and what is left to do when its place is no longer needed.

Runs in a worker; one instance may run many attempts, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cronium.common.job import Job, JobProblem
from cronium.worker.container.engine import Engine
from cronium.worker.container.execution import Execution
from cronium.worker.container.limits import plan, problems_of
from cronium.worker.container.networks import remove_network
from cronium.worker.container.phases import TO_THE_END, TO_THE_START
from cronium.worker.container.readiness import make_ready
from cronium.worker.container.reaper import places_seen
from cronium.worker.container.removal import remove_place
from cronium.worker.container.settings import settings_of
from cronium.worker.container.waiting import with_patience
from cronium.worker.events import Events
from cronium.worker.executor import Attempt, Control, Update
from cronium.worker.settings import WorkerSettings


class ContainerExecutor:
    """The way to a Docker engine's containers (see `cronium.worker.executor.Executor`)."""

    name = "container"

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings_of(settings)
        self._engine = Engine(self._settings.container.docker)

    def validate(self, job: Job) -> tuple[JobProblem, ...]:
        """See `Executor`."""
        return problems_of(job, self._settings)

    def execute(self, attempt: Attempt, control: Control) -> Iterator[Update]:
        """See `Executor`."""
        execution = Execution(
            attempt=attempt,
            control=control,
            settings=self._settings,
            engine=self._engine,
            plan=plan(attempt.job, self._settings),
            events=Events(self._settings.container.max_events),
        )
        try:
            yield from with_patience(execution, TO_THE_START)
            for phase in TO_THE_END:
                yield from phase(execution)
        finally:
            execution.let_go()

    def cleanup(self, place: str, job: Job | None = None) -> None:  # noqa: ARG002 - the engine knows by the name
        """See `Executor`."""
        remove_place(self._engine, place, self._settings)

    def make_ready(self, stop: Callable[[], bool]) -> None:
        """See `Executor`."""
        make_ready(self._engine, self._settings, stop)

    def places(self) -> frozenset[str]:
        """See `Executor`."""
        return places_seen(self._engine, self._settings)

    def leave(self) -> None:
        """See `Executor`."""
        remove_network(self._engine, self._settings)
