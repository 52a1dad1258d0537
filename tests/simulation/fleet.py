"""Workers, the places they make, and the streamer of a simulated history. They do what a good worker does, until they die."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome, Position, Summary
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from simulation.roles import BEAT_S, STREAMER

if TYPE_CHECKING:
    from simulation.world import World

_GRACE_S = 0.5
_REPEAT_S = 1.0


@dataclass(slots=True)
class Place:
    """Where an attempt runs. `state`: `made`, `running`, `ended`, `removed`. On a server: its `key`; `base`: the name that
    stands in the journal. `lines`: what its script has printed so far; `spoiled`: others have ended or removed it.
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
    lines: int = 0
    spoiled: bool = False

    def prints(self, lines: int) -> None:
        self.lines += lines

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
    says_ready: bool = False
    inbox: deque[Callable[[], None]] = field(default_factory=deque)
    now_s: Callable[[], float] = field(default=lambda: 0.0)

    def goes_on(self) -> bool:
        """Whether the kernel shows it, and not as stopped."""
        return self.alive and self.now_s() >= self.stopped_until_s


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
        worker = self.workers[name] = SimWorker(name, now_s=lambda: world.clock.now_s)
        if world.troubled() and chance.random() < world.plan.worker_start_fails:
            world.fault("worker did not start", name)
            if chance.random() < 0.5:
                self._world.clock.after(0.1, lambda: self.kill(worker, "did not start"))
            return  # the other half hangs until it is ended
        if not world.roles.can_fork():
            return
        worker.says_ready = True
        self.say(worker, on.WorkerIsReady(name), chance.choice([0.005, 0.3]))
        self.do(worker, 0.5, lambda: self._beat(worker, 1))

    def kill(self, worker: SimWorker, reason: str) -> None:
        """The process is gone; what it said before arrives before the news of its death."""
        if worker.alive:
            worker.alive = False
            self._world.servers.died(worker)
            self._world.tell("dies", self._named(worker), reason)
            arrive_s = max(worker.said_until_s - self._world.clock.now_s, 0.0) + 0.001
            if self._world.troubled() and self._world.trouble_chance.random() < self._world.plan.late_words:
                arrive_s = 0.001
                self._last_words(worker)
            tell = self._world.supervisor.answerer()
            self._world.clock.after(arrive_s, lambda: tell(on.WorkerDied(worker.name, reason)))

    def _last_words(self, worker: SimWorker) -> None:
        """What it said last lay in a queue, and is heard when somebody else may have the job already."""
        order, chance = worker.order, self._world.trouble_chance
        if order is None or worker.parks is not None:
            return
        outcomes = [place.outcome for place in self.places.values() if place.root() == order.place]
        if not outcomes or None in outcomes:
            said: on.Event = on.AttemptSaid(worker.name, order.job_id, order.generation, "running")
        else:
            said = on.AttemptOver(worker.name, order.job_id, order.generation, outcome_of("failed", Reason.SCRIPT_EXIT))
        self._world.fault("worker's last words heard after its death", f"{worker.name} {order.job_id}")
        tell = self._world.supervisor.answerer()
        self._world.clock.after(chance.choice([0.05, 0.5, 3.0]), lambda: tell(said))

    def kill_all(self) -> None:
        """Their supervisor is gone."""
        for worker in self.workers.values():
            worker.alive = False
            self._world.servers.died(worker)
        self.workers.clear()

    def _beat(self, worker: SimWorker, count: int) -> None:
        """It says that it goes on, as long as it does."""
        if self._world.roles.watched:
            self.say(worker, on.Beats(worker.name, count))
            self.do(worker, BEAT_S, lambda: self._beat(worker, count + 1))

    def stop(self, worker: SimWorker) -> None:
        if worker.order is None or worker.settled:
            self.kill(worker, "left")

    def _next_death(self) -> None:
        world, chance = self._world, self._world.chance

        def strike() -> None:
            alive = [w for w in self.workers.values() if w.alive and w.stopped_until_s < math.inf]
            if alive and world.troubled():
                worker = chance.choice(alive)
                if chance.random() < world.plan.worker_stop:
                    worker.stopped_until_s = world.clock.now_s + chance.uniform(0.5, 4)
                    if world.trouble_chance.random() < world.plan.worker_hangs:
                        worker.stopped_until_s = math.inf
                    hangs = worker.stopped_until_s == math.inf
                    world.fault("worker hangs" if hangs else "worker stopped for a while", self._named(worker))
                else:
                    self._strike(worker)
            if world.troubled():
                self._next_death()

        if world.plan.worker_death_s < 1e8:
            world.clock.after(chance.expovariate(1 / world.plan.worker_death_s), strike)

    def _strike(self, worker: SimWorker) -> None:
        self._world.fault("worker killed with a job" if worker.order is not None else "worker killed without a job", worker.name)
        self.kill(worker, "SIGKILL")

    @staticmethod
    def _named(worker: SimWorker) -> str:
        return worker.name if worker.order is None else f"{worker.name} ({worker.order.job_id})"

    def say(self, worker: SimWorker, event: on.Event, delay_s: float = 0.0) -> None:
        """To the supervisor, in order. What is said again anyway may get lost, or be heard twice."""
        world = self._world
        if isinstance(event, on.AttemptSaid | on.AttemptOver | on.AttemptParked | on.WorkerIsConnected) and world.troubled():
            if world.trouble_chance.random() < world.plan.message_twice:
                world.fault("worker's message heard twice", worker.name)
                self._carry(worker, event, delay_s)
            elif not isinstance(event, on.WorkerIsConnected) and world.trouble_chance.random() < world.plan.message_lost:
                world.fault("worker's message lost", worker.name)
                return
        self._carry(worker, event, delay_s)

    def _carry(self, worker: SimWorker, event: on.Event, delay_s: float) -> None:
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
        self._world.clock.after(delay_s, lambda: self._do_now(worker, step))

    def _do_now(self, worker: SimWorker, step: Callable[[], None]) -> None:
        world = self._world
        if not worker.alive:
            return
        dies = world.plan.worker_step_death
        if dies and world.troubled() and world.trouble_chance.random() < dies:
            self._strike(worker)
        elif world.clock.now_s >= worker.stopped_until_s:
            step()
        elif worker.stopped_until_s < math.inf:
            world.clock.after(worker.stopped_until_s - world.clock.now_s, lambda: self._do_now(worker, step))

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
        if away_s := self._world.trouble.engine_back_s():
            self.do(worker, away_s + 0.1, lambda: self._make_place(worker, order))
            return
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
                place.prints(world.trouble_chance.randint(0, 3))
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
        world.streamer.send(worker, order, place)
        self._watch(worker, order, place)

    def script_ends(self, place: Place, outcome: Outcome) -> None:
        if place.state == "running":
            place.state, place.outcome = "ended", outcome
            place.prints(1)
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
        places = [p for p in self.places.values() if p.root() == order.place and p.lines]
        left = [p for p in places if not self._world.streamer.has_all(p)] if outcome is not None else []
        for place in left:
            self._world.streamer.send(worker, order, place)
        if left or not self._world.streamer.takes(order, worker.name):
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
        order, world = worker.order, self._world
        if world.troubled() and world.trouble_chance.random() < world.plan.message_lost:
            world.fault("settled: not heard", action.job_id)
            return  # it says again that its attempt is over
        if order is None or worker.settled or (order.job_id, order.generation) != (action.job_id, action.generation):
            return
        worker.settled = True
        self.do(worker, self._world.chance.choice([0.01, 0.5, 3.0]), lambda: self._clean(worker, order))

    def _clean(self, worker: SimWorker, order: do.DispatchTo) -> None:
        removed = True
        servers = bool(self._world.backend.submitted[order.job_id].servers)
        if not servers and (away_s := self._world.trouble.engine_back_s()):
            self.do(worker, away_s + 0.1, lambda: self._clean(worker, order))
            return
        if servers:
            removed = self._world.servers.removes(worker, order)
        elif place := self.places.get(order.place):
            self._world.checks.place_removed(place, durable=True)
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
                others = (w for w in self.workers.values() if w.alive and not w.settled)  # one that is settled removes it too
                holders = [w for w in others if w.order and w.order.place == place.root()]
                self._world.checks.place_reaped(place, holders)
                place.state = "removed"
            self.say(worker, on.WorkerHasTidied(worker.name))

        self.do(worker, self._world.chance.choice([0.01, 2.0]), done)


