"""What must hold of deaths in every history: which count against a job, and which against the supervisor; the rule told again.

A death that others have caused must not end a job, nor the supervisor: not one along with the forkserver, not one that comes long
after the worker was given the job, or had become ready.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.core import WORKER
from cronium.supervisor.core.state import JobState
from simulation.roles import ALONG, FORKSERVER

if TYPE_CHECKING:
    from simulation.world import World

_MOMENT_S = 15.0  # after the forkserver's death nobody can tell who else died with it


class DeathChecks:
    """Of one life of the supervisor."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ready_s: dict[str, float] = {}
        self._given: dict[str, tuple[float, str, int]] = {}  # since when a worker has which job in which generation
        self._young_s: list[float] = []  # when a worker without a job died soon after it was ready, or before
        self._forkserver_died_s = -_MOMENT_S
        self._expected: tuple[str, int] | None = None  # a job, and how many deaths count against it now

    def before_commit(self, event: on.Event) -> None:
        """What is to come of a death, by what the journal knew before it."""
        now_s = self._world.supervisor.decided_mono_s
        self._expected = None
        match event:
            case on.WorkerIsReady(name):
                self._ready_s[name] = now_s
            case on.WorkerIsIdle(worker=name):
                self._given.pop(name, None)
            case on.RoleDied(role) if role == FORKSERVER:
                self._forkserver_died_s = now_s
            case on.WorkerDied(name, reason):
                self._died(name, now_s, along=reason == ALONG)
            case _:
                pass

    def _died(self, name: str, now_s: float, *, along: bool) -> None:
        period_s = self._world.plan.rules.restart_period_s
        given_s, job_id, generation = self._given.pop(name, (0.0, "", 0))
        if not job_id:
            if not along and now_s - self._ready_s.get(name, now_s) < period_s:
                self._young_s.append(now_s)
            return
        record = self._world.journal.records.get(job_id)
        if record is None or record.state is not JobState.RUNNING or record.generation != generation:
            return
        if along:
            self._expected = job_id, record.deaths
        elif now_s - self._forkserver_died_s >= _MOMENT_S:
            self._expected = job_id, record.deaths + 1 if now_s - given_s < period_s else 0

    def step(self, step: do.Step) -> None:
        """After the commit."""
        supervisor, rules = self._world.supervisor, self._world.plan.rules
        for action in step.actions:
            if isinstance(action, do.DispatchTo):
                self._given[action.worker] = supervisor.decided_mono_s, action.job_id, action.generation
            elif isinstance(action, do.Exit) and f"'{WORKER}'" in action.reason:
                young = [at_s for at_s in self._young_s if supervisor.decided_mono_s - at_s <= rules.restart_period_s]
                assert len(young) > rules.restart_intensity, f"{len(young)} young workers died: too few to leave"
        if self._expected is not None:
            job_id, deaths = self._expected
            after = self._world.journal.records.get(job_id)
            assert after is None or after.deaths == deaths, f"{after.deaths} deaths count against {job_id}, not {deaths}"
