"""Forkserver and streamer of a simulated history as processes: started by the core, killed, hung, and looked at.

Where the plan does not watch anybody (`hung_after_s` infinite) there are none, and the streamer starts by itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cronium.supervisor.core import events as on
from cronium.supervisor.core.core import Core

if TYPE_CHECKING:
    from simulation.world import World

FORKSERVER, STREAMER = "forkserver", "streamer"
ALONG = "died with the forkserver"  # the reason that those are given
BEAT_S = 1.5  # between two


class SimRoles:
    """Of one history; `up` are those that run, `hung` those of them that make no progress, for ever."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.watched = world.plan.rules.hung_after_s < math.inf
        self.names = (FORKSERVER, STREAMER) if self.watched else ()
        self.up: set[str] = set()
        self.hung: set[str] = set()

    def begin(self) -> None:
        plan, chance = self._world.plan, self._world.trouble_chance
        for count, role, hangs in (
            (plan.forkserver_kills, FORKSERVER, False),
            (plan.forkserver_hangs, FORKSERVER, True),
            (plan.streamer_hangs, STREAMER, True),
        ):
            for _ in range(count if self.watched else 0):
                strike = self._hang if hangs else self._kill
                self._world.clock.after(chance.uniform(0, plan.trouble_s), lambda strike=strike, role=role: strike(role))  # type: ignore[misc]

    def gone(self) -> None:
        """The supervisor is dead, and they with it."""
        self.up.clear()
        self.hung.clear()

    def can_fork(self) -> bool:
        """Whether somebody who asks for a worker gets one."""
        return not self.watched or (FORKSERVER in self.up and FORKSERVER not in self.hung)

    def start(self, role: str) -> None:
        """The core wants it."""
        tell = self._world.supervisor.answerer()
        if role == STREAMER and not self.can_fork():
            return  # whoever asks a stopped forkserver waits until it is ended
        self.up.add(role)
        self._world.clock.after(0.02, lambda: tell(on.RoleStarted(role)))
        if role == STREAMER:
            self._world.streamer.restart()
            self._beat(role, 1)

    def end(self, role: str, reason: str) -> None:
        """It is killed, by the core or by somebody else. What the forkserver has forked dies with it."""
        tell = self._world.supervisor.answerer()
        forked = role == FORKSERVER and role in self.up
        self.up.discard(role)
        self.hung.discard(role)
        self._world.clock.after(0.0005, lambda: tell(on.RoleDied(role, reason)))
        if role == STREAMER:
            self._world.streamer.stop()
        if forked:
            for worker in list(self._world.fleet.workers.values()):
                self._world.fleet.kill(worker, ALONG)
            if STREAMER in self.up:
                self.end(STREAMER, ALONG)

    def awake(self, mute: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the mute that run and are not stopped."""
        workers = self._world.fleet.workers
        return tuple(n for n in mute if (n in self.up and n not in self.hung) or (n in workers and workers[n].goes_on()))

    def look(self, core: Core) -> None:
        """What the loop does at `next_look_s`."""
        self._world.supervisor.handle(on.Looked(self.awake(core.mute())))

    def _kill(self, role: str) -> None:
        if role in self.up:
            self._world.fault(f"{role} killed")
            self.end(role, "SIGKILL")

    def _hang(self, role: str) -> None:
        if role in self.up and role not in self.hung:
            self._world.fault(f"{role} hangs")
            self.hung.add(role)
            if role == STREAMER:
                self._world.streamer.stop()

    def _beat(self, role: str, count: int) -> None:
        world, tell = self._world, self._world.supervisor.answerer()

        def beat() -> None:
            if role in self.up and role not in self.hung and world.supervisor.core is not None:
                tell(on.Beats(role, count))
                self._beat(role, count + 1)

        world.clock.after(BEAT_S, beat)
