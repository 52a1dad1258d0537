"""What must hold in every history: after each step of the core, whenever a worker does something, and at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cronium.common.errors import Reason
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.core import Core
from cronium.supervisor.core.state import ACTIVE, JobRecord, JobState, Worker
from cronium.supervisor.standalone.rules import Status
from simulation.backend import OURS
from simulation.breaker_checks import BreakerChecks
from simulation.death_checks import DeathChecks

if TYPE_CHECKING:
    from simulation.fleet import Place, SimWorker
    from simulation.world import World

_MOST_STEPS = 30_000
_UNDER_WAY = (JobState.READY, JobState.RUNNING)
_WITH_LEASE = (*_UNDER_WAY, JobState.WAITING)


class Checks:
    """Remembers what it needs to compare; raises AssertionError."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._given: set[tuple[str, int]] = set()  # (job, generation)
        self._attempts: set[tuple[str, int]] = set()
        self._said: dict[str, object] = {}  # what a key was used for
        self._keys: dict[object, str] = {}
        self._over: dict[str, tuple[JobRecord, on.AttemptOver, float, object]] = {}
        self._given_up: set[str] = set()
        self._idle_ticks = 0
        self._before: JobRecord | None = None
        self.supervisor_starts()

    def supervisor_starts(self) -> None:
        """What only holds within one life of the supervisor."""
        self._in_flight: dict[str, str] = {}
        self._renewing: set[str] = set()
        self._busy: dict[str, tuple[str, int]] = {}
        self._current = False  # whether an attempt's end comes from the worker that has it
        self._most_placed = 0
        self._workers: set[str] = set()
        self._ready: set[str] = set()
        self._unheard = {r.job_id for r in self._world.journal.records.values() if r.lease is not None and r.state in _WITH_LEASE}
        self._polling = self._draining = False
        self._breakers = BreakerChecks(self._world)
        self._deaths = DeathChecks(self._world)

    # --- each step ---------------------------------------------------------------------------------------------------

    def before_commit(self, event: on.Event) -> None:
        job_id = getattr(event, "job_id", None)
        self._before = None if job_id is None else self._world.journal.records.get(job_id)
        if isinstance(event, on.AttemptOver | on.AttemptParked):
            self._current = self._busy.get(event.worker) == (event.job_id, event.generation)
        self._deaths.before_commit(event)
        match event:
            case on.Taken(job_id, key) | on.Refused(job_id, key) | on.Unanswered(job_id, key):
                if self._in_flight.get(job_id) == key:
                    del self._in_flight[job_id]
                if isinstance(event, on.Taken) and self._before is not None and not self._before.acknowledged:
                    self._unheard.discard(job_id)
            case on.Polled() | on.PollFailed():
                self._polling = False
            case on.LeaseRenewed() | on.LeaseLost() | on.LeaseUnanswered():
                self.lease_answered(event)
            case on.WorkerIsReady(name):
                self._ready.add(name)
            case on.WorkerIsIdle(worker=name) | on.WorkerDied(worker=name):
                self._busy.pop(name, None)
                if isinstance(event, on.WorkerDied):
                    self._ready.discard(name)
            case on.DrainRequested() | on.CancelAll():
                self._draining = True
            case _:
                pass

    def lease_answered(self, event: on.LeaseRenewed | on.LeaseLost | on.LeaseUnanswered) -> None:
        self._renewing.discard(event.job_id)
        if not isinstance(event, on.LeaseUnanswered):
            self._unheard.discard(event.job_id)

    def renews(self, action: do.RenewLease) -> None:
        assert action.job_id not in self._renewing
        assert not self._world.journal.records[action.job_id].lost
        self._renewing.add(action.job_id)

    def step(self, event: on.Event, step: do.Step, core: Core) -> None:
        jobs, workers = core.jobs(), core.workers()
        assert len(step.actions) <= 4 * (len(jobs) + len(workers)) + 12, "a step without measure"
        assert len(self._world.told) < _MOST_STEPS, "a history without end"
        records = self._world.journal.records
        for record in jobs:
            written = records[record.job_id]
            if written is not record and written != record:
                assert _as_restored(written, record) == record, f"not written: {record}; the journal has {written}"
        if self._world.plan.servers:
            self._breakers.step(event, step, core)
        self._deaths.step(step)
        self._nobody_is_held_up(jobs, workers)
        self._is_bounded(jobs, workers)
        announced: set[tuple[str, str, int]] = set()
        for action in step.actions:
            if isinstance(action, do.AnnounceWriter):
                announced.add((action.worker, action.job_id, action.generation))
            self._action(action, announced, core)
            if isinstance(action, do.DispatchTo) and (records[action.job_id].cancelled or records[action.job_id].lost):
                is_told = do.CancelAt(action.worker, action.job_id, action.generation) in step.actions
                assert is_told, f"the worker that takes {action.job_id} over does not hear that it is to end"
        if isinstance(event, on.StreamerIsReady):
            for worker, (job_id, generation) in self._busy.items():
                if self._runs(job_id, generation):
                    assert (worker, job_id, generation) in announced, "a new streamer does not hear who may write"
        if isinstance(event, on.AttemptOver) and self._before is not None:
            self._attempt_over(self._before, event, records.get(event.job_id))
            if not self._current:
                told = [write for write in step.writes if isinstance(write, do.PutEnded) and write.ended.outcome is event.outcome]
                assert not told, f"{event.worker} has {event.job_id} no more, and its outcome is taken"
        if isinstance(event, on.LeaseLost) and (lost := core.job(event.job_id)) is not None:
            assert lost.lost or lost.state is JobState.DONE, f"{event.job_id} goes on here, its lease is lost"
        if self._before is not None and self._before.state in _UNDER_WAY and self._before.place is not None:
            after = records.get(self._before.job_id)
            assert after is None or after.epoch == self._before.epoch, "an attempt stays in its epoch"
        forgotten = sum(1 for write in step.writes if isinstance(write, do.ForgetJob))
        if forgotten and not self._clocks():  # no history lasts as long as `keep_done_s`, whatever the host's clock says
            done = sum(1 for record in records.values() if record.state is JobState.DONE)
            assert done + forgotten > self._world.plan.rules.keep_done_jobs, "forgotten too early"
        for write in step.writes:
            if isinstance(write, do.PutJob) and write.payload is not None:
                assert not self._draining, "no new jobs in a drain"
                self._over.pop(write.record.job_id, None)  # taken in anew after it was lost: nothing to wait for
            if isinstance(write, do.PutEnded) and write.ended.outcome.error is not None:
                if write.ended.outcome.error.reason == Reason.WORKER_LOST:
                    assert not records[write.job_id].cancelled, "a cancelled job ends as cancelled"
                if records[write.job_id].deaths:
                    self._given_up.add(write.job_id)
            if isinstance(write, do.PutJob) and write.record.deaths > self._world.plan.rules.max_worker_deaths:
                self._given_up.add(write.record.job_id)
                after = records.get(write.record.job_id)  # it may be done, and forgotten in the same step
                assert after is None or after.state not in _UNDER_WAY, f"{write.record.job_id} may cost one more worker"

    def tick_planned(self, wait_s: float, *, idle: bool) -> None:
        soon = wait_s < 0.02
        self._idle_ticks = self._idle_ticks + 1 if idle and soon else 0
        assert self._idle_ticks < 20, "it wakes again and again for nothing"

    def _action(self, action: do.Action, announced: set[tuple[str, str, int]], core: Core) -> None:
        journal = self._world.journal
        match action:
            case do.Acknowledge(job_id, key):
                record = journal.records[job_id]
                assert not record.acknowledged
                assert not record.lost
                self._statement(job_id, key, ("acknowledge", job_id, record.delivered_ms))
            case do.SayStatus(job_id, key, epoch, _, attempt):
                record = journal.records[job_id]
                assert record.acknowledged, "acknowledge comes first"
                state = JobState.READY if record.parked is not None else JobState.RUNNING
                assert (record.state, record.epoch, record.attempt + (record.place is None)) == (state, epoch, attempt)
                assert key not in self._said, "a key is used for two statuses"
                self._statement(job_id, key, ("status", key))
            case do.SayComplete(job_id, key, epoch, attempt, outcome, summary):
                record, ended = journal.records[job_id], journal.ended[job_id]
                assert record.acknowledged, "acknowledge comes first"
                assert record.state is JobState.ENDED
                assert not record.lost
                assert (ended.attempt, ended.outcome) == (attempt, outcome)
                named = [server.server for server in outcome.servers]
                assert len(set(named)) == len(named), "a server has two ends"
                assert set(named) <= set(record.servers)
                assert epoch == record.epoch == summary.epoch
                self._statement(job_id, key, ("complete", job_id, record.received_ms, epoch, attempt, outcome.status))
            case do.RenewLease():
                self.renews(action)
            case do.Poll(key, limit):
                assert not self._polling
                assert not self._draining
                assert key == journal.poll_key, "the key of a poll is written down first"
                active = sum(1 for r in core.jobs() if r.state in ACTIVE and r.waits_for is None)
                free = self._world.plan.rules.max_concurrent - active
                assert len(core.jobs()) < self._world.plan.rules.most_jobs
                assert 1 <= limit <= free, f"{limit} jobs asked for, {free} slots free"
                self._polling = True
            case do.StartWorker(name):
                assert name not in self._workers
                self._workers.add(name)
            case do.DispatchTo():
                assert (action.worker, action.job_id, action.generation) in announced, "announced before it is dispatched"
                self._dispatch(action)
            case do.WarmUpAt(worker, job_id) | do.CleanUpAt(worker, job_id):
                assert journal.payloads[job_id], "nothing is left that tells how to get there"
                assert worker in self._ready
                assert worker not in self._busy
            case do.KillWorker(worker, reason) if "not ready" in reason:
                asked = self._world.fleet.workers[worker]
                assert not (asked.says_ready and asked.goes_on()), f"{worker} was ready in time, and is ended as nobody heard it"
            case do.ReleaseAt(worker):
                assert worker in self._ready
            case do.SettleAt(_, job_id, generation):
                assert not self._runs(job_id, generation), "settled without an outcome in the journal"
            case do.Exit(code) if not code:
                assert not core.jobs()
            case _:
                pass

    def _is_bounded(self, jobs: Sequence[JobRecord], workers: Sequence[Worker]) -> None:
        """Promise 7: workers, jobs that are held, jobs that are remembered."""
        rules = self._world.plan.rules
        assert len(jobs) <= rules.most_jobs + rules.batch_size + 1, f"{len(jobs)} jobs are held"
        placed = sum(1 for record in jobs if record.place is not None)
        self._most_placed = max(self._most_placed, placed)
        staying = sum(1 for worker in workers if not worker.retiring)
        assert staying <= rules.spare_workers + max(rules.max_concurrent, self._most_placed), f"{staying} workers"
        records = self._world.journal.records
        if len(records) - len(jobs) > rules.keep_done_jobs:
            done = sum(1 for record in records.values() if record.state is JobState.DONE and not record.is_unclean())
            assert done <= rules.keep_done_jobs, f"{done} jobs that are done are kept"

    def _nobody_is_held_up(self, jobs: Iterable[JobRecord], workers: Sequence[Worker]) -> None:
        """A job in a container waits for workers and for its turn, never for other jobs' servers."""
        if any(r.state is JobState.READY and not r.servers and r.place is None and r.job_id not in self._unheard for r in jobs):
            busy = sum(1 for worker in workers if worker.job_id is not None)
            if self._world.supervisor.decided_s != self._world.clock.now_s:
                return  # it has waited for the disk; what was heard of leases meanwhile is acted upon with the next event
            assert busy >= self._world.plan.rules.max_concurrent or not any(worker.idle() for worker in workers)

    def _statement(self, job_id: str, key: str, what: object) -> None:
        assert job_id not in self._in_flight, "two statements about one job at once"
        self._in_flight[job_id] = key
        assert self._said.setdefault(key, what) == what, "one key for two statements"
        assert self._keys.setdefault(what, key) == key, "two keys for one statement"

    def _dispatch(self, action: do.DispatchTo) -> None:
        record = self._world.journal.records[action.job_id]
        assert (record.state, record.attempt, record.generation, record.place, record.epoch) == (
            JobState.RUNNING,
            action.attempt,
            action.generation,
            action.place,
            action.epoch,
        )
        assert self._world.journal.payloads[action.job_id], "nothing to run is left of it"
        assert record.acknowledged or action.adopt or record.attempt > 1 or record.delivered_ms != record.received_ms
        assert (action.job_id, action.generation) not in self._given, "a generation is given to one worker"
        self._given.add((action.job_id, action.generation))
        decided_now = self._world.supervisor.decided_s == self._world.clock.now_s  # and has not waited for the disk since
        if action.job_id in self._unheard and not (action.begun or record.lost) and decided_now and self._world.clock.was_right:
            assert self._world.backend.jobs[action.job_id].owner == OURS, f"{action.job_id} is begun, another host has it"
        assert action.worker in self._ready
        assert action.worker not in self._busy
        self._busy[action.worker] = (action.job_id, action.generation)
        if not action.adopt:
            assert (action.job_id, action.attempt) not in self._attempts, "an attempt's number is used once"
            self._attempts.add((action.job_id, action.attempt))
            assert len(self._busy) <= self._world.plan.rules.max_concurrent
            assert not record.cancelled
            assert not record.lost
            self._retry_was_due(record)

    def _retry_was_due(self, record: JobRecord) -> None:
        over = self._over.pop(record.job_id, None)
        if over is None:
            return
        before, event, at_s, clocks = over
        if before.extra_attempts:
            return
        assert event.outcome.status != "completed"
        assert event.outcome.error is None or event.outcome.error.retryable
        assert before.attempt < before.retry.max_attempts
        factor = 2 ** (before.attempt - 1) if before.retry.exponential else 1
        if clocks != self._clocks():
            return  # the clock was set while nobody lived who could have noticed
        assert self._world.clock.now_s - at_s >= before.retry.delay_s * factor - 0.002, "tried again too early"

    def _attempt_over(self, before: JobRecord, event: on.AttemptOver, after: JobRecord | None) -> None:
        if before.state is not JobState.RUNNING or before.generation != event.generation or after is None:
            return
        if after.state is JobState.WAITING:
            self._over[event.job_id] = (before, event, self._world.supervisor.decided_s, self._clocks())
        elif after.state is JobState.ENDED:
            assert self._world.journal.ended[event.job_id].outcome == event.outcome
            error = event.outcome.error
            if event.outcome.status in ("failed", "timeout") and (error is None or error.retryable) and not before.cancelled:
                assert before.attempt >= before.retry.max_attempts, "the policy allows one more attempt"
            assert not before.extra_attempts or before.cancelled or event.outcome.status == "cancelled"

    def _clocks(self) -> object:
        """What supervisors have known of how wrong the clock is."""
        return self._world.supervisor.set_unseen_ms

    def _runs(self, job_id: str, generation: int) -> bool:
        record = self._world.journal.records.get(job_id)
        return record is not None and record.state is JobState.RUNNING and record.generation == generation

    # --- what workers see --------------------------------------------------------------------------------------------

    def worker_takes(self, worker: SimWorker, order: do.DispatchTo, others: Iterable[SimWorker]) -> None:
        assert worker.order is None, "a worker has one job"
        for other in others:
            assert other.order is None or other.order.place != order.place, f"{other.name} and {worker.name} have one place"

    def script_starts(self, place: Place, places: Iterable[Place]) -> None:
        assert place.starts == 1, "a script is started once"
        for other in places:
            if other.root() != place.root() and other.job_id == place.job_id and other.state == "running":
                assert place.job_id in self._given_up, f"{other.name} still runs"

    def lines_taken(self, worker: SimWorker, order: do.DispatchTo) -> None:
        """Promise 3: who speaks is the only one that could."""
        for other in self._world.fleet.workers.values():
            if other is not worker and other.alive and other.order is not None and other.parks is None and not other.settled:
                same = (other.order.job_id, other.order.place) == (order.job_id, order.place)
                assert not same, f"{other.name} still lives while {worker.name} speaks for {order.job_id}"

    def place_removed(self, place: Place, *, durable: bool = False) -> None:
        """Promise 4. `durable`: by a worker that was told that the outcome is in the journal."""
        lines = self._world.streamer
        assert not durable or lines.has_all(place), f"the place of {place.job_id} is removed, its last line is not durable"
        record = self._world.journal.records.get(place.job_id)
        needed = record is not None and record.state in _UNDER_WAY and record.place == place.root()
        assert not needed, f"the place of {place.job_id} is removed, its outcome is not in the journal"

    def place_reaped(self, place: Place, holders: list[SimWorker]) -> None:
        assert not holders, f"the place of {place.job_id} is forgotten, a worker still has it"
        self.place_removed(place)

    # --- the end -----------------------------------------------------------------------------------------------------

    def all_settled(self) -> bool:
        """Whether nothing is left to be done."""
        core, backend = self._world.supervisor.core, self._world.backend
        if core is None or len(backend.jobs) < self._world.plan.jobs:
            return False
        for job in backend.jobs.values():
            record = self._world.journal.records.get(job.id)
            if not job.ended and not (backend.submitted[job.id].poison and record is not None and record.set_aside):
                return False
        if any(not backend.submitted[record.job_id].poison for record in core.jobs()):
            return False
        if any(worker.job_id is not None for worker in core.workers()):
            return False
        return all(place.state == "removed" or not place.job_id for place in self._reachable())  # or a launcher waits there

    def concerned(self) -> frozenset[str]:
        """The jobs that are not settled yet."""
        backend, core = self._world.backend, self._world.supervisor.core
        jobs = {job.id for job in backend.jobs.values() if not job.ended and not backend.submitted[job.id].poison}
        jobs |= {r.job_id for r in (core.jobs() if core else ()) if not backend.submitted[r.job_id].poison}
        return frozenset(jobs or (p.job_id for p in self._reachable() if p.state != "removed" and p.job_id))

    def supervisor_leaves(self) -> None:
        """Promise 8, as far as memory goes: nothing is kept of jobs that are over, or of workers that are gone."""
        for record in self._world.journal.records.values():
            assert record.state is JobState.DONE, f"forgotten: {record}"
        core = self._world.supervisor.core
        assert core is not None
        present = {worker.name for worker in core.workers()} | set(self._world.roles.names)
        assert all(line.kind == "over" for line in core._statements._lines.values())
        assert not core._leases._at_s
        assert not core._leases._on_way
        assert not core._parking._parked
        assert not core._parking._shut_out_s
        assert not core._crew._holders
        assert all((known := core.job(job_id)) is not None and known.leftovers for job_id in core._leftovers._left)
        assert core._servers._links.keys() | core._vitals._lives.keys() <= present

    def at_the_end(self) -> None:
        for job in self._world.backend.jobs.values():
            ended = self._world.journal.last_ended.get(job.id)
            if not job.ended:
                assert self._world.backend.submitted[job.id].poison, f"{job.id} is {job.status} for ever"
            elif job.owner == OURS and job.status is not Status.CANCELLED:
                assert job.reports == 1, f"{job.id} has {job.reports} terminal reports"
                assert ended is not None
                assert (ended.outcome.status, ended.attempt) == (job.status.value, job.attempt)
        for place in self._reachable():
            assert place.state == "removed", f"{place.name} is left behind"

    def _reachable(self) -> list[Place]:
        """All places but those on a server that never came back."""
        return [p for p in self._world.fleet.places.values() if not p.key or not self._world.servers.is_lost(p.key)]


def _as_restored(written: JobRecord, known: JobRecord) -> JobRecord:
    """What a restarted core makes of a record without writing it: its worker is gone, and with an ended attempt its place."""
    state = JobState.READY if written.state is JobState.RUNNING else written.state
    if known.place is None:
        return written.but(state=state, place=None, leftovers=known.leftovers, give_up_ms=known.give_up_ms)
    return written.but(state=state, give_up_ms=known.give_up_ms)