class SimStreamer:
    """Knows who may write as long as it lives, and what is durable for ever; takes only what follows, as the real one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._writers: dict[tuple[str, int], tuple[str, int]] = {}
        self._durable: dict[str, int] = {}  # lines, by place
        self._alive = True
        self._life = 0

    def begin(self) -> None:
        if self._world.plan.streamer_death_s < 1e8:
            self._world.clock.after(self._world.chance.expovariate(1 / self._world.plan.streamer_death_s), self._die)

    def _die(self) -> None:
        if self._world.troubled():
            roles = self._world.roles
            if not roles.watched:
                self._world.fault("streamer killed")
                self.restart()
            elif STREAMER in roles.up:
                self._world.fault("streamer killed")
                roles.end(STREAMER, "SIGKILL")
            self.begin()

    def stop(self) -> None:
        """It says and takes nothing any more."""
        self._writers.clear()
        self._alive = False
        self._life += 1

    def restart(self) -> None:
        self.stop()
        life = self._life

        def ready() -> None:
            if life == self._life:
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

    def has_all(self, place: Place) -> bool:
        """Whether all that was printed there is durable."""
        return self._durable.get(place.name, 0) >= place.lines

    def send(self, worker: SimWorker, order: do.DispatchTo, place: Place) -> None:
        """A worker sends what is not durable yet. On its way it may be lost, late, or repeated."""
        world, chance = self._world, self._world.trouble_chance
        after, upto = self._durable.get(place.name, 0), place.lines
        if upto <= after:
            return
        delays = [0.01]
        if world.troubled() and chance.random() < world.plan.batch_lost:
            delays = chance.choice([[], [2.0], [0.01, 1.0]])
            world.fault(("batch lost", "batch late", "batch twice")[len(delays) if delays != [2.0] else 1], place.job_id)
        for delay_s in delays:
            world.clock.after(delay_s, lambda: self._hear(worker, order, place, after, upto))

    def _hear(self, worker: SimWorker, order: do.DispatchTo, place: Place, after: int, upto: int) -> None:
        if not self.takes(order, worker.name) or self._world.trouble.spool_is_full():
            return
        if self._durable.get(place.name, 0) == after:
            self._world.checks.lines_taken(worker, order)
            self._durable[place.name] = upto

    def summarize(self, action: do.Summarize) -> None:
        lost = self._world.troubled() and self._world.chance.random() < self._world.plan.summary_lost
        if lost:
            self._world.fault("summary lost", action.job_id)
        if self._alive and not lost:
            tell = self._world.supervisor.answerer()
            summary = Summary(action.job_id, action.epoch, Position(), 1, b"", b"", truncated=False)
            self._world.clock.after(self._world.chance.choice([0.001, 0.1]), lambda: tell(on.SummaryHeard(summary)))


def outcome_of(status: str, reason: Reason | None) -> Outcome:
    error = None if reason is None else ExecutionError(reason, reason.value).report()
    return Outcome(status, 0 if status == "completed" else None, error, 1, 2)
