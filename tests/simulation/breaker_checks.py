"""What must hold of breakers in every history: the rule told again, and compared with whom the core sends where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cronium.common.servers import host_of
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.core import Core

if TYPE_CHECKING:
    from simulation.world import World


@dataclass(slots=True)
class _Seen:
    failures: int = 0
    until_s: float | None = None
    half_open: bool = False
    trial: str | None = None


class BreakerChecks:
    """Of one life of the supervisor."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[str, _Seen] = {}

    def step(self, event: on.Event, step: do.Step, core: Core) -> None:
        now_s, rules = self._world.supervisor.decided_mono_s, self._world.plan.rules
        match event:
            case on.ServerSeen(_, server, reached):
                self._server_seen(host_of(server), reached=reached)
            case on.AttemptSaid(worker, status="running"):
                self._seen = {host: seen for host, seen in self._seen.items() if seen.trial != worker}
            case on.WorkerIsIdle(worker) | on.WorkerDied(worker) | on.LeftoversCleaned(worker):
                for seen in self._seen.values():
                    seen.trial = None if seen.trial == worker else seen.trial
            case _:
                pass
        for seen in self._seen.values():
            if seen.until_s is not None and now_s >= seen.until_s:
                seen.until_s, seen.half_open = None, True
        if isinstance(event, on.ServerSeen):
            open_ = sorted(host for host, seen in self._seen.items() if seen.until_s is not None)
            assert core.servers()["openBreakers"] == open_
            assert all(seen.failures < rules.breaker_failures or seen.until_s or seen.half_open for seen in self._seen.values())
        for action in step.actions:
            if isinstance(action, do.DispatchTo | do.CleanUpAt | do.WarmUpAt):
                self._goes(action)

    def _server_seen(self, host: str, *, reached: bool) -> None:
        if reached:
            self._seen.pop(host, None)
            return
        rules = self._world.plan.rules
        seen = self._seen.setdefault(host, _Seen())
        seen.failures += 1
        if seen.until_s is None and (seen.half_open or seen.failures >= rules.breaker_failures):
            seen.until_s = self._world.supervisor.decided_mono_s + rules.breaker_recovery_s
            seen.half_open, seen.trial = False, None

    def _goes(self, action: do.DispatchTo | do.CleanUpAt | do.WarmUpAt) -> None:
        for host in {host_of(key) for key in self._world.backend.submitted[action.job_id].servers}:
            seen = self._seen.get(host)
            if seen is None:
                continue
            assert seen.until_s is None, f"{action} goes to a server that is left alone"
            if seen.half_open:
                assert not isinstance(action, do.WarmUpAt)
                assert seen.trial is None, f"{action} is a second trial at once"
                seen.trial = action.worker
