"""A simulated history: the real core in virtual time, between a backend, workers and a streamer that fail as the plan says."""

from __future__ import annotations

import random
from collections.abc import Callable

from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.core import Core
from cronium.supervisor.core.state import Ended, JobRecord, JobState
from simulation.backend import Backend
from simulation.checks import Checks
from simulation.clock import Clock
from simulation.fleet import Fleet, SimStreamer
from simulation.plan import make_plan, with_servers
from simulation.servers import SimServers

_CALM_S = 400.0  # virtual seconds in which everything must come to its end once nothing fails any more


class Journal:
    """What survives the supervisor."""

    def __init__(self) -> None:
        self.records: dict[str, JobRecord] = {}
        self.payloads: dict[str, bytes] = {}
        self.ended: dict[str, Ended] = {}
        self.poll_key: str | None = None

    def commit(self, writes: tuple[do.Write, ...]) -> None:
        """As `cronium.supervisor.journal` does it."""
        for write in writes:
            match write:
                case do.PutJob(record, None):
                    assert record.job_id in self.records, f"{record.job_id} is changed but was never written"
                    self.records[record.job_id] = record
                    if record.state is JobState.DONE and not record.is_unclean():
                        self.payloads[record.job_id] = b""
                case do.PutJob(record, payload):
                    self.records[record.job_id], self.payloads[record.job_id] = record, payload or b""
                    self.ended.pop(record.job_id, None)
                case do.PutEnded(job_id, ended):
                    assert job_id in self.records, f"an outcome of {job_id}, which is not known"
                    self.ended[job_id] = ended
                case do.ForgetJob(job_id):
                    del self.records[job_id], self.payloads[job_id]
                    self.ended.pop(job_id, None)
                case do.PutPollKey(key):
                    self.poll_key = key


