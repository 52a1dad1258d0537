"""A simulated history: the real core in virtual time, between a backend, workers and a streamer that fail as the plan says."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.core import Core
from cronium.supervisor.core.state import Ended, JobRecord, JobState
from simulation.backend import Backend
from simulation.checks import Checks
from simulation.clock import Clock
from simulation.fleet import Fleet, SimStreamer
from simulation.plan import make_plan, with_servers, with_trouble, with_watched
from simulation.roles import SimRoles
from simulation.servers import SimServers
from simulation.story import jobs_in, short, tell
from simulation.trouble import Trouble

_CALM_S = 400.0  # virtual seconds in which everything must come to its end once nothing fails any more


class Journal:
    """What survives the supervisor."""

    def __init__(self) -> None:
        self.records: dict[str, JobRecord] = {}
        self.payloads: dict[str, bytes] = {}
        self.ended: dict[str, Ended] = {}
        self.last_ended: dict[str, Ended] = {}  # also of jobs that are forgotten: for comparing
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
                    self.ended[job_id] = self.last_ended[job_id] = ended
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
        self._ticks = self._steps = 0
        self.set_unseen_ms, self._set_ms = 0, 0  # by how much the clock was set while no supervisor lived; when it was seen last
        self.decided_s = self.decided_mono_s = 0.0  # when the last step was made; it may be written later
        self._held = do.Step((), ())  # the step that waits for the disk
        self._waiting: deque[on.Event] | None = None  # events that have come while a step waits for the disk

    def start(self) -> None:
        journal, world = self._world.journal, self._world
        self.incarnation += 1
        self.left, self._waiting = False, None
        self.set_unseen_ms += abs(world.clock.wrong_ms - self._set_ms)
        world.tell("supervisor starts", str(self.incarnation))
        self.core = Core(world.plan.rules, world.chance.getrandbits(64), world.roles.names)
        self.core.restore(tuple(journal.records.values()), dict(journal.ended), journal.poll_key, self.now().unix_ms)
        world.checks.supervisor_starts()
        if not world.roles.watched:
            world.streamer.restart()
        self.handle(on.Looked(()))

    def answerer(self) -> Callable[[on.Event], None]:
        """How something reaches the supervisor that lives now, and no later one."""
        incarnation = self.incarnation

        def answer(event: on.Event) -> None:
            if incarnation == self.incarnation:
                self.handle(event)

        return answer

    def now(self) -> on.Now:
        return on.Now(self._world.clock.mono_s(), self._world.clock.host_unix_ms())

    def handle(self, event: on.Event) -> None:
        core, world = self.core, self._world
        if core is None:
            return
        if self._waiting is not None:
            if isinstance(event, on.LeaseRenewed | on.LeaseUnanswered):
                world.checks.lease_answered(event)
                self._keep_leases(core, event)
            else:
                self._waiting.append(event)
            return
        step = core.handle(event, self.now())
        self.decided_s, self.decided_mono_s = world.clock.now_s, world.clock.mono_s()
        self._set_ms = world.clock.wrong_ms
        world.told.append((world.clock.now_s, event, step))
        self._steps += 1
        crash = world.troubled() and (world.chance.random() < world.plan.crash or self._steps == world.plan.step_crash)
        if crash and world.chance.random() < 0.3:
            self._crash("before the commit", f"at step {self._steps}")
            return
        if step.writes and (free_at_s := world.trouble.disk_free_at_s()):
            self._wait_for_the_disk(event, step, core, free_at_s)
        else:
            self._go_on(event, step, core, crash=crash)

    def _wait_for_the_disk(self, event: on.Event, step: do.Step, core: Core, free_at_s: float) -> None:
        """Nothing of a step is done before it is written, and nothing else is decided meanwhile."""
        self._world.fault("journal's disk full", short(event))
        waiting: deque[on.Event] = deque()
        self._waiting, self._held = waiting, step
        if isinstance(event, on.LeaseRenewed | on.LeaseLost | on.LeaseUnanswered):
            self._world.checks.lease_answered(event)

        def keep_leases() -> None:
            if self._waiting is waiting:
                self._keep_leases(core)
                self._world.clock.after(1.0, keep_leases)

        keep_leases()

        def go_on() -> None:
            if self._waiting is waiting:
                self._waiting = None
                self._go_on(event, self._held, core, crash=False)
                while waiting and self._waiting is None:
                    self.handle(waiting.popleft())
                if self._waiting is not None:
                    self._waiting.extend(waiting)

        self._world.clock.after(free_at_s - self._world.clock.now_s, go_on)

    def _keep_leases(self, core: Core, *answers: on.LeaseRenewed | on.LeaseUnanswered) -> None:
        """Only leases are renewed while a step waits; as the loop does it."""
        self._held, renewals = core.keep_leases(self._held, answers, self.now())
        for renewal in renewals:
            self._world.checks.renews(renewal)
            self._carry_out(renewal)

    def _go_on(self, event: on.Event, step: do.Step, core: Core, *, crash: bool) -> None:
        world = self._world
        world.checks.before_commit(event)
        world.journal.commit(step.writes)
        world.checks.step(event, step, core)
        actions = step.actions[: world.chance.randint(0, len(step.actions))] if crash else step.actions
        for action in actions:
            if self.core is core:  # else it has left in the middle of it
                self._carry_out(action)
        if self.core is not core:
            return
        if crash:
            done = "all" if len(actions) == len(step.actions) else "some" if actions else "none"
            self._crash(f"after {done} of the actions", f"{len(actions)} of {len(step.actions)} at step {self._steps}")
        else:
            self._tick_later(core, idle=isinstance(event, on.Tick) and not step.writes and not step.actions)

    def _tick_later(self, core: Core, *, idle: bool) -> None:
        now = self.now()
        due_s, look_s = core.next_due_s(now), core.next_look_s()
        wait_s = max(0.0, due_s - now.mono_s) + 1e-6  # else rounding could stop the time
        self._world.checks.tick_planned(wait_s, idle=idle)
        self._ticks += 1
        ticks, incarnation = self._ticks, self.incarnation

        def tick() -> None:
            if (ticks, incarnation) != (self._ticks, self.incarnation):
                return
            if look_s <= due_s:
                self._world.roles.look(core)
            else:
                self.handle(on.Tick())

        self._world.clock.after(min(wait_s, max(look_s - now.mono_s, 0.0) + 1e-6), tick)

    def _crash(self, when: str, details: str) -> None:
        self._world.fault(f"supervisor killed {when}", details)
        self._start_after(self._world.chance.choice([0.2, 1.0, 6.0]))

    def lose_power(self) -> None:
        """The host is off for a while."""
        if not self.left:
            self._start_after(self._world.trouble_chance.choice([1.0, 20.0]))

    def _start_after(self, pause_s: float) -> None:
        self._gone()
        incarnation = self.incarnation

        def start() -> None:
            if incarnation == self.incarnation:
                self.start()

        self._world.clock.after(pause_s, start)

    def _gone(self) -> None:
        self.core, self._waiting = None, None
        self.incarnation += 1
        self._world.fleet.kill_all()
        self._world.roles.gone()
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
                if worker := world.fleet.workers.get(name):  # the kernel may take its time
                    world.clock.after(world.trouble_chance.choice([0.0, 0.3]), lambda: world.fleet.kill(worker, "ended by us"))
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
            case do.StartRole(role):
                world.roles.start(role)
            case do.EndRole(role, reason):
                world.roles.end(role, reason)
            case do.Exit(code) if code:
                world.fault("supervisor leaves: too many restarts", action.reason)
                self._start_after(world.trouble_chance.choice([0.1, 1.0]))
            case do.Exit():
                world.tell("supervisor leaves", "")
                world.checks.supervisor_leaves()
                self.left = True
                self._gone()
            case do.ForgetOutput() | do.WantOutput() | do.Note() | do.DumpStack():
                pass


class World:
    """Everything of one history. `live` plays it to its end and raises AssertionError where a promise is broken."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.server_chance = random.Random(f"servers of {seed}")
        self.trouble_chance = random.Random(f"trouble of {seed}")
        plan = with_trouble(with_servers(make_plan(self.chance), self.server_chance), self.trouble_chance)
        self.plan = with_watched(plan, self.trouble_chance)
        self.clock = Clock()
        self.told: list[tuple[float, object, object]] = []
        self.journal = Journal()
        self.trouble = Trouble(self)
        self.roles = SimRoles(self)
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

    def fault(self, kind: str, details: str = "") -> None:
        """Something goes wrong; it is counted by its kind."""
        self.trouble.faults[kind] += 1
        self.told.append((self.clock.now_s, kind, details))

    def live(self) -> None:
        order = on.CancelAll() if self.plan.ends_with == "cancel all" else on.DrainRequested()
        self.servers.begin()
        self.supervisor.start()
        self.backend.begin()
        self.fleet.begin()
        self.streamer.begin()
        self.trouble.begin()
        self.roles.begin()
        if self.plan.early_end:  # and started again, until the work is done
            self.clock.after(self.plan.trouble_s / 2, lambda: self.supervisor.handle(order))
        self.clock.run_until(self._calm_at_s)
        until_s = self._calm_at_s + _CALM_S
        while not self.checks.all_settled():
            if self.supervisor.left:
                self.supervisor.start()
            self.clock.run_until(until_s, self._may_be_over())
            assert self.clock.now_s < until_s, "not everything came to its end"
        for _ in range(2):  # the word of a person is lost with a supervisor that is started again before it has heard it
            self.supervisor.handle(order)
            if self.clock.run_until(self.clock.now_s + 60, lambda: self.supervisor.left):
                break
        assert self.supervisor.left, "a drain with nothing left to do does not end"
        self.checks.at_the_end()

    def _may_be_over(self) -> Callable[[], bool]:
        """Whether the supervisor has left, or nothing is left to be done: looked at once a step, as a look costs as much."""
        steps = 0

        def over() -> bool:
            nonlocal steps
            if len(self.told) == steps:
                return False
            steps = len(self.told)
            return self.supervisor.left or self.checks.all_settled()

        return over

    def forget(self) -> None:
        """Its parts know it and it knows them: without this all of it waits for the collector, which costs more than it."""
        self.clock.stop()
        self.__dict__.clear()

    def story(self, error: Exception, last: int | None) -> str:
        """What happened, for a person: all of it, or the `last` lines about the jobs that the error is about."""
        about = frozenset() if last is None else jobs_in(str(error)) or self.checks.concerned()
        if last is not None and not about and self.told:
            about = jobs_in(str(self.told[-1][1:]))
        return f"{tell(self.told, about, last)}\n{type(error).__name__}: {error} ({', '.join(sorted(about)) or 'all jobs'})"
