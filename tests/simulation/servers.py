"""The servers of a simulated history, at times out of reach, and what workers do there: connect, run, park, clean up.

What runs on a server goes on while nobody can get there. A server counts its connections itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome, ServerOutcome, Slot
from cronium.common.servers import host_of
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from simulation.fleet import Place, SimWorker, outcome_of

if TYPE_CHECKING:
    from simulation.world import World

_TIMEOUT_S = 1.5  # of a login
_NOTICED_S = 0.25  # how often a worker looks


class SimServers:
    """All servers. Their dice are their own, so histories without servers are what they were."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.server_chance
        plan = world.plan
        self.keys = tuple(
            f"{user}@host{number}:22#key"
            for number in range(plan.servers)
            for user in ("deploy", "root")[: self._chance.choice([1, 1, 2])]
        )
        self._away: dict[str, list[tuple[float, float]]] = {}
        self._give_up_ms: dict[tuple[str, int], int] = {}
        self.most = 0

    def begin(self) -> None:
        """When they are out of reach follows from the plan."""
        plan, chance, now_s = self._world.plan, self._chance, self._world.clock.now_s
        for number in range(plan.servers):
            away = self._away[f"host{number}:22"] = []
            for _ in range(chance.choice(plan.server_outages)):
                start_s = now_s + chance.uniform(0, plan.trouble_s)
                away.append((start_s, min(start_s + chance.uniform(0.3, 12), now_s + plan.trouble_s)))
        if plan.servers and plan.server_dies:
            self._away["host0:22"].append((now_s + chance.uniform(0, plan.trouble_s), math.inf))

    def choose(self) -> tuple[str, ...]:
        """The servers of a new job; none for one in a container."""
        plan, chance = self._world.plan, self._chance
        if not self.keys or chance.random() >= plan.server_jobs:
            return ()
        several = chance.random() < plan.several
        return tuple(chance.sample(self.keys, min(len(self.keys), chance.randint(2, 4) if several else 1)))

    def is_up(self, key: str) -> bool:
        """Whether it can be reached now."""
        now_s = self._world.clock.now_s
        return not any(start <= now_s < end for start, end in self._away[host_of(key)])

    def is_lost(self, key: str) -> bool:
        """Whether it will never come back."""
        return any(end == math.inf for _, end in self._away[host_of(key)])

    def reboot(self, key: str) -> str:
        """A server is away for a moment, and with it all connections to it. Which host it was."""
        host, now_s = host_of(key), self._world.clock.now_s
        self._away[host].append((now_s, now_s + 1.0))
        return host

    # --- connections -------------------------------------------------------------------------------------------------

    def dial(self, worker: SimWorker, key: str, then: Callable[[bool], None]) -> None:
        """A worker wants a connection; it uses the one that it has."""
        fleet = self._world.fleet
        if key in worker.connections and self.is_up(key):
            then(True)
            return
        if key in worker.dialing:
            fleet.do(worker, 0.1, lambda: self.dial(worker, key, then))
            return
        worker.connections.discard(key)
        worker.dialing.add(key)
        self._count(key)
        refused = self._world.troubled() and self._chance.random() < self._world.plan.login_fails
        fails = not self.is_up(key) or refused
        if fails:
            self._world.fault("login failed" if refused else "server out of reach", f"{worker.name} {key}")

        def over() -> None:
            worker.dialing.discard(key)
            reached = not fails and self.is_up(key)
            if reached:
                worker.connections.add(key)
            fleet.say(worker, on.ServerSeen(worker.name, key, reached, "" if reached else "no answer"))
            self.announce(worker)
            then(reached)

        fleet.do(worker, _TIMEOUT_S if fails else self._chance.choice([0.01, 0.3]), over)

    def drop(self, worker: SimWorker, key: str) -> None:
        """A worker closes a connection, and the launcher that waited there leaves."""
        if key in worker.connections:
            worker.connections.discard(key)
            self._empty_slot(worker, key)
            self.announce(worker)

    def died(self, worker: SimWorker) -> None:
        """A worker is gone, and all that hung on it."""
        for key in list(worker.slots):
            self._empty_slot(worker, key)
        worker.connections.clear()
        worker.dialing.clear()

    def announce(self, worker: SimWorker) -> None:
        slots = tuple(Slot(key, place) for key, place in worker.slots.items())
        self._world.fleet.say(worker, on.WorkerIsConnected(worker.name, tuple(worker.connections), slots))

    def warm_up(self, worker: SimWorker, action: do.WarmUpAt) -> None:
        (key,) = self._world.backend.submitted[action.job_id].servers
        self.dial(worker, key, lambda reached: self._rest(worker) if reached else None)

    def release(self, worker: SimWorker, action: do.ReleaseAt) -> None:
        used = () if worker.order is None else self._world.backend.submitted[worker.order.job_id].servers
        for key in action.servers:
            if key not in used:
                worker.connections.discard(key)
                self._empty_slot(worker, key)
        self.announce(worker)

    def _count(self, key: str) -> None:
        """As the server sees it: who is connected to it, or about to be."""
        workers = [w for w in self._world.fleet.workers.values() if w.alive and key in w.connections | w.dialing]
        self.most = max(self.most, len(workers))
        assert len(workers) <= self._world.plan.rules.connections_per_server, f"{len(workers)} connections to {key}"

    def _rest(self, worker: SimWorker) -> None:
        """A worker has connections that nobody uses: a launcher may wait on one, and some day it is closed."""
        fleet, chance = self._world.fleet, self._chance
        unused = [key for key in sorted(worker.connections) if self.is_up(key) and key not in worker.slots]
        if worker.order is not None or not unused:
            return
        key = chance.choice(unused)
        if chance.random() < 0.6:
            name = worker.slots[key] = f"cronium-test-{chance.getrandbits(96):024x}"
            self.announce(worker)
            fleet.do(worker, _NOTICED_S, lambda: self._slot_is_made(worker, key, name))
        fleet.do(worker, chance.uniform(0.1, 5), lambda: self.announce(worker))  # said again now and then
        if chance.random() < 0.3:
            fleet.do(worker, chance.uniform(0.5, 10), lambda: self.drop(worker, key) if worker.order is None else None)

    def _slot_is_made(self, worker: SimWorker, key: str, name: str) -> None:
        if worker.slots.get(key) == name:
            self._world.fleet.places.setdefault(name, Place(name, "", 0, 0, key=key))

    def _empty_slot(self, worker: SimWorker, key: str) -> None:
        place = self._world.fleet.places.get(worker.slots.pop(key, ""))
        if place is not None and place.starts == 0:
            place.state = "removed"

    # --- an attempt --------------------------------------------------------------------------------------------------

    def run(self, worker: SimWorker, order: do.DispatchTo) -> None:
        """An attempt on servers."""
        every = self._world.backend.submitted[order.job_id].servers
        finished = {server.server for server in order.finished}
        names = {key: order.place if len(every) == 1 else f"{order.place}.{number}" for number, key in enumerate(every)}
        names = {key: name for key, name in names.items() if key not in finished}
        assert names, "nothing is left to run"
        for key, place in list(worker.slots.items()):
            if place == order.place:
                del worker.slots[key]
                self.announce(worker)
                if place in self._world.fleet.places:
                    self._world.fleet.places[place].job_id = order.job_id
        if order.begun:
            assert any(p.root() == order.place and p.starts for p in self._world.fleet.places.values()), "it had not begun"
        self._connect(worker, order, names, list(names))

    def _connect(self, worker: SimWorker, order: do.DispatchTo, names: dict[str, str], left: list[str]) -> None:
        if worker.order is not order:
            return
        if not left:
            self._start(worker, order, names)
            return

        def then(reached: bool) -> None:
            if reached:
                self._connect(worker, order, names, left[1:])
            else:
                self._park(worker, order, names, left[0])

        self.dial(worker, left[0], then)

    def _start(self, worker: SimWorker, order: do.DispatchTo, names: dict[str, str]) -> None:
        world, fleet = self._world, self._world.fleet
        for key, name in names.items():
            if not self.is_up(key):
                self._park(worker, order, names, key)
                return
            place = fleet.places.get(name)
            if place is None or (place.state == "removed" and place.starts == 0):
                place = fleet.places[name] = Place(name, order.job_id, order.attempt, order.generation, key=key)
            place.base, place.job_id, place.generation = order.place, order.job_id, order.generation
            if place.state == "made" and worker.cancels:
                place.state, place.outcome = "ended", outcome_of("cancelled", Reason.CANCELLED)
            elif place.state == "made":
                place.state = "running"
                place.starts += 1
                place.prints(self._chance.randint(0, 3))
                world.checks.script_starts(place, fleet.places.values())
                ends = self._chance.choice(["completed"] * 4 + ["failed"])
                outcome = outcome_of(ends, None if ends == "completed" else Reason.SCRIPT_EXIT)
                seconds = self._chance.choice([0.0, 0.1, 2.0, 8.0])
                world.clock.after(seconds, lambda p=place, o=outcome: fleet.script_ends(p, o))  # type: ignore[misc]
        if any(fleet.places[name].starts for name in names.values()):
            fleet.say(worker, on.AttemptSaid(worker.name, order.job_id, order.generation, "running"))
        self._watch(worker, order, names)

    def _watch(self, worker: SimWorker, order: do.DispatchTo, names: dict[str, str]) -> None:
        if worker.order is not order:
            return
        fleet = self._world.fleet
        places = {key: fleet.places[name] for key, name in names.items()}
        for key in names:
            if not self.is_up(key):
                self.drop(worker, key)
                self._connect(worker, order, names, [key])
                return
        if worker.cancels:
            for place in places.values():
                fleet.script_ends(place, outcome_of("cancelled", Reason.CANCELLED))
        if all(place.outcome is not None for place in places.values()):
            fleet.finish(worker, order, _together(order, places))
        elif any(place.state == "removed" for place in places.values()):
            fleet.finish(worker, order, outcome_of("failed", Reason.PLACE_VANISHED))
        else:
            fleet.do(worker, _NOTICED_S, lambda: self._watch(worker, order, names))

    def _park(self, worker: SimWorker, order: do.DispatchTo, names: dict[str, str], key: str) -> None:
        world = self._world
        places = {at: world.fleet.places.get(name) for at, name in names.items()}
        begun = any(p.root() == order.place and p.starts for p in world.fleet.places.values())
        if worker.cancels and not begun:
            world.fleet.finish(worker, order, outcome_of("cancelled", Reason.CANCELLED))
            return
        wait_s = 10 + world.plan.rules.unreachable_after_s
        give_up_ms = self._give_up_ms.setdefault((order.job_id, order.attempt), world.clock.host_unix_ms() + round(wait_s * 1000))
        error = ExecutionError(Reason.UNREACHABLE, f"no answer from {key}").report()
        over: list[ServerOutcome] = []
        missing: list[ServerOutcome] = []
        for at, place in places.items():
            ended = place.outcome if place is not None and at != key and self.is_up(at) else None
            if ended is not None:
                over.append(ServerOutcome(at, at, ended.status, ended.exit_code))
            else:
                missing.append(ServerOutcome(at, at, "failed", None, error.reason, error.message))
        several = len(order.finished) + len(names) > 1
        worker.parks = on.AttemptParked(
            worker.name,
            order.job_id,
            order.generation,
            key,
            error,
            give_up_ms,
            begun,
            finished=tuple(over) if several else (),
            missing=tuple(missing) if several else (),
        )
        world.fleet.finish(worker, order, None)

    def removes(self, worker: SimWorker, order: do.DispatchTo) -> bool:
        """A worker has its order settled: whether it could remove the places."""
        fleet = self._world.fleet
        self._world.clock.after(0.01, lambda: self._rest(worker))
        if worker.parks is not None:
            return False
        places = [place for place in fleet.places.values() if place.root() == order.place]
        fails = self._world.troubled() and self._chance.random() < self._world.plan.removal_fails
        if fails:
            self._world.fault("removal failed on a server", order.job_id)
        if fails or not all(place.key in worker.connections and self.is_up(place.key) for place in places):
            return False
        for place in places:
            self._world.checks.place_removed(place)
            place.state = "removed"
        return True

    # --- between attempts --------------------------------------------------------------------------------------------

    def clean_up(self, worker: SimWorker, action: do.CleanUpAt) -> None:
        assert worker.order is None, "a worker that has a job is to clean up"
        self._reach_all(worker, action, list(self._world.backend.submitted[action.job_id].servers))

    def _reach_all(self, worker: SimWorker, action: do.CleanUpAt, left: list[str]) -> None:
        if left:
            self.dial(worker, left[0], lambda reached: self._reach_all(worker, action, left[1:]))
            return
        gone = []
        for name in action.places:
            places = [place for place in self._world.fleet.places.values() if place.root() == name]
            for place in places:
                if place.key in worker.connections and self.is_up(place.key):
                    self._world.checks.place_removed(place)
                    place.state = "removed"
            servers = self._world.backend.submitted[action.job_id].servers
            if all(key in worker.connections and self.is_up(key) for key in servers):
                gone.append(name)
        self._world.fleet.say(worker, on.LeftoversCleaned(worker.name, action.job_id, tuple(gone)))

    def sees(self, worker: SimWorker, place: Place) -> bool:
        """Whether a look finds this place."""
        return not place.key or (place.key in worker.connections and self.is_up(place.key))


def _together(order: do.DispatchTo, places: dict[str, Place]) -> Outcome:
    """The job succeeds when all do."""
    outcomes = [place.outcome for place in places.values() if place.outcome is not None]
    worst = next((o for o in outcomes if o.status == "cancelled"), None)
    worst = worst or next((o for o in outcomes if o.status != "completed"), outcomes[0])
    each = tuple(ServerOutcome(key, key, o.status, o.exit_code) for key, o in zip(places, outcomes, strict=True))
    return Outcome(worst.status, worst.exit_code, worst.error, 1, 2, servers=(*order.finished, *each))