class Supervisor:
    """The loop around the core: commits, then acts; may die in between."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.core: Core | None = None
        self.incarnation = 0
        self.left = False
        self._ticks = 0

    def start(self) -> None:
        journal, world = self._world.journal, self._world
        self.incarnation += 1
        self.left = False
        world.tell("supervisor starts", str(self.incarnation))
        self.core = Core(world.plan.rules, world.chance.getrandbits(64))
        self.core.restore(tuple(journal.records.values()), dict(journal.ended), journal.poll_key)
        world.checks.supervisor_starts()
        world.streamer.restart()
        self.handle(on.Tick())

    def answerer(self) -> Callable[[on.Event], None]:
        """How something reaches the supervisor that lives now, and no later one."""
        incarnation = self.incarnation

        def answer(event: on.Event) -> None:
            if incarnation == self.incarnation:
                self.handle(event)

        return answer

    def now(self) -> on.Now:
        return on.Now(self._world.clock.now_s, self._world.clock.unix_ms())

    def handle(self, event: on.Event) -> None:
        core, world = self.core, self._world
        if core is None:
            return
        step = core.handle(event, self.now())
        world.told.append((world.clock.now_s, event, step))
        crash = world.troubled() and world.chance.random() < world.plan.crash
        if crash and world.chance.random() < 0.3:
            self._crash("before the commit")
            return
        world.checks.before_commit(event)
        world.journal.commit(step.writes)
        world.checks.step(event, step, core)
        actions = step.actions[: world.chance.randint(0, len(step.actions))] if crash else step.actions
        for action in actions:
            self._carry_out(action)
        if crash:
            self._crash(f"after {len(actions)} of {len(step.actions)} actions")
        elif self.core is core:
            self._tick_later(core, idle=isinstance(event, on.Tick) and not step.writes and not step.actions)

    def _tick_later(self, core: Core, *, idle: bool) -> None:
        due_s = core.next_due_s(self.now())
        self._world.checks.tick_planned(due_s, idle=idle)
        self._ticks += 1
        ticks, incarnation = self._ticks, self.incarnation

        def tick() -> None:
            if (ticks, incarnation) == (self._ticks, self.incarnation):
                self.handle(on.Tick())

        self._world.clock.after(max(0.0, due_s - self._world.clock.now_s), tick)

    def _crash(self, when: str) -> None:
        self._world.tell("supervisor dies", when)
        self._gone()
        self._world.clock.after(self._world.chance.choice([0.2, 1.0, 6.0]), self.start)

    def _gone(self) -> None:
        self.core = None
        self.incarnation += 1
        self._world.fleet.kill_all()
        self._world.backend.hang_up()

    def _carry_out(self, action: do.Action) -> None:
        world = self._world
        match action:
            case do.Poll():
                world.backend.poll(action)
            case do.Acknowledge():
                world.backend.acknowledge(action)
            case do.SayStatus():
                world.backend.status(action)
            case do.SayComplete():
                world.backend.complete(action)
            case do.RenewLease():
                world.backend.renew(action)
            case do.Summarize():
                world.streamer.summarize(action)
            case do.AnnounceWriter():
                world.streamer.announce(action)
            case do.StartWorker(name):
                world.fleet.start(name)
            case do.StopWorkerProcess(name):
                world.fleet.hear(name, world.fleet.stop)
            case do.KillWorker(name):
                if worker := world.fleet.workers.get(name):
                    world.fleet.kill(worker, "ended by us")
            case do.DispatchTo(name):
                world.fleet.hear(name, lambda worker: world.fleet.dispatch(worker, action))
            case do.CancelAt(name):
                world.fleet.hear(name, lambda worker: world.fleet.cancel(worker, action))
            case do.SettleAt(name):
                world.fleet.hear(name, lambda worker: world.fleet.settle(worker, action))
            case do.TidyAt(name):
                world.fleet.hear(name, world.fleet.tidy)
            case do.RemoveAt(name):
                world.fleet.hear(name, lambda worker: world.fleet.remove(worker, action))
            case do.WarmUpAt(name):
                world.fleet.hear(name, lambda worker: world.servers.warm_up(worker, action))
            case do.ReleaseAt(name):
                world.fleet.hear(name, lambda worker: world.servers.release(worker, action))
            case do.CleanUpAt(name):
                world.fleet.hear(name, lambda worker: world.servers.clean_up(worker, action))
            case do.Exit():
                world.tell("supervisor leaves", "")
                world.checks.supervisor_leaves()
                self.left = True
                self._gone()
            case do.ForgetOutput() | do.Note():
                pass


class World:
    """Everything of one history. `live` plays it to its end and raises AssertionError where a promise is broken."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.server_chance = random.Random(f"servers of {seed}")
        self.plan = with_servers(make_plan(self.chance), self.server_chance)
        self.clock = Clock()
        self.told: list[tuple[float, object, object]] = []
        self.journal = Journal()
        self.servers = SimServers(self)
        self.backend = Backend(self)
        self.fleet = Fleet(self)
        self.streamer = SimStreamer(self)
        self.checks = Checks(self)
        self.supervisor = Supervisor(self)
        self._calm_at_s = self.clock.now_s + self.plan.trouble_s

    def troubled(self) -> bool:
        """Whether things still go wrong."""
        return self.clock.now_s < self._calm_at_s

    def tell(self, what: str, whom: str, details: str = "") -> None:
        self.told.append((self.clock.now_s, what, f"{whom} {details}"))

    def live(self) -> None:
        order = on.CancelAll() if self.plan.ends_with == "cancel all" else on.DrainRequested()
        self.servers.begin()
        self.supervisor.start()
        self.backend.begin()
        self.fleet.begin()
        self.streamer.begin()
        if self.plan.early_end:  # and started again, until the work is done
            self.clock.after(self.plan.trouble_s / 2, lambda: self.supervisor.handle(order))
        self.clock.run_until(self._calm_at_s)
        until_s = self._calm_at_s + _CALM_S
        while not self.checks.all_settled():
            if self.supervisor.left:
                self.supervisor.start()
            self.clock.run_until(until_s, lambda: self.supervisor.left or self.checks.all_settled())
            assert self.clock.now_s < until_s, "not everything came to its end"
        self.supervisor.handle(order)
        self.clock.run_until(self.clock.now_s + 60, lambda: self.supervisor.left)
        assert self.supervisor.left, "a drain with nothing left to do does not end"
        self.checks.at_the_end()

    def story(self) -> str:
        """What happened, for a person: events, writes and actions in order."""
        lines = []
        for at_s, what, more in self.told:
            if isinstance(more, do.Step):
                lines.append(f"{at_s:10.3f}  {what}")
                lines += [f"{'':14}write {write}" for write in more.writes]
                lines += [f"{'':14}do    {action}" for action in more.actions]
            else:
                lines.append(f"{at_s:10.3f}  -- {what} {more}")
        return "\n".join(lines)
