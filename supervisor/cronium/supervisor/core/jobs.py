"""All jobs that are known, and every change of one: each is a write of the same step. Pure; part of the core.

Nobody else changes a record. `active` and `ended` are read by others, never changed. `active` is kept by state too: with a
thousand jobs that wait for a backend, an event must not cost a look at each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from cronium.common.messages import Outcome
from cronium.supervisor.core import actions as do
from cronium.supervisor.core.done import DoneJobs
from cronium.supervisor.core.events import Now
from cronium.supervisor.core.leases import Leases
from cronium.supervisor.core.leftovers import Leftovers
from cronium.supervisor.core.parking import Parking
from cronium.supervisor.core.rules import Rules
from cronium.supervisor.core.state import Ended, JobRecord, JobState
from cronium.supervisor.core.statements import Statements

_LOOK_AGAIN_MS = 60_000
_NOT_PARKED: Mapping[str, object] = {"parked": None, "give_up_ms": None, "missing": (), "results": None}


class Jobs:
    """`active`: all for which something is still to be done; `ended`: last outcomes, also of those that are done."""

    def __init__(
        self, rules: Rules, draft: do.Draft, statements: Statements, leases: Leases, parking: Parking, leftovers: Leftovers
    ) -> None:
        self.active: dict[str, JobRecord] = {}
        self.ended: dict[str, Ended] = {}
        self.all_done = DoneJobs(rules, draft, self.ended)
        self._rules = rules
        self._draft = draft
        self._statements = statements
        self._leases = leases
        self._parking = parking
        self._leftovers = leftovers
        self._finished: Counter[str] = Counter()
        self._by_state: dict[JobState, dict[str, JobRecord]] = {state: {} for state in JobState}

    def restore(self, records: Iterable[JobRecord], ended: dict[str, Ended], unix_ms: int) -> None:
        """Go on from what the journal holds: whatever ran waits for a new worker, in its place.

        Nobody could look after what was to be given up meanwhile: a server gets a minute more to answer.
        """
        self.ended.update((job_id, known.without_results()) for job_id, known in ended.items())
        for known in sorted(records, key=lambda r: (r.done_ms, r.received_ms)):
            record = known if known.parked is not None else known.but(waits_for=None)
            if record.state is JobState.RUNNING:
                record = record.but(state=JobState.READY)
            elif record.state is not JobState.READY:  # nobody cleans up its last place any more: the reaper will
                record = record.without_place()
            self._leftovers.note(record)
            if record.state is JobState.DONE:
                self.all_done.restore(record)
                continue
            if record.give_up_ms is not None:
                record = record.but(give_up_ms=max(record.give_up_ms, unix_ms + _LOOK_AGAIN_MS))
            self._leases.restore(record)
            self._keep(record)
            if record.parked is not None:
                self._statements.waits(record.job_id, record.waits_for)

    def get(self, job_id: str) -> JobRecord | None:
        """A job for which something is still to be done."""
        return self.active.get(job_id)

    def in_state(self, *states: JobState) -> list[JobRecord]:
        """Those of `active` that are there, by state, then in the order in which they got there."""
        return [record for state in states for record in self._by_state[state].values()]

    def known(self, job_id: str) -> JobRecord | None:
        """The same, or one that is done."""
        return self.active.get(job_id) or self.all_done.get(job_id)

    def counts(self) -> dict[str, int]:
        """Jobs by their state, and since our start by how they ended (`completed`, `failed`, `timeout`, `cancelled`)."""
        return dict(Counter(record.state.value for record in self.active.values()) + self._finished)

    def owed_bytes(self) -> int:
        """How much of what jobs gave back waits in the journal for their reports to be taken."""
        return sum(self.ended[job_id].results_bytes for job_id in self._by_state[JobState.ENDED])

    def places(self) -> Iterable[str]:
        """The places that belong to a job."""
        known = (*self.active.values(), *self.all_done)
        return (record.place for record in known if record.place is not None)

    # --- changes -----------------------------------------------------------------------------------------------------

    def take_in(self, record: JobRecord, payload: bytes) -> None:
        """A new job, or one that was done or lost and begins anew."""
        self._keep(record)
        self._draft.writes.append(do.PutJob(record, payload))

    def put(self, record: JobRecord) -> JobRecord:
        """The record as it is from now on."""
        self._leftovers.note(record)
        if record.state is JobState.DONE:
            self.all_done.put(record)
        else:
            self._keep(record)
            self._draft.writes.append(do.PutJob(record))
        return record

    def wait_for(self, record: JobRecord, reason: str | None) -> JobRecord:
        """Remember, for people, why it waits; not written down."""
        if reason is not None and record.cancelled:
            reason = f"cancelled; its script is ended as soon as its server can be reached: {reason}"
        if record.waits_for != reason:
            record = self._keep(record.but(waits_for=reason))
            if record.parked is not None:
                self._statements.waits(record.job_id, reason)
        return record

    def move_deadlines(self, by_ms: int) -> None:
        """The Unix clock was set by so much, and every time that is compared with it moves along."""
        for record in self.in_state(JobState.WAITING):
            self.put(record.but(retry_at_ms=record.retry_at_ms + by_ms))
        for record in self.in_state(JobState.READY, JobState.RUNNING):
            give_up_ms = None if record.give_up_ms is None else record.give_up_ms + by_ms
            placed_ms = record.placed_ms and record.placed_ms + by_ms  # older than its server's boot it is only if it was
            if (give_up_ms, placed_ms) != (record.give_up_ms, record.placed_ms):
                self.put(record.but(give_up_ms=give_up_ms, placed_ms=placed_ms))
        self.all_done.move(by_ms)

    def leave_place(self, job_id: str, generation: int, *, removed: bool) -> None:
        """The place of an attempt that is over belongs to nobody any more. A parked job keeps its own."""
        record = self.known(job_id)
        if record is None or record.generation != generation or record.place is None:
            return
        if record.state not in (JobState.READY, JobState.RUNNING):
            self.put(record.but(place=None) if removed else record.without_place())

    def drop_leftovers(self, job_id: str, places: Iterable[str]) -> None:
        """These are gone from their servers."""
        record = self.known(job_id)
        if record is None:
            return
        left = tuple(place for place in record.leftovers if place not in places)
        if left != record.leftovers:
            self.put(record.but(leftovers=left))

    def end(self, record: JobRecord, outcome: Outcome, now: Now) -> None:
        """The job has its last outcome; the report is owed from now on."""
        if record.lost:
            self.done(record, now)
            return
        self._parking.forget(record.job_id)
        # What was over before the job was parked: its worker, if any, knows how it ended, not what it gave back.
        results = outcome.results if record.results is None else record.results.then(outcome.results)
        results = results.within(self._rules.max_results_bytes)  # each part is, but not all together
        outcome = replace(outcome, servers=outcome.servers or record.finished, results=results)
        ended = Ended(max(record.attempt, 1), outcome)
        self.ended[record.job_id] = ended.without_results()
        self.put(record.but(state=JobState.ENDED, waits_for=None, owed_ms=now.unix_ms, **_NOT_PARKED))
        self._draft.writes.append(do.PutEnded(record.job_id, ended))

    def done(self, record: JobRecord, now: Now, *, taken: bool = False) -> None:
        """Nothing more is owed for this job. Once its report was `taken`, only how it ended is kept, else also what it gave
        back: it may be delivered again.
        """
        self._parking.forget(record.job_id)
        if (before := self.active.pop(record.job_id, None)) is not None:
            del self._by_state[before.state][record.job_id]
        record = record.but(state=JobState.DONE, done_ms=now.unix_ms, owed_ms=0, lease=None, **_NOT_PARKED)
        if ended := self.ended.get(record.job_id):
            if taken:
                ended = Ended(ended.attempt, ended.outcome)
                self.ended[record.job_id] = ended
                self._draft.writes.append(do.PutEnded(record.job_id, ended))
            self._finished[ended.outcome.status] += 1
        self.put(record.but(waits_for=None))
        self._statements.forget(record.job_id)
        self._leases.forget(record.job_id)
        self._draft.actions.append(do.ForgetOutput(record.job_id, record.epoch))

    def prune(self, now: Now) -> None:
        """Forget what was done long ago."""
        for job_id in self.all_done.prune(now):
            self.ended.pop(job_id, None)
            self._leftovers.forget(job_id)

    def _keep(self, record: JobRecord) -> JobRecord:
        before = self.active.get(record.job_id)
        if before is not None and before.state is not record.state:
            del self._by_state[before.state][record.job_id]
        self.active[record.job_id] = self._by_state[record.state][record.job_id] = record
        return record
