"""The state machine of the supervisor: one method for each event, one pass that decides what follows. Pure.

Rules that everything here keeps:
1. A change of a job is a write of the same step; the loop commits a step's writes before it carries out any of its actions.
   So a job is in the journal before it is acknowledged, and a place has its name there before it exists.
2. A generation is given to one worker, and a new one only after the old worker is seen dead.
3. Statements about one job go to the backend one after the other: acknowledge, statuses, complete. The first and the last
   are made until they are taken, each with one key; a status that did not get through is simply superseded by a later one.
4. A job leaves `ended` when its report is taken or refused for good; then nothing more is owed to anybody.

Every event ends in `_decide`, which looks at the whole state and never at the event: what is due follows from what is.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from cronium.common.errors import ExecutionError, Reason
from cronium.common.ids import place_name
from cronium.common.messages import Outcome, Results
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.crew import Crew
from cronium.supervisor.core.decisions import decide_retry
from cronium.supervisor.core.leases import Leases
from cronium.supervisor.core.polls import Polls
from cronium.supervisor.core.rules import Rules
from cronium.supervisor.core.state import ACTIVE, Ended, JobRecord, JobState, Worker
from cronium.supervisor.core.statements import Statements

_FORGET_AGAIN_MS = 60_000  # longer than a streamer can be away without anybody knowing
_TICK_S = 1.0


class Core:
    """Everything that decides. `handle` is its only entry once restored."""

    def __init__(self, rules: Rules, seed: int) -> None:
        self._rules = rules
        self._random = random.Random(seed)  # noqa: S311 - jitter and keys of idempotency, no secrets
        self._jobs: dict[str, JobRecord] = {}  # all but those that are done
        self._done_jobs: dict[str, JobRecord] = {}  # in order of their end
        self._ended: dict[str, Ended] = {}
        self._draft = do.Draft()
        self._crew = Crew(rules, self._random, self._draft)
        self._polls = Polls(rules, self._random, self._draft)
        self._statements = Statements(rules, self._random)
        self._leases = Leases(self._statements, self._draft)
        self._draining = False
        self._finished: Counter[str] = Counter()

    def restore(self, records: Iterable[JobRecord], ended: dict[str, Ended], poll_key: str | None) -> None:
        """Go on from what the journal holds: whatever ran is taken over by a new worker, in its place."""
        for record in sorted(records, key=lambda r: (r.done_ms, r.received_ms)):
            if record.state is JobState.DONE:
                self._done_jobs[record.job_id] = record.but(place=None)
            elif record.state is JobState.RUNNING:
                self._jobs[record.job_id] = record.but(state=JobState.READY)
            elif record.state is not JobState.READY:  # nobody cleans up its last place any more: the reaper will
                self._jobs[record.job_id] = record.but(place=None)
            else:
                self._jobs[record.job_id] = record
        self._ended.update(ended)
        self._polls.restore(poll_key)

    def handle(self, event: on.Event, now: on.Now) -> do.Step:
        """What this event leads to."""
        self._apply(event, now)
        self._decide(now)
        return self._draft.finished()

    def next_due_s(self, now: on.Now) -> float:
        """When (monotonic) a Tick is due at the latest."""
        due = min(now.mono_s + _TICK_S, self._statements.next_due_s(now.mono_s))
        if (poll_s := self._polls.next_due_s(now.mono_s)) is not None:
            due = min(due, poll_s)
        for record in self._jobs.values():
            if record.state is JobState.WAITING and record.place is None:
                due = min(due, now.mono_s + max(0.01, (record.retry_at_ms - now.unix_ms) / 1000))
        return due

    def job(self, job_id: str) -> JobRecord | None:
        """What is known of a job."""
        return self._jobs.get(job_id) or self._done_jobs.get(job_id)

    def jobs(self) -> tuple[JobRecord, ...]:
        """All jobs for which something is still to be done."""
        return tuple(self._jobs.values())

    def counts(self) -> dict[str, int]:
        """Jobs by their state, and since our start by how they ended (`completed`, `failed`, `timeout`, `cancelled`)."""
        return dict(Counter(record.state.value for record in self._jobs.values()) + self._finished)

    def workers(self) -> tuple[Worker, ...]:
        """All workers that are known."""
        return tuple(self._crew)

    def places(self) -> frozenset[str]:
        """The places that belong to somebody; any other of this installation may be removed."""
        known = (*self._jobs.values(), *self._done_jobs.values())
        return frozenset(record.place for record in known if record.place is not None)

    # --- events ------------------------------------------------------------------------------------------------------

    def _apply(self, event: on.Event, now: on.Now) -> None:
        match event:
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
                    self._put(record.but(lease=lease))
                    self._leases.given(job_id, lease, now)
                    self._obey(job_id, next_action, now)
            case on.LeaseLost(job_id, reason):
                self._leases.answered(job_id)
                self._lose(job_id, reason, now)
            case on.LeaseUnanswered(job_id):
                self._leases.answered(job_id)
                if job_id in self._jobs:
                    self._leases.again(job_id, now)
            case on.CancelRequested(job_id):
                self._cancel(job_id, now)
            case on.WorkerIsReady(name):
                self._crew.ready(name)
            case on.WorkerBeats(name, memory_bytes):
                self._crew.beats(name, memory_bytes)
            case on.WorkerIsIdle(_, job_id, generation):
                if self._crew.idle(event, now):
                    self._leave_place(job_id, generation)
            case on.WorkerSaw(name, places):
                known = self.places()
                self._draft.actions.append(do.RemoveAt(name, tuple(place for place in places if place not in known)))
            case on.WorkerHasTidied(name):
                self._crew.tidied(name)
            case on.WorkerDied():
                self._worker_died(event, now)
            case on.AttemptSaid():
                if self._runs(event.worker, event.job_id, event.generation):
                    self._statements.status(event.job_id, event.status, event.percentage, event.message)
            case on.AttemptOver():
                self._attempt_over(event, now)
            case on.StreamerIsReady():
                for worker in self._crew:
                    if worker.job_id is not None and self._runs(worker.name, worker.job_id, worker.generation):
                        self._announce(self._jobs[worker.job_id], worker.name)
                self._statements.summaries_lost()
                self._forget_again(now)
            case on.SummaryHeard(summary):
                record = self._jobs.get(summary.job_id)
                if record is not None and record.state is JobState.ENDED:
                    self._statements.summary(summary)
            case on.DrainRequested():
                self._draining = True
            case on.CancelAll(at_once):
                self._draining = True
                for job_id in list(self._jobs):
                    self._cancel(job_id, now)
                    record = self._jobs.get(job_id)
                    if at_once and record is not None and record.state is JobState.RUNNING:
                        self._cancel_at_worker(record)  # the second word to a worker means SIGKILL
            case on.Tick():
                pass

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
        known = self.job(job.job_id)
        if known is not None and known.lost and (known.state is not JobState.DONE or known.place is not None):
            self._draft.note("info", "delivered again while it is still being stopped here: left to come once more", job.job_id)
            return
        self._done_jobs.pop(job.job_id, None)
        if known is not None and (not known.lost or job.job_id in self._ended):
            self._draft.note("info", "delivered again", job.job_id, state=known.state.value)
            state = JobState.ENDED if known.state is JobState.DONE else known.state
            self._put(known.but(state=state, acknowledged=False, delivered_ms=now.unix_ms, lost=False, set_aside=None, done_ms=0))
            return
        record = JobRecord(job.job_id, job.priority, now.unix_ms, now.unix_ms, retry=job.retry)
        if known is not None:  # lost to another host once, now ours again: numbers must go on, generations fence
            record = record.but(generation=known.generation, attempt=known.attempt)
        self._jobs[job.job_id] = record
        self._draft.writes.append(do.PutJob(record, job.payload))
        if job.refusal is not None:
            self._end(record, job.refusal, now)

    def _taken(self, event: on.Taken, now: on.Now) -> None:
        record, kind = self._jobs.get(event.job_id), self._statements.taken(event.job_id, event.key)
        if record is None or kind is None:
            return
        if kind == "acknowledge":
            self._acknowledged(record, event, now)
        elif kind == "complete":
            self._done(record, now)
            return
        self._obey(event.job_id, event.next_action, now)

    def _acknowledged(self, record: JobRecord, event: on.Taken, now: on.Now) -> None:
        epoch = max(event.epoch or 0, record.epoch)
        changed = record.but(acknowledged=True, lease=event.lease or record.lease)
        if event.lease is not None:
            self._leases.given(record.job_id, event.lease, now)
        if record.state is JobState.RECEIVED or epoch > record.epoch:
            changed = changed.but(epoch=epoch, next_sequence=event.next_sequence or record.next_sequence)
        if epoch > record.epoch and record.generation:
            if record.place is not None and record.state in ACTIVE:  # its output cannot move from one epoch to another
                self._lose(record.job_id, "another host had it in between", now)
                return
            self._draft.actions.append(do.ForgetOutput(record.job_id, record.epoch))
        self._put(changed.but(state=JobState.READY) if record.state is JobState.RECEIVED else changed)

    def _refused(self, event: on.Refused, now: on.Now) -> None:
        record, kind = self._jobs.get(event.job_id), self._statements.taken(event.job_id, event.key)
        if record is None or kind is None:
            return
        self._draft.note("error", f"{kind} refused for good", event.job_id, error=event.reason)
        if kind == "complete":
            self._done(record.but(set_aside=event.reason, lost=event.gone), now)
        elif event.gone or kind == "acknowledge":
            self._lose(event.job_id, event.reason, now)

    def _obey(self, job_id: str, next_action: str | None, now: on.Now) -> None:
        record = self._jobs.get(job_id)
        if record is None:
            return
        if next_action == "cancel":
            self._cancel(job_id, now)
        elif next_action == "retry" and record.state in (JobState.RUNNING, JobState.READY) and not record.extra_attempts:
            self._put(record.but(extra_attempts=1))

    def _cancel(self, job_id: str, now: on.Now) -> None:
        record = self._jobs.get(job_id)
        if record is None or record.cancelled or record.state is JobState.ENDED:
            return
        record = self._put(record.but(cancelled=True))
        if record.state is JobState.RUNNING:
            self._cancel_at_worker(record)
        elif record.place is None or record.state is JobState.WAITING:
            self._end(record, _cancelled(now), now)
        # else: a place without a worker; it is cancelled as soon as a worker has taken it over

    def _lose(self, job_id: str, reason: str, now: on.Now) -> None:
        """Another host has the job: stop it here, report nothing."""
        record = self._jobs.get(job_id)
        if record is None or record.lost:
            return
        self._draft.note("warning", "job lost to another host", job_id, error=reason)
        record = self._put(record.but(lost=True))
        if record.state is JobState.RUNNING:
            for _ in range(2):  # at once: somebody else is doing the work
                self._cancel_at_worker(record)
        elif record.place is None or record.state in (JobState.WAITING, JobState.ENDED):
            self._done(record, now)

    def _worker_died(self, event: on.WorkerDied, now: on.Now) -> None:
        worker = self._crew.died(event, now)
        if worker is None or worker.job_id is None:
            return
        record = self._jobs.get(worker.job_id)
        if record is None or record.generation != worker.generation or record.state is not JobState.RUNNING:
            self._leave_place(worker.job_id, worker.generation)  # what it had not yet removed is the reaper's
            self._crew.tidy_soon(now)
            return
        record = self._put(record.but(state=JobState.READY, deaths=record.deaths + 1))
        if record.deaths > self._rules.max_worker_deaths:
            outcome = _cancelled(now) if record.cancelled else _worker_lost(record.deaths, event.reason, now)
            self._crew.tidy_soon(now)
            self._end(record.but(place=None), outcome, now)

    def _attempt_over(self, event: on.AttemptOver, now: on.Now) -> None:
        if not self._crew.holds(event.worker, event.job_id, event.generation):
            return
        if self._runs(event.worker, event.job_id, event.generation):
            record = self._jobs[event.job_id]
            decision = decide_retry(record, event.outcome)
            if record.lost:
                self._done(record, now)
            elif decision.again:
                extra = max(0, record.extra_attempts - 1)
                due_ms = now.unix_ms + round(decision.after_s * 1000)
                self._put(record.but(state=JobState.WAITING, retry_at_ms=due_ms, extra_attempts=extra, deaths=0))
                self._draft.note("info", "attempt failed, another follows", event.job_id, after_s=decision.after_s)
            else:
                self._end(record, event.outcome, now)
        self._draft.actions.append(do.SettleAt(event.worker, event.job_id, event.generation))

    # --- changes of a job --------------------------------------------------------------------------------------------

    def _leave_place(self, job_id: str, generation: int) -> None:
        """The place of an attempt that is over belongs to nobody any more."""
        record = self.job(job_id)
        if record is None or record.generation != generation or record.place is None:
            return
        if record.state is JobState.DONE:
            self._done_jobs[job_id] = record.but(place=None)
            self._draft.writes.append(do.PutJob(self._done_jobs[job_id]))
        else:
            self._put(record.but(place=None))

    def _put(self, record: JobRecord) -> JobRecord:
        self._jobs[record.job_id] = record
        self._draft.writes.append(do.PutJob(record))
        return record

    def _end(self, record: JobRecord, outcome: Outcome, now: on.Now) -> None:
        """The job has its last outcome; the report is owed from now on."""
        if record.lost:
            self._done(record, now)
            return
        ended = Ended(max(record.attempt, 1), outcome)
        self._ended[record.job_id] = ended
        self._put(record.but(state=JobState.ENDED))
        self._draft.writes.append(do.PutEnded(record.job_id, ended))

    def _done(self, record: JobRecord, now: on.Now) -> None:
        """Nothing more is owed for this job. What it gave back was taken; only how it ended is kept."""
        self._jobs.pop(record.job_id, None)
        record = record.but(state=JobState.DONE, done_ms=now.unix_ms, lease=None)
        self._done_jobs[record.job_id] = record
        self._draft.writes.append(do.PutJob(record))
        if ended := self._ended.get(record.job_id):
            ended = Ended(ended.attempt, replace(ended.outcome, results=Results()))
            self._ended[record.job_id] = ended
            self._draft.writes.append(do.PutEnded(record.job_id, ended))
            self._finished[ended.outcome.status] += 1
        self._statements.forget(record.job_id)
        self._leases.forget(record.job_id)
        self._draft.actions.append(do.ForgetOutput(record.job_id, record.epoch))

    def _forget_again(self, now: on.Now) -> None:
        """Tell a new streamer which jobs are over: what its predecessor was told may not have reached it."""
        for record in reversed(self._done_jobs.values()):
            if now.unix_ms - record.done_ms > _FORGET_AGAIN_MS:
                return
            self._draft.actions.append(do.ForgetOutput(record.job_id, record.epoch))

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
        self._wake_waiting(now)
        self._dispatch()
        self._crew.tidy(now)
        self._crew.keep(self._wanted_workers(), now)
        self._leases.renew(self._jobs.values(), now)
        self._draft.actions.extend(self._statements.due(self._jobs, self._ended, now, self._crew.busy()))
        active = sum(1 for record in self._jobs.values() if record.state in ACTIVE)
        # Not while too many reports wait for a backend that takes none.
        allowed = not self._draining and len(self._jobs) < self._rules.most_jobs
        self._polls.ask(self._rules.max_concurrent - active, now, allowed=allowed)
        self._prune(now)
        if self._draining and not self._jobs and not self._crew.busy():
            self._draft.actions.append(do.Exit())

    def _wake_waiting(self, now: on.Now) -> None:
        for record in list(self._jobs.values()):
            if record.state is JobState.WAITING and record.retry_at_ms <= now.unix_ms and record.place is None:
                self._put(record.but(state=JobState.READY))

    def _dispatch(self) -> None:
        """Give ready jobs to idle workers: what already has a place first, then by priority, then in order of arrival."""
        ready = [r for r in self._jobs.values() if r.state is JobState.READY]
        if not ready:
            return
        running = self._crew.busy()
        idle = [worker for worker in self._crew if worker.idle()]
        ready.sort(key=lambda r: (r.place is None, -r.priority, r.received_ms))
        for record, worker in zip(ready, idle, strict=False):
            if record.place is None and running >= self._rules.max_concurrent:
                break
            running += 1
            self._give(record, worker.name)

    def _give(self, record: JobRecord, worker: str) -> None:
        adopt = record.place is not None
        attempt = record.attempt if adopt else record.attempt + 1
        place = record.place or place_name(self._rules.installation, record.job_id, attempt)
        fresh = record.generation == 0 and record.next_sequence <= 1
        record = self._put(record.but(state=JobState.RUNNING, attempt=attempt, generation=record.generation + 1, place=place))
        self._crew.give(worker, record.job_id, record.generation)
        if not adopt:
            self._statements.new_attempt(record.job_id)
        self._announce(record, worker)
        self._draft.actions.append(
            do.DispatchTo(worker, record.job_id, attempt, record.generation, record.epoch, place, fresh=fresh, adopt=adopt)
        )
        for _ in range(2 if record.lost else int(record.cancelled)):
            self._cancel_at_worker(record)

    def _wanted_workers(self) -> int:
        """One for each slot, and for each place that is to be taken over; while draining only as many as there is work for."""
        wanted = self._rules.max_concurrent
        if len(self._jobs) > wanted:
            wanted = max(wanted, sum(1 for r in self._jobs.values() if r.place is not None and r.state in ACTIVE))
        wanted += self._rules.spare_workers
        if self._draining:
            return min(wanted, sum(1 for r in self._jobs.values() if r.state is not JobState.ENDED))
        return wanted

    def _prune(self, now: on.Now) -> None:
        """Forget the oldest of those that are done: too old, or too many."""
        oldest_ms = now.unix_ms - self._rules.keep_done_s * 1000
        while self._done_jobs:
            record = next(iter(self._done_jobs.values()))
            if record.done_ms >= oldest_ms and len(self._done_jobs) <= self._rules.keep_done_jobs:
                return
            del self._done_jobs[record.job_id]
            self._ended.pop(record.job_id, None)
            self._draft.writes.append(do.ForgetJob(record.job_id))


def _cancelled(now: on.Now) -> Outcome:
    error = ExecutionError(Reason.CANCELLED, "cancelled before it was started").report()
    return Outcome("cancelled", None, error, now.unix_ms, now.unix_ms)


def _worker_lost(deaths: int, reason: str, now: on.Now) -> Outcome:
    error = ExecutionError(
        Reason.WORKER_LOST,
        f"{deaths} workers died while they ran this job, the last one: {reason}. See the supervisor's log; "
        "jobs.maxWorkerDeaths says how many are allowed",
        deaths=deaths,
    ).report()
    return Outcome("failed", None, error, now.unix_ms, now.unix_ms)
