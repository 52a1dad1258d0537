"""The state machine of the supervisor: one method for each event, one pass that decides what follows. Pure.

Rules that everything here keeps:
1. A change of a job is a write of the same step; the loop commits a step's writes before it carries out any of its actions.
   So a job is in the journal before it is acknowledged, and a place has its name there before it exists.
2. A generation is given to one worker, and a new one only after the old worker is seen dead, or has let go of a parked job.
3. Statements about one job go to the backend one after the other: acknowledge, statuses, complete. The first and the last
   are made until they are taken, each with one key; a status that did not get through is simply superseded by a later one.
4. A job leaves `ended` when its report is taken or refused for good; then nothing more is owed to anybody.

Every event ends in `_decide`, which looks at the whole state and never at the event: what is due follows from what is.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from cronium.common.ids import place_name, remote_place_name
from cronium.common.messages import Results
from cronium.common.servers import host_of
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core import outcomes
from cronium.supervisor.core.breakers import Breakers
from cronium.supervisor.core.clocks import Clocks
from cronium.supervisor.core.crew import Crew
from cronium.supervisor.core.decisions import decide_retry, finished_servers, longest_retry_ms
from cronium.supervisor.core.dispatching import Dispatching
from cronium.supervisor.core.intensity import EXIT_CODE, Intensity
from cronium.supervisor.core.jobs import Jobs
from cronium.supervisor.core.leases import Leases
from cronium.supervisor.core.leftovers import Leftovers
from cronium.supervisor.core.parking import Parking
from cronium.supervisor.core.polls import Polls
from cronium.supervisor.core.roles import FORKSERVER, Roles
from cronium.supervisor.core.rules import Rules
from cronium.supervisor.core.servers import Servers
from cronium.supervisor.core.state import ACTIVE, Ended, JobRecord, JobState, Worker
from cronium.supervisor.core.statements import Statements
from cronium.supervisor.core.vitals import Vitals

_TICK_S = 1.0
_ALONG_S = 15.0  # who dies with the forkserver is dead at once, but heard of later where the journal waits for its disk
WORKER = "worker"  # the kind of all workers


class Core:
    """Everything that decides. `handle` is its only entry once restored."""

    def __init__(self, rules: Rules, seed: int, roles: Iterable[str] = ()) -> None:
        """`roles`: the processes beside the workers that are to be there (see `Roles`)."""
        self._rules = rules
        self._random = random.Random(seed)  # noqa: S311 - jitter and keys of idempotency, no secrets
        self._draft = do.Draft()
        self._crew = Crew(rules, self._random, self._draft)
        self._roles = Roles(rules, self._draft, roles)
        self._vitals = Vitals(rules.hung_after_s)
        self._intensity = Intensity(rules.restart_intensity, rules.restart_period_s)
        self._hung: Counter[str] = Counter()
        self._workers_died = 0
        self._along: set[str] = set()  # they die with the forkserver, which is dead already
        self._along_until_s = -math.inf
        self._polls = Polls(rules, self._random, self._draft)
        self._statements = Statements(rules, self._random)
        self._leases = Leases(self._statements, self._draft)
        self._servers = Servers(rules)
        self._breakers = Breakers(rules, self._draft)
        self._parking = Parking(rules, self._random)
        self._leftovers = Leftovers(self._random)
        self._jobs = Jobs(rules, self._draft, self._statements, self._leases, self._parking, self._leftovers)
        self._dispatching = Dispatching(rules, self._draft, self._crew, self._servers, self._breakers, self._parking)
        self._draining = False
        self._clocks = Clocks()

    def restore(self, records: Iterable[JobRecord], ended: dict[str, Ended], poll_key: str | None, unix_ms: int) -> None:
        """Go on from what the journal holds: whatever ran is taken over by a new worker, in its place. `unix_ms`: the time."""
        self._jobs.restore(records, ended, unix_ms)
        self._polls.restore(poll_key)

    def handle(self, event: on.Event, now: on.Now) -> do.Step:
        """What this event leads to."""
        if by_ms := self._clocks.jumped_ms(now):
            self._draft.note("warning", "the clock was set: deadlines move with it", None, by_s=round(by_ms / 1000))
            self._jobs.move_deadlines(by_ms)
        self._apply(event, now)
        self._decide(now)
        return self._draft.finished()

    def keep_leases(
        self, step: do.Step, answers: Iterable[on.LeaseRenewed | on.LeaseUnanswered], now: on.Now
    ) -> tuple[do.Step, tuple[do.RenewLease, ...]]:
        """While a step waits for its disk: the step with what follows from these answers, and the renewals, which need no write.

        Of a record only the last write is kept: a disk may be full for hours. What else an answer says (a cancel) would be
        decided ahead of the step; the next answer says it again.
        """
        for answer in answers:
            self._apply(replace(answer, next_action=None) if isinstance(answer, on.LeaseRenewed) else answer, now)
        self._leases.renew(self._jobs.active.values(), now)
        more = self._draft.finished()
        newer = {write.record.job_id for write in more.writes if isinstance(write, do.PutJob)}
        older = (w for w in step.writes if not (isinstance(w, do.PutJob) and w.payload is None and w.record.job_id in newer))
        actions = step.actions + more.actions
        renewals = tuple(action for action in actions if isinstance(action, do.RenewLease))
        others = tuple(action for action in actions if not isinstance(action, do.RenewLease))
        return do.Step((*older, *more.writes), others), renewals

    def next_due_s(self, now: on.Now) -> float:
        """When (monotonic) a Tick is due at the latest."""
        due = min(now.mono_s + _TICK_S, self._statements.next_due_s(now.mono_s), self._breakers.next_due_s())
        due = min(due, self._parking.next_due_s(now.mono_s), self._leftovers.next_due_s(now.mono_s), self._roles.next_due_s())
        if (poll_s := self._polls.next_due_s(now.mono_s)) is not None:
            due = min(due, poll_s)
        for record in self._jobs.in_state(JobState.WAITING):
            if record.place is None:
                due = min(due, now.mono_s + max(0.01, (record.retry_at_ms - now.unix_ms) / 1000))
        return due

    def next_look_s(self) -> float:
        """When (monotonic) a Looked is due."""
        return self._vitals.next_look_s()

    def mute(self) -> tuple[str, ...]:
        """Of which processes Looked is to say whether they are awake."""
        return self._vitals.mute()

    def processes(self) -> dict[str, dict[str, int]]:
        """By kind, for people: how often one was started again or replaced (`restarts`), and how often as it hung (`hung`)."""
        restarts = {**self._roles.restarts(), WORKER: self._workers_died}
        return {kind: {"restarts": count, "hung": self._hung[kind]} for kind, count in restarts.items()}

    def job(self, job_id: str) -> JobRecord | None:
        """What is known of a job."""
        return self._jobs.known(job_id)

    def jobs(self) -> tuple[JobRecord, ...]:
        """All jobs for which something is still to be done."""
        return tuple(self._jobs.active.values())

    def counts(self) -> dict[str, int]:
        """Jobs by their state, and since our start by how they ended (`completed`, `failed`, `timeout`, `cancelled`)."""
        return self._jobs.counts()

    def set_aside(self) -> dict[str, str]:
        """The jobs whose report the backend refused for good, with its reason, the latest last; those that are still known."""
        return self._jobs.all_done.set_aside

    @property
    def draining(self) -> bool:
        """Whether no new jobs are taken any more."""
        return self._draining

    def workers(self) -> tuple[Worker, ...]:
        """All workers that are known."""
        return tuple(self._crew)

    def places(self) -> frozenset[str]:
        """The places that belong to somebody; any other of this installation may be removed.

        So may a directory `PLACE.NUMBER` only where PLACE may: a job on several servers names its directories so.
        """
        return self._servers.slots().union(self._jobs.places())

    def servers(self) -> dict[str, object]:
        """How it stands with the servers, for people: plain values."""
        connections: Counter[str] = Counter()
        for key, count in self._servers.counts().items():
            connections[key.rpartition("#")[0]] += count
        states = self._breakers.states()
        return {
            "activeServers": len(connections),
            "connections": dict(connections),
            "openBreakers": sorted(host for host, state in states.items() if state == "open"),
            "halfOpenBreakers": sorted(host for host, state in states.items() if state == "half-open"),
            "parkedJobs": sum(1 for record in self._jobs.active.values() if record.parked is not None),
            "waitingJobs": sum(1 for record in self._jobs.active.values() if record.waits_for is not None),
            "leftovers": len(self._leftovers),
        }

    # --- events ------------------------------------------------------------------------------------------------------

    def _apply(self, event: on.Event, now: on.Now) -> None:
        match event:
            case on.Tick():
                pass
            case on.Polled():
                self._polled(event, now)
            case on.PollFailed():
                self._polls.failed(event, now)
            case on.Taken():
                self._taken(event, now)
            case on.Refused():
                self._refused(event, now)
            case on.Unanswered():
                self._statements.failed(event.job_id, event.key, now.mono_s, event.retry_after_s)
                self._draft.note("warning", "statement not taken yet", event.job_id, error=event.reason)
            case on.LeaseRenewed(job_id, lease, next_action):
                self._leases.answered(job_id)
                if record := self._jobs.get(job_id):
                    begun = record.begun or self._statements.runs(record)  # known of jobs in containers only by and by
                    self._jobs.put(record.but(lease=lease, begun=begun))
                    self._leases.given(job_id, lease, now)
                    self._obey(job_id, next_action, now)
            case on.LeaseLost(job_id, reason):
                self._leases.answered(job_id)
                self._lose(job_id, reason, now)
            case on.LeaseUnanswered(job_id):
                self._leases.answered(job_id)
                if job_id in self._jobs.active:
                    self._leases.again(job_id, now)
            case on.CancelRequested(job_id):
                self._cancel(job_id, now)
            case on.WorkerIsReady(name):
                self._crew.ready(name, now)
                if self._crew.is_known(name):
                    self._vitals.begins(name, now.mono_s)
            case on.Beats(name, progress, memory_bytes):
                self._vitals.beats(name, progress, now.mono_s)
                self._crew.beats(name, memory_bytes)
                self._roles.beats(name)
            case on.Looked(awake):
                self._looked(awake, now)
            case on.RoleStarted(role):
                self._roles.started(role, now)
                self._vitals.begins(role, now.mono_s)
            case on.RoleDied():
                self._role_died(event, now)
            case on.WorkerIsIdle(name, job_id, generation, _, removed):
                if self._crew.idle(event, now):
                    self._servers.ends(name)
                    self._breakers.over(name)
                    self._jobs.leave_place(job_id, generation, removed=removed)
            case on.WorkerIsConnected(name, servers, slots):
                if self._crew.is_known(name):  # a dead one holds nothing
                    self._servers.connected(name, servers, slots)
            case on.ServerSeen():
                self._server_seen(event, now)
            case on.LeftoversCleaned():
                self._cleaned(event)
            case on.WorkerSaw(name, places):
                known = self.places()
                nobodys = (p for p in places if p not in known and p.rpartition(".")[0] not in known)
                self._draft.actions.append(do.RemoveAt(name, tuple(nobodys)))
            case on.WorkerHasTidied(name):
                self._crew.has_looked(name, now)
            case on.WorkerDied():
                self._worker_died(event, now)
            case on.AttemptSaid():
                self._attempt_said(event, now)
            case on.AttemptOver():
                self._attempt_over(event, now)
            case on.AttemptParked():
                self._attempt_parked(event, now)
            case on.StreamerIsReady():
                for worker in self._crew:
                    if worker.job_id is not None and self._runs(worker.name, worker.job_id, worker.generation):
                        self._announce(self._jobs.active[worker.job_id], worker.name)
                self._statements.summaries_lost()
                wanted = ((record.job_id, record.epoch) for record in self._jobs.active.values())
                self._draft.actions.append(do.WantOutput(tuple(wanted)))
            case on.SummaryHeard(summary):
                record = self._jobs.get(summary.job_id)
                if record is not None and record.state is JobState.ENDED:
                    self._statements.summary(summary)
            case on.DrainRequested():
                self._draining = True
            case on.CancelAll(at_once):
                self._draining = True
                for job_id in list(self._jobs.active):
                    self._cancel(job_id, now)
                    record = self._jobs.get(job_id)
                    if at_once and record is not None and record.state is JobState.RUNNING:
                        self._cancel_at_worker(record)  # the second word to a worker means SIGKILL

    def _polled(self, event: on.Polled, now: on.Now) -> None:
        if self._polls.answered(event, now, draining=self._draining):
            for job in event.jobs:
                self._take_in(job, now)
        for job_id in event.cancelled:
            self._cancel(job_id, now)

    def _take_in(self, job: on.QueuedJob, now: on.Now) -> None:
        """A job from the queue. One that is known is gone on with, or reported again; it never runs anew.

        It is acknowledged again in each case: another host may have had it in between, and only the answer tells its epoch.
        """
        known = self._jobs.known(job.job_id)
        if known is not None and known.lost and (known.state is not JobState.DONE or known.place is not None):
            self._draft.note("info", "delivered again while it is still being stopped here: left to come once more", job.job_id)
            return
        self._jobs.all_done.pop(job.job_id)
        if known is not None and (not known.lost or job.job_id in self._jobs.ended):
            self._draft.note("info", "delivered again", job.job_id, state=known.state.value)
            state = JobState.ENDED if known.state is JobState.DONE else known.state
            owed_ms = now.unix_ms if known.state is JobState.DONE else known.owed_ms
            again = known.but(state=state, acknowledged=False, delivered_ms=now.unix_ms, lost=False, set_aside=None)
            self._jobs.put(again.but(owed_ms=owed_ms, done_ms=0))
            return
        record = JobRecord(job.job_id, job.priority, now.unix_ms, now.unix_ms, retry=job.retry, servers=job.servers)
        if known is not None:  # lost to another host once, now ours again: numbers must go on, generations fence
            record = record.but(generation=known.generation, attempt=known.attempt, leftovers=known.leftovers)
        self._jobs.take_in(record, job.payload)
        if job.refusal is not None:
            self._jobs.end(record, job.refusal, now)

    def _taken(self, event: on.Taken, now: on.Now) -> None:
        record, kind = self._jobs.get(event.job_id), self._statements.taken(event.job_id, event.key)
        if record is None or kind is None:
            return
        if kind == "acknowledge":
            self._acknowledged(record, event, now)
        elif kind == "complete":
            self._jobs.done(record, now, taken=True)
            return
        self._obey(event.job_id, event.next_action, now)

    def _acknowledged(self, record: JobRecord, event: on.Taken, now: on.Now) -> None:
        epoch = max(event.epoch or 0, record.epoch)
        changed = record.but(acknowledged=True, lease=event.lease or record.lease)
        self._leases.confirmed(record.job_id)
        if event.lease is not None:
            self._leases.given(record.job_id, event.lease, now)
        if record.state is JobState.RECEIVED or epoch > record.epoch:
            changed = changed.but(epoch=epoch, next_sequence=event.next_sequence or record.next_sequence)
        if epoch > record.epoch and record.generation:
            if record.place is not None and record.state in ACTIVE:  # its output cannot move from one epoch to another
                self._lose(record.job_id, "another host had it in between", now)
                return
            self._draft.actions.append(do.ForgetOutput(record.job_id, record.epoch))
        self._jobs.put(changed.but(state=JobState.READY) if record.state is JobState.RECEIVED else changed)

    def _refused(self, event: on.Refused, now: on.Now) -> None:
        record, kind = self._jobs.get(event.job_id), self._statements.taken(event.job_id, event.key)
        if record is None or kind is None:
            return
        if kind == "acknowledge" and event.gone and _was_reported(record):
            self._draft.note("info", "delivered again after its report was taken: not asked for any more", event.job_id)
            self._jobs.done(record.but(lost=True), now)
            return
        self._draft.note("error", f"{kind} refused for good", event.job_id, error=event.reason)
        if kind == "complete":
            self._jobs.done(record.but(set_aside=event.reason, lost=event.gone), now)
        elif event.gone or kind == "acknowledge":
            self._lose(event.job_id, event.reason, now)

    def _obey(self, job_id: str, next_action: str | None, now: on.Now) -> None:
        record = self._jobs.get(job_id)
        if record is None:
            return
        if next_action == "cancel":
            self._cancel(job_id, now)
        elif next_action == "retry" and record.state in (JobState.RUNNING, JobState.READY) and not record.extra_attempts:
            self._jobs.put(record.but(extra_attempts=1))

    def _cancel(self, job_id: str, now: on.Now) -> None:
        record = self._jobs.get(job_id)
        if record is None or record.cancelled or record.state is JobState.ENDED:
            return
        record = self._jobs.put(record.but(cancelled=True))
        if record.state is JobState.RUNNING:
            self._cancel_at_worker(record)
        elif record.place is None or record.state is JobState.WAITING:
            self._jobs.end(record, outcomes.cancelled(record, now), now)
        elif record.parked is not None and not record.begun:
            self._jobs.end(record.without_place(), outcomes.cancelled(record, now), now)
        elif record.parked is not None:
            self._jobs.wait_for(record, record.parked.message)
        # else: a place without a worker; it is cancelled as soon as a worker has taken it over

    def _lose(self, job_id: str, reason: str, now: on.Now) -> None:
        """Another host has the job: stop it here, report nothing."""
        record = self._jobs.get(job_id)
        if record is None or record.lost:
            return
        self._draft.note("warning", "job lost to another host", job_id, error=reason)
        record = self._jobs.put(record.but(lost=True))
        if record.state is JobState.RUNNING:
            for _ in range(2):  # at once: somebody else is doing the work
                self._cancel_at_worker(record)
        elif record.place is None or record.state in (JobState.WAITING, JobState.ENDED):
            self._jobs.done(record, now)
        elif record.parked is not None and not record.begun:
            self._jobs.done(record.without_place(), now)

    def _looked(self, awake: tuple[str, ...], now: on.Now) -> None:
        """End who hangs, or is overdue; what follows from the death is that of any other."""
        late_s = self._vitals.late_s(now.mono_s)
        self._crew.end_overdue(now, late_s)
        self._roles.end_overdue(now, late_s)
        for hung in self._vitals.looked(awake, now.mono_s):
            kind = hung.name if hung.name in self._roles else WORKER
            reason = f"no progress for {hung.silent_s:.1f} s"
            if not hung.over:
                self._draft.note("warning", "a process hangs: it is asked where", None, process=hung.name, error=reason)
                self._draft.actions.append(do.DumpStack(hung.name))
                continue
            self._hung[kind] += 1
            order = do.KillWorker(hung.name, reason) if kind == WORKER else do.EndRole(hung.name, reason)
            self._draft.actions.append(order)

    def _role_died(self, event: on.RoleDied, now: on.Now) -> None:
        role, along = event.role, self._died_along(event.role, now)
        self._vitals.ends(role)
        self._roles.died(role, event.reason, now, along=along)
        if role == FORKSERVER:
            self._along = {worker.name for worker in self._crew}.union(self._roles.forked())
            self._along_until_s = now.mono_s + _ALONG_S
        if not along:
            self._count(role, event.reason, now)

    def _died_along(self, name: str, now: on.Now) -> bool:
        """Whether the forkserver took it along. One that the next forkserver made can only die later."""
        along = name in self._along and now.mono_s < self._along_until_s
        self._along.discard(name)
        return along

    def _is_soon(self, since_s: float, now: on.Now) -> bool:
        """Whether a death comes so soon after this that it may come of it: later ones are no loop, whatever their reason is."""
        return now.mono_s - since_s < self._rules.restart_period_s

    def _count(self, kind: str, cause: str, now: on.Now) -> None:
        """A death that no job is the reason of. One too many: the level above decides."""
        if (reason := self._intensity.died(kind, cause, now.mono_s)) is not None:
            self._draft.actions.append(do.Exit(EXIT_CODE, reason))

    def _worker_died(self, event: on.WorkerDied, now: on.Now) -> None:
        worker = self._crew.died(event, now)
        along = self._died_along(event.worker, now)
        self._vitals.ends(event.worker)
        if worker is not None and not worker.retiring:
            self._workers_died += 1
            if worker.job_id is None and not along and self._is_soon(worker.ready_s, now):
                self._count(WORKER, event.reason, now)
        self._servers.gone(event.worker)
        self._breakers.over(event.worker)
        self._leftovers.ends(event.worker)
        if worker is None or worker.job_id is None:
            return
        record = self._jobs.get(worker.job_id)
        if record is None or record.generation != worker.generation or record.state is not JobState.RUNNING:
            # What it had not yet removed is the reaper's; on a server somebody has to go there again.
            self._jobs.leave_place(worker.job_id, worker.generation, removed=False)
            self._crew.tidy_soon(now)
            return
        deaths = record.deaths
        if not along:
            deaths = deaths + 1 if self._is_soon(worker.given_s, now) else 0
        record = self._jobs.put(record.but(state=JobState.READY, deaths=deaths))
        if deaths > self._rules.max_worker_deaths and not along:
            lost = outcomes.worker_lost(deaths, event.reason, now)
            self._crew.tidy_soon(now)
            self._jobs.end(record.without_place(), outcomes.cancelled(record, now) if record.cancelled else lost, now)

    def _attempt_said(self, event: on.AttemptSaid, now: on.Now) -> None:
        if not self._runs(event.worker, event.job_id, event.generation):
            return
        self._statements.status(event.job_id, event.status, event.percentage, event.message)
        record = self._jobs.active[event.job_id]
        if record.servers and event.status == "running":
            self._breakers.got_there(event.worker, now)
            fresh = (event.place,) if event.place and event.place not in record.begun_at else ()
            if fresh or not record.begun:
                self._jobs.put(record.but(begun=True, begun_at=(*record.begun_at, *fresh), give_up_ms=None))

    def _attempt_over(self, event: on.AttemptOver, now: on.Now) -> None:
        if not self._crew.holds(event.worker, event.job_id, event.generation):
            return
        if self._runs(event.worker, event.job_id, event.generation):
            record = self._jobs.active[event.job_id]
            decision = decide_retry(record, event.outcome)
            if record.lost:
                self._jobs.done(record, now)
            elif decision.again:
                extra = max(0, record.extra_attempts - 1)
                due_ms = now.unix_ms + round(decision.after_s * 1000)
                finished = finished_servers(record, event.outcome)
                record = record.but(state=JobState.WAITING, retry_at_ms=due_ms, extra_attempts=extra, deaths=0)
                self._jobs.put(record.but(finished=finished, results=None))
                self._draft.note("info", "attempt failed, another follows", event.job_id, after_s=decision.after_s)
            else:
                self._jobs.end(record, event.outcome, now)
        self._draft.actions.append(do.SettleAt(event.worker, event.job_id, event.generation))

    def _attempt_parked(self, event: on.AttemptParked, now: on.Now) -> None:
        """The job waits in its place without a worker. If anything may exist of the place, it keeps it."""
        if not self._crew.holds(event.worker, event.job_id, event.generation):
            return
        if self._runs(event.worker, event.job_id, event.generation):
            record = self._jobs.active[event.job_id]
            # A worker that never got there knows less of the deadline than the one before it, and would only put it off.
            give_up_ms = event.give_up_ms if record.give_up_ms is None else min(record.give_up_ms, event.give_up_ms)
            record = record.but(begun=record.begun or event.begun, parked=event.error, give_up_ms=give_up_ms)
            if event.finished:
                results = (record.results or Results()).then(event.results).within(self._rules.max_results_bytes)
                record = record.but(finished=(*record.finished, *event.finished), results=results)
            record = record.but(missing=event.missing)
            if not event.touched:  # a place that never was is named anew, so that it is not missed when the server is back
                record = record.but(place=None, attempt=record.attempt - 1)
            if not record.begun and (record.cancelled or record.lost):
                self._jobs.end(record.without_place(), outcomes.cancelled(record, now), now)
            else:
                self._parking.park(event.job_id, host_of(event.server), now)
                record = self._jobs.wait_for(record.but(state=JobState.READY), event.error.message)
                self._jobs.put(record)
                self._draft.note("warning", "job is parked", event.job_id, error=event.error.message)
        self._draft.actions.append(do.SettleAt(event.worker, event.job_id, event.generation))

    def _server_seen(self, event: on.ServerSeen, now: on.Now) -> None:
        host = host_of(event.server)
        self._servers.seen(event.worker, event.server)
        self._breakers.seen(host, reached=event.reached, reason=event.reason, now=now)
        if event.reached:
            self._parking.wake(host)
            self._leftovers.contact(host)

    def _cleaned(self, event: on.LeftoversCleaned) -> None:
        if self._leftovers.ends(event.worker):
            self._servers.ends(event.worker)
            self._breakers.over(event.worker)
            self._crew.tidied(event.worker)
        self._jobs.drop_leftovers(event.job_id, event.places)

    # --- changes of a job --------------------------------------------------------------------------------------------

    def _cancel_at_worker(self, record: JobRecord) -> None:
        if (worker := self._crew.holder(record.job_id)) is not None:
            self._draft.actions.append(do.CancelAt(worker, record.job_id, record.generation))

    def _announce(self, record: JobRecord, worker: str) -> None:
        self._draft.actions.append(
            do.AnnounceWriter(record.job_id, worker, record.epoch, record.generation, record.next_sequence)
        )

    def _runs(self, worker: str, job_id: str, generation: int) -> bool:
        """Whether this worker runs this attempt, as far as we know."""
        record = self._jobs.get(job_id)
        return (
            record is not None
            and record.state is JobState.RUNNING
            and record.generation == generation
            and self._crew.holder(job_id) == worker
        )

    # --- what follows from the state ---------------------------------------------------------------------------------

    def _decide(self, now: on.Now) -> None:
        self._breakers.tick(now)
        self._servers.tick(now)
        self._wake_waiting(now)
        self._crew.tidy(now, before_jobs=True)
        self._dispatch(now)
        self._clean_up(now)
        self._crew.tidy(now, before_jobs=False)
        self._roles.keep(now)
        self._crew.keep(self._wanted_workers(), now, may_start=self._roles.can_fork())
        self._leases.renew(self._jobs.active.values(), now)
        self._draft.actions.extend(self._statements.due(self._jobs.active, self._jobs.ended, now, self._crew.busy()))
        active = sum(1 for record in self._jobs.in_state(*ACTIVE) if record.waits_for is None)
        # Not while too many jobs wait for their server, or too many reports for a backend that takes none.
        allowed = not self._draining and len(self._jobs.active) < self._rules.most_jobs
        allowed = allowed and self._jobs.owed_bytes() < self._rules.most_owed_bytes
        self._polls.ask(self._rules.max_concurrent - active, now, allowed=allowed)
        self._jobs.prune(now)
        if self._draining and not self._jobs.active and not self._crew.busy():
            self._draft.actions.append(do.Exit())

    def _wake_waiting(self, now: on.Now) -> None:
        for record in self._jobs.in_state(JobState.WAITING):
            if record.retry_at_ms <= now.unix_ms and record.place is None:
                self._jobs.put(record.but(state=JobState.READY))
            elif record.retry_at_ms > (latest_ms := now.unix_ms + longest_retry_ms(record)):  # set while we were away
                self._jobs.put(record.but(retry_at_ms=latest_ms))

    def _dispatch(self, now: on.Now) -> None:
        """Give ready jobs to idle workers. One whose last worker has not let go of it yet waits for that."""
        ready = []
        for record in self._jobs.in_state(JobState.READY):
            if self._crew.holder(record.job_id) is not None or not self._leases.may_begin(record, now):
                continue
            if record.parked is not None and self._is_to_be_given_up(record, now):
                self._jobs.end(record.without_place(), outcomes.given_up(record, now), now)
            else:
                ready.append(record)
        made = self._dispatching.choose(ready, now, more_follow=not self._draining)
        for job_id, reason in made.waits.items():
            self._jobs.wait_for(self._jobs.active[job_id], reason)
        for record, worker, slot in made.given:
            self._give(self._jobs.active[record.job_id], worker, slot, now)
        for record, reason in made.fails:
            self._jobs.end(record.without_place(), outcomes.unreachable(reason, now), now)

    def _is_to_be_given_up(self, record: JobRecord, now: on.Now) -> bool:
        """Not before somebody has tried since our start: its server may be back by now, and its script have ended."""
        if record.give_up_ms is None or record.give_up_ms > now.unix_ms:
            return False
        if self._parking.was_tried(record.job_id):
            return True
        obstacle = self._breakers.obstacle(map(host_of, record.servers))
        return obstacle is not None and obstacle.open

    def _give(self, record: JobRecord, worker: str, slot: str | None, now: on.Now) -> None:
        adopt = record.place is not None
        attempt = record.attempt if adopt else record.attempt + 1
        place = record.place or slot or self._new_place(record, attempt)
        fresh = record.generation == 0 and record.next_sequence <= 1
        if record.parked is not None:
            self._statements.waits(record.job_id, None)
        given = record.but(
            state=JobState.RUNNING,
            attempt=attempt,
            generation=record.generation + 1,
            place=place,
            begun=adopt and record.begun,
            begun_at=record.begun_at if adopt else (),
            parked=None,
            missing=(),
            # Until its script is seen to run, no try puts its limit off; parked without a place it has one too.
            give_up_ms=record.give_up_ms if adopt or record.parked is not None else None,
            waits_for=None,
            placed_ms=record.placed_ms if adopt else now.unix_ms,
        )
        record = self._jobs.put(given)
        self._crew.give(worker, record.job_id, record.generation, now)
        if not adopt:
            self._statements.new_attempt(record.job_id)
        self._announce(record, worker)
        order = do.DispatchTo(
            worker,
            record.job_id,
            attempt,
            record.generation,
            record.epoch,
            place,
            fresh,
            adopt,
            record.begun,
            record.begun_at,
            record.finished,
            record.placed_ms,
        )
        self._draft.actions.append(order)
        for _ in range(2 if record.lost else int(record.cancelled)):
            self._cancel_at_worker(record)

    def _new_place(self, record: JobRecord, attempt: int) -> str:
        if record.servers:
            return remote_place_name(self._rules.installation, self._random.getrandbits(96))
        return place_name(self._rules.installation, record.job_id, attempt)

    def _clean_up(self, now: on.Now) -> None:
        """Have somebody go where something was left, if anybody can."""
        for job_id in self._leftovers.due(now):
            record = self._jobs.known(job_id)
            if record is None or self._jobs.all_done.is_over(record, now):
                self._jobs.drop_leftovers(job_id, () if record is None else record.leftovers)
            elif (worker := self._dispatching.cleaner(record, now)) is not None:
                self._crew.clean(worker, now)
                self._leftovers.begins(job_id, worker, now)
                self._draft.actions.append(do.CleanUpAt(worker, job_id, record.leftovers))
                return

    def _wanted_workers(self) -> int:
        """One for each slot, and for each place that is to be taken over; while draining only as many as there is work for."""
        wanted = self._rules.max_concurrent
        if len(self._jobs.active) > wanted:
            wanted = max(wanted, sum(1 for r in self._jobs.in_state(*ACTIVE) if r.place is not None and not r.parked))
        wanted += self._rules.spare_workers
        if self._draining:
            return min(wanted, sum(1 for r in self._jobs.active.values() if r.state is not JobState.ENDED))
        return wanted


def _was_reported(record: JobRecord) -> bool:
    """Whether its report had been taken before the queue brought it again: see `Core._take_in`."""
    return record.state is JobState.ENDED and record.owed_ms == record.delivered_ms != record.received_ms
