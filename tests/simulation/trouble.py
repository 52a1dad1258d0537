"""What befalls a whole host in a simulated history: its clock, its disks, its engine, its power; and servers that start anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from cronium.common.errors import Reason
from cronium.common.servers import host_of
from simulation.fleet import Place, outcome_of

if TYPE_CHECKING:
    from simulation.world import World

_HOUR_S = 3600.0
_Times = list[tuple[float, float]]


class Trouble:
    """Each thing happens as often as the plan says, at times that follow from the seed. The dice are its own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.trouble_chance
        self.faults: Counter[str] = Counter()
        self._full: _Times = []
        self._spool_full: _Times = []
        self._engine_away: _Times = []

    def begin(self) -> None:
        plan = self._world.plan
        self._full = self._periods(plan.disk_full, 6)
        self._spool_full = self._periods(plan.spool_full, 6)
        self._engine_away = self._periods(plan.engine_away, 10)
        for start_s, _ in self._engine_away:
            self._at(start_s, lambda: self._tell("engine away"))
        for start_s, _ in self._spool_full:
            self._at(start_s, lambda: self._tell("spool full"))
        for count, happens in (
            (plan.clock_jumps, self._clock_jumps),
            (plan.reboots, self._reboot),
            (plan.engine_crashes, self._engine_crash),
            (plan.removed_by_others, self._somebody_removes),
            (plan.server_reboots, self._server_reboots),
        ):
            for _ in range(count):
                self._world.clock.after(self._chance.uniform(0, plan.trouble_s), happens)

    def _periods(self, count: int, longest_s: float) -> _Times:
        starts = sorted(self._world.clock.now_s + self._chance.uniform(0, self._world.plan.trouble_s) for _ in range(count))
        return [(start, start + self._chance.uniform(0.5, longest_s)) for start in starts]

    def _at(self, at_s: float, happens: Callable[[], None]) -> None:
        self._world.clock.after(at_s - self._world.clock.now_s, happens)

    # --- how it stands now -------------------------------------------------------------------------------------------

    def disk_free_at_s(self) -> float:
        """When the journal can be written again; the past when it can be now."""
        return self._end_of(self._full)

    def spool_is_full(self) -> bool:
        return self._end_of(self._spool_full) > 0.0

    def engine_back_s(self) -> float:
        """How long the engine will not answer."""
        return max(self._end_of(self._engine_away) - self._world.clock.now_s, 0.0)

    def _end_of(self, times: _Times) -> float:
        now_s = self._world.clock.now_s
        return max((end for start, end in times if start <= now_s < end), default=0.0) if times else 0.0

    # --- what happens ------------------------------------------------------------------------------------------------

    def _tell(self, kind: str, details: str = "") -> None:
        self._world.fault(kind, details)

    def _clock_jumps(self) -> None:
        back = not self._world.plan.server_dies and self._chance.random() < 0.5  # a server that is lost is waited for by it
        by_s = self._chance.uniform(60, 6 * _HOUR_S) * (-1 if back else 1)
        self._world.clock.jump(by_s)
        self._tell("clock set back" if back else "clock set forward", f"by {by_s:.0f} s")

    def _reboot(self) -> None:
        """Power is back after a while. What ran in containers is gone with them."""
        self._tell("host reboots")
        self._world.supervisor.lose_power()
        self._end_places(lambda place: not place.key)
        self._world.clock.boot()
        if self._chance.random() < 0.5:  # its battery is empty
            self._clock_jumps()

    def _engine_crash(self) -> None:
        """Without live-restore: its containers die with it."""
        self._tell("engine crashes")
        self._end_places(lambda place: not place.key)

    def _somebody_removes(self) -> None:
        """`docker rm -f` by a person."""
        running = [p for p in self._world.fleet.places.values() if p.state == "running" and not p.key]
        if running:
            place = self._chance.choice(running)
            place.state, place.spoiled = "removed", True
            self._tell("container removed by somebody", place.name)

    def _server_reboots(self) -> None:
        if self._world.servers.keys:
            host = self._world.servers.reboot(self._chance.choice(self._world.servers.keys))
            self._tell("server reboots", host)
            self._end_places(lambda place: place.key != "" and host_of(place.key) == host)

    def _end_places(self, which: Callable[[Place], bool]) -> None:
        for place in self._world.fleet.places.values():
            if place.state == "running" and which(place):
                place.state, place.outcome, place.spoiled = "ended", outcome_of("failed", Reason.PLACE_VANISHED), True
                self._world.tell("script is gone", place.job_id, place.name)
