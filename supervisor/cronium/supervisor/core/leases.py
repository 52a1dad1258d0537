"""When leases are renewed. Pure; part of the core."""

from __future__ import annotations

from collections.abc import Iterable

from cronium.supervisor.core import actions as do
from cronium.supervisor.core.events import Now
from cronium.supervisor.core.state import JobRecord, Lease
from cronium.supervisor.core.statements import Statements

_RENEW_AT = 2 / 3  # of a lease's remaining life when it was given: two more tries fit before it runs out
_LOOK_EVERY_S = 0.2  # between two looks at all leases
_MOST_S = 20.0  # of the minute that we ask for: where the backend's clock is far ahead of ours, a lease seems to last for hours
_LONGEST_MS = 60_000  # what we ask for: one that seems to last longer is told by a clock that is wrong
_LEAST_S = 1.0  # also where the backend's clock is so far behind ours that each lease seems to have run out


class Leases:
    """The renewals of all jobs; at most one a job is on its way.

    While we were away a lease may have run out, and another host may have claimed the job: what had not begun then begins only
    after the backend has said that it is still ours, however long it takes to answer. What had begun goes on at once.
    """

    def __init__(self, statements: Statements, draft: do.Draft) -> None:
        self._statements = statements
        self._draft = draft
        self._at_s: dict[str, float] = {}
        self._on_way: set[str] = set()
        self._look_at_s = 0.0
        self._unheard: set[str] = set()  # since our start, of those that were here before

    def restore(self, record: JobRecord) -> None:
        """As the journal has it."""
        if record.lease is not None:
            self._unheard.add(record.job_id)

    def may_begin(self, record: JobRecord, now: Now) -> bool:
        """Whether no other host can have it by now."""
        has_begun = record.place is not None and record.begun
        return has_begun or record.lost or not self._is_in_doubt(record, now)

    def given(self, job_id: str, lease: Lease, now: Now) -> None:
        """A lease, the first or a new one."""
        self.confirmed(job_id)
        self._plan(job_id, lease, now)

    def confirmed(self, job_id: str) -> None:
        """The backend has said that the job is ours."""
        self._unheard.discard(job_id)

    def answered(self, job_id: str) -> None:
        """A renewal is no longer on its way."""
        self._on_way.discard(job_id)

    def again(self, job_id: str, now: Now) -> None:
        """A renewal did not get through."""
        self._at_s[job_id] = now.mono_s + _LEAST_S

    def forget(self, job_id: str) -> None:
        """The job has no lease any more."""
        self._at_s.pop(job_id, None)
        self._on_way.discard(job_id)
        self._unheard.discard(job_id)

    def renew(self, jobs: Iterable[JobRecord], now: Now) -> None:
        """Renew what is due."""
        if now.mono_s < self._look_at_s:
            return
        self._look_at_s = now.mono_s + _LOOK_EVERY_S
        for record in jobs:
            if record.lease is None or record.lost or record.job_id in self._on_way:
                continue
            if record.job_id not in self._at_s:  # after a restart
                if self._is_in_doubt(record, now):
                    self._at_s[record.job_id] = now.mono_s
                else:
                    self._plan(record.job_id, record.lease, now)
            if now.mono_s >= self._at_s[record.job_id]:
                self._on_way.add(record.job_id)
                percentage, message = self._statements.progress(record.job_id)
                self._draft.actions.append(do.RenewLease(record.job_id, record.lease.token, percentage, message))

    def _is_in_doubt(self, record: JobRecord, now: Now) -> bool:
        if record.lease is None or record.job_id not in self._unheard:
            return False
        return not 0 < record.lease.expires_ms - now.unix_ms <= _LONGEST_MS

    def _plan(self, job_id: str, lease: Lease, now: Now) -> None:
        life_s = (lease.expires_ms - now.unix_ms) / 1000
        self._at_s[job_id] = now.mono_s + min(max(life_s * (1 - _RENEW_AT), _LEAST_S), _MOST_S)
