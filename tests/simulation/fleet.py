"""Workers, the places they make, and the streamer of a simulated history. They do what a good worker does, until they die."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome, Position, Summary
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on

if TYPE_CHECKING:
    from simulation.world import World

_GRACE_S = 0.5
_REPEAT_S = 1.0


@dataclass(slots=True)
class Place:
    """Where an attempt runs. `state`: `made`, `running`, `ended`, `removed`. On a server: its `key`; `base`: the name that
    stands in the journal.
    """

    name: str
    job_id: str
    attempt: int
    generation: int
    state: str = "made"
    starts: int = 0
    outcome: Outcome | None = None
    key: str = ""
    base: str = ""

    def root(self) -> str:
        return self.base or self.name


@dataclass(slots=True)
class SimWorker:
    """One worker process; `order` is what it works on."""

    name: str
    alive: bool = True
    stopped_until_s: float = 0.0
    order: do.DispatchTo | None = None
    cancels: int = 0
    settled: bool = False
    said_until_s: float = 0.0
    connections: set[str] = field(default_factory=set)
    dialing: set[str] = field(default_factory=set)
    slots: dict[str, str] = field(default_factory=dict)
    parks: on.AttemptParked | None = None
    inbox: deque[Callable[[], None]] = field(default_factory=deque)


class Fleet:
    """All workers and all places."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.workers: dict[str, SimWorker] = {}
        self.places: dict[str, Place] = {}

    def begin(self) -> None:
        self._next_death()

    # --- processes ---------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        world, chance = self._world, self._world.chance
        worker = self.workers[name] = SimWorker(name)
        if world.troubled() and chance.random() < world.plan.worker_start_fails:
            if chance.random() < 0.5:
                self._world.clock.after(0.1, lambda: self.kill(worker, "did not start"))
            return  # the other half hangs until it is ended
        self.say(worker, on.WorkerIsReady(name), chance.choice([0.005, 0.3]))

    def kill(self, worker: SimWorker, reason: str) -> None:
        """The process is gone; what it said before arrives before the news of its death."""
        if worker.alive:
            worker.alive = False
            self._world.servers.died(worker)
            self._world.tell("dies", worker.name, reason)
            arrive_s = max(worker.said_until_s - self._world.clock.now_s, 0.0) + 0.001
            tell = self._world.supervisor.answerer()
            self._world.clock.after(arrive_s, lambda: tell(on.WorkerDied(worker.name, reason)))

    def kill_all(self) -> None:
        """Their supervisor is gone."""
        for worker in self.workers.values():
            worker.alive = False
            self._world.servers.died(worker)
        self.workers.clear()

    def stop(self, worker: SimWorker) -> None:
        if worker.order is None or worker.settled:
            self.kill(worker, "left")

    def _next_death(self) -> None:
        world, chance = self._world, self._world.chance

        def strike() -> None:
            alive = [w for w in self.workers.values() if w.alive]
            if alive and world.troubled():
                worker = chance.choice(alive)
                if chance.random() < world.plan.worker_stop:
                    worker.stopped_until_s = world.clock.now_s + chance.uniform(0.5, 4)
                    world.tell("stops for a while", worker.name)
                else:
                    self.kill(worker, "SIGKILL")
            if world.troubled():
                self._next_death()

        if world.plan.worker_death_s < 1e8:
            world.clock.after(chance.expovariate(1 / world.plan.worker_death_s), strike)

    def say(self, worker: SimWorker, event: on.Event, delay_s: float = 0.0) -> None:
        """To the supervisor, in order."""
        world = self._world
        at_s = max(world.clock.now_s + delay_s + world.chance.choice([0.001, 0.01, 0.2]), worker.said_until_s + 1e-6)
        worker.said_until_s = at_s
        tell = world.supervisor.answerer()
        world.clock.after(at_s - world.clock.now_s, lambda: tell(event))

    def hear(self, name: str, do_it: Callable[[SimWorker], None]) -> None:
        """Something for a worker, in order; a stopped one takes it when it goes on."""
        worker = self.workers.get(name)
        if worker is not None:
            worker.inbox.append(lambda: do_it(worker))
            self.do(worker, self._world.chance.choice([0.001, 0.05]), lambda: self._take(worker))

    @staticmethod
    def _take(worker: SimWorker) -> None:
        worker.inbox.popleft()()

    def do(self, worker: SimWorker, delay_s: float, step: Callable[[], None]) -> None:
        """What a worker does after a while, if it lives; one that is stopped does it when it goes on."""
        clock = self._world.clock

        def now() -> None:
            if not worker.alive:
                return
            if clock.now_s < worker.stopped_until_s:
                clock.after(worker.stopped_until_s - clock.now_s, now)
            else:
                step()

        clock.after(delay_s, now)

    # --- an attempt --------------------------------------------------------------------------------------------------

    def dispatch(self, worker: SimWorker, order: do.DispatchTo) -> None:
        self._world.checks.worker_takes(worker, order, [w for w in self.workers.values() if w.alive and w is not worker])
        worker.order, worker.cancels, worker.settled, worker.parks = order, 0, False, None
        self.say(worker, on.AttemptSaid(worker.name, order.job_id, order.generation, "preparing"))
        if self._world.backend.submitted[order.job_id].servers:
            self.do(worker, 0.01, lambda: self._world.servers.run(worker, order))
            return
        self.do(worker, self._world.chance.choice([0.01, 0.3, 1.0]), lambda: self._make_place(worker, order))

    def _make_place(self, worker: SimWorker, order: do.DispatchTo) -> None:
        place = self.places.get(order.place)
        if place is None:
            if worker.cancels:
                self.finish(worker, order, outcome_of("cancelled", Reason.CANCELLED))
                return
            place = self.places[order.place] = Place(order.place, order.job_id, order.attempt, order.generation)
        place.generation = order.generation
        self.do(worker, self._world.chance.choice([0.001, 0.2]), lambda: self._start_script(worker, order, place))

    def _start_script(self, worker: SimWorker, order: do.DispatchTo, place: Place) -> None:
        world, chance = self._world, self._world.chance
        if place.state == "made":
            if worker.cancels:
                place.state, place.outcome = "ended", outcome_of("cancelled", Reason.CANCELLED)
            else:
                place.state = "running"
                place.starts += 1
                world.checks.script_starts(place, self.places.values())
                ends = chance.choice(["completed"] * 5 + ["failed", "failed", "final", "timeout"])
                outcome = {
                    "completed": outcome_of("completed", None),
                    "failed": outcome_of("failed", Reason.SCRIPT_EXIT),
                    "final": outcome_of("failed", Reason.IMAGE_MISSING),
                    "timeout": outcome_of("timeout", Reason.TIMEOUT),
                }[ends]
                world.clock.after(chance.choice([0.0, 0.1, 2.0, 8.0]), lambda: self.script_ends(place, outcome))
                self.say(worker, on.AttemptSaid(worker.name, order.job_id, order.generation, "running"))
        elif place.state == "running":
            self.say(worker, on.AttemptSaid(worker.name, order.job_id, order.generation, "running", 50.0, "half"))
        self._obey(worker, order)
        self._watch(worker, order, place)

    def script_ends(self, place: Place, outcome: Outcome) -> None:
        if place.state == "running":
            place.state, place.outcome = "ended", outcome
            self._world.tell("script ends", place.name, outcome.status)

    def _watch(self, worker: SimWorker, order: do.DispatchTo, place: Place) -> None:
        if place.state == "removed":
            self.finish(worker, order, outcome_of("failed", Reason.PLACE_VANISHED))
        elif place.outcome is not None:
            self.finish(worker, order, place.outcome)
        else:
            self.do(worker, 0.25, lambda: self._watch(worker, order, place))

    def cancel(self, worker: SimWorker, action: do.CancelAt) -> None:
        order = worker.order
        if order is not None and (order.job_id, order.generation) == (action.job_id, action.generation):
            worker.cancels += 1
            self._obey(worker, order)

    def _obey(self, worker: SimWorker, order: do.DispatchTo) -> None:
        place = self.places.get(order.place)
        if worker.cancels and place is not None and not place.key and place.state == "running":
            grace_s = 0.0 if worker.cancels > 1 else _GRACE_S
            self.do(worker, grace_s, lambda: self.script_ends(place, outcome_of("cancelled", Reason.CANCELLED)))

    def finish(self, worker: SimWorker, order: do.DispatchTo, outcome: Outcome | None) -> None:
        """The last line is durable only where the streamer takes this worker's lines."""
        if not self._world.streamer.takes(order, worker.name):
            self.do(worker, 0.5, lambda: self.finish(worker, order, outcome))
            return
        self._repeat_end(worker, order, outcome)

    def _repeat_end(self, worker: SimWorker, order: do.DispatchTo, outcome: Outcome | None) -> None:
        if worker.settled or worker.order is not order:
            return
        if not (self._world.troubled() and self._world.chance.random() < 0.1):
            over = worker.parks if outcome is None else on.AttemptOver(worker.name, order.job_id, order.generation, outcome)
            assert over is not None
            self.say(worker, over)
        self.do(worker, _REPEAT_S, lambda: self._repeat_end(worker, order, outcome))

    def settle(self, worker: SimWorker, action: do.SettleAt) -> None:
        order = worker.order
        if order is None or worker.settled or (order.job_id, order.generation) != (action.job_id, action.generation):
            return
        worker.settled = True
        self.do(worker, self._world.chance.choice([0.01, 0.5, 3.0]), lambda: self._clean(worker, order))

    def _clean(self, worker: SimWorker, order: do.DispatchTo) -> None:
        removed = True
        if self._world.backend.submitted[order.job_id].servers:
            removed = self._world.servers.removes(worker, order)
        elif place := self.places.get(order.place):
            self._world.checks.place_removed(place)
            place.state = "removed"
        worker.order = None
        memory_bytes = self._world.chance.choice([1000, 1000, 2_000_000])
        self.say(worker, on.WorkerIsIdle(worker.name, order.job_id, order.generation, memory_bytes, removed))

    # --- housekeeping ------------------------------------------------------------------------------------------------

    def tidy(self, worker: SimWorker) -> None:
        """Look what is there, and say it."""
        assert worker.order is None, "a worker that has a job is to tidy up"
        there = (place for place in self.places.values() if place.state != "removed")
        seen = tuple(place.name for place in there if self._world.servers.sees(worker, place))
        self.do(worker, self._world.chance.choice([0.01, 1.0]), lambda: self.say(worker, on.WorkerSaw(worker.name, seen)))

    def remove(self, worker: SimWorker, action: do.RemoveAt) -> None:
        def done() -> None:
            for name in action.places:
                place = self.places[name]
                if not self._world.servers.sees(worker, place):
                    continue
                holders = [w for w in self.workers.values() if w.alive and w.order and w.order.place == place.root()]
                self._world.checks.place_reaped(place, holders)
                place.state = "removed"
            self.say(worker, on.WorkerHasTidied(worker.name))

        self.do(worker, self._world.chance.choice([0.01, 2.0]), done)


class SimStreamer:
    """Knows who may write, and answers for summaries; both only as long as it lives."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._writers: dict[tuple[str, int], tuple[str, int]] = {}
        self._alive = True

    def begin(self) -> None:
        if self._world.plan.streamer_death_s < 1e8:
            self._world.clock.after(self._world.chance.expovariate(1 / self._world.plan.streamer_death_s), self._die)

    def _die(self) -> None:
        if self._world.troubled():
            self._world.tell("streamer dies", "")
            self.restart()
            self.begin()

    def restart(self) -> None:
        self._writers.clear()
        self._alive = False

        def ready() -> None:
            self._alive = True
            tell(on.StreamerIsReady())

        tell = self._world.supervisor.answerer()
        self._world.clock.after(self._world.chance.choice([0.05, 1.0]), ready)

    def announce(self, action: do.AnnounceWriter) -> None:
        key = (action.job_id, action.epoch)
        if self._alive and action.generation >= self._writers.get(key, ("", 0))[1]:
            self._writers[key] = (action.worker, action.generation)

    def takes(self, order: do.DispatchTo, worker: str) -> bool:
        return self._alive and self._writers.get((order.job_id, order.epoch)) == (worker, order.generation)

    def summarize(self, action: do.Summarize) -> None:
        lost = self._world.troubled() and self._world.chance.random() < self._world.plan.summary_lost
        if self._alive and not lost:
            tell = self._world.supervisor.answerer()
            summary = Summary(action.job_id, action.epoch, Position(), 1, b"", b"", truncated=False)
            self._world.clock.after(self._world.chance.choice([0.001, 0.1]), lambda: tell(on.SummaryHeard(summary)))


def outcome_of(status: str, reason: Reason | None) -> Outcome:
    error = None if reason is None else ExecutionError(reason, reason.value).report()
    return Outcome(status, 0 if status == "completed" else None, error, 1, 2)
