"""What the supervisor knows of a job: one frozen record, which the journal keeps. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from operator import attrgetter

from cronium.common.errors import ErrorReport
from cronium.common.messages import Outcome, Results, ServerOutcome


class JobState(StrEnum):
    """Where a job is. Legal ways: received → ready → running → (waiting → ready | ready | ended) → done.

    `received`: journaled, not yet acknowledged. `ready`: waits for a worker (with a place already when a worker was lost, or
    when it is parked).
    `running`: a worker has it. `waiting`: for its next attempt. `ended`: has its last outcome, which the backend has not taken
    yet. `done`: nothing more is owed to anybody; kept for a while so that it is known when it is delivered again.
    """

    RECEIVED = "received"
    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    ENDED = "ended"
    DONE = "done"


ACTIVE = frozenset({JobState.RECEIVED, JobState.READY, JobState.RUNNING})


@dataclass(frozen=True, slots=True)
class Lease:
    """The backend's promise to leave a job to us until `expires_ms` (Unix)."""

    token: str
    expires_ms: int


@dataclass(frozen=True, slots=True)
class RetryRule:
    """A job's own policy: most attempts, and seconds between them."""

    max_attempts: int = 1
    exponential: bool = True
    delay_s: float = 5.0


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job. The payload and the last outcome are kept beside it and written once.

    `attempt` and `generation` count from 1 once dispatched (0 before). `place` is the name of the current attempt's place, None
    when there is none. `deaths`: workers lost in this attempt in a row, each soon after it got the job. `extra_attempts`: asked
    for by the backend. `lost`: another host has the job, so no report is owed. `delivered_ms`: when the queue last brought it;
    `acknowledged`: the backend knows that we have it since then. `set_aside`: why the backend refused its report for good.
    `placed_ms`: when its place was named; `owed_ms`: since when its report is owed, 0 when none is.

    Jobs on servers: `servers` are the keys of the connections it needs (`Server.key`). `begun`: the current attempt's script is
    known to have been started, also in a container, by its first renewal (`begun_at`: in which of several places).
    `parked`: its server cannot be reached, so it waits there without a worker; how it ends if
    nobody gets there until `give_up_ms` (Unix). `waits_for`: why it does not run, for people; not written down with each
    change. `leftovers`: places that could not be removed.
    Of several servers: `finished` are those on which an earlier attempt has succeeded, or this one is over, with what they gave
    back in this one (`results`); `missing`, while it is parked, the others, each with its end if nobody gets there.
    """

    job_id: str
    priority: int
    received_ms: int
    delivered_ms: int = 0
    state: JobState = JobState.RECEIVED
    retry: RetryRule = RetryRule()
    epoch: int = 1
    next_sequence: int = 1
    lease: Lease | None = None
    acknowledged: bool = False
    attempt: int = 0
    generation: int = 0
    place: str | None = None
    deaths: int = 0
    extra_attempts: int = 0
    retry_at_ms: int = 0
    cancelled: bool = False
    lost: bool = False
    done_ms: int = 0
    set_aside: str | None = None
    servers: tuple[str, ...] = ()
    begun: bool = False
    begun_at: tuple[str, ...] = ()
    parked: ErrorReport | None = None
    give_up_ms: int | None = None
    waits_for: str | None = field(default=None, compare=False)
    leftovers: tuple[str, ...] = ()
    finished: tuple[ServerOutcome, ...] = ()
    missing: tuple[ServerOutcome, ...] = ()
    results: Results | None = None
    placed_ms: int = 0
    owed_ms: int = 0

    def but(self, **changes: object) -> JobRecord:
        """The same with some fields changed."""
        return JobRecord(**{**dict(zip(_FIELDS, _values(self), strict=True)), **changes})

    def without_place(self) -> JobRecord:
        """Nobody is there to remove its place: the reaper finds a container, a directory on a server has to be remembered."""
        if self.place is None:
            return self
        return self.but(place=None, leftovers=(*self.leftovers, self.place) if self.servers else self.leftovers)

    def is_unclean(self) -> bool:
        """Whether its payload is still needed to get to what is left of it on servers."""
        return bool(self.leftovers) or (bool(self.servers) and self.place is not None)


_FIELDS = tuple(each.name for each in fields(JobRecord))
_values = attrgetter(*_FIELDS)  # a third quicker than dataclasses.replace: each event makes a record or two


@dataclass(frozen=True, slots=True)
class Worker:
    """What is known of a worker process. `job_id` and `generation` while it has a job, `ready` once it has said so.

    `due_s` (monotonic): when it is to be ready, or to be gone, at the latest. `ready_s`: when it became ready, infinite before;
    `given_s`: when it got its job. `tidied_s`: when it last looked for leftovers.
    """

    name: str
    number: int
    due_s: float
    ready: bool = False
    ready_s: float = math.inf
    retiring: bool = False
    job_id: str | None = None
    generation: int = 0
    given_s: float = 0.0
    tidying: bool = False
    tidied_s: float = 0.0
    jobs_done: int = 0
    memory_bytes: int = 0

    def idle(self) -> bool:
        """Whether it can take a job now."""
        return self.ready and not self.retiring and not self.tidying and self.job_id is None


@dataclass(frozen=True, slots=True)
class Ended:
    """A terminal outcome with the number of the attempt it belongs to, as it is owed to the backend.

    What the job gave back is in the journal only, until the report is taken; in memory there is `results_bytes`, how much it is.
    """

    attempt: int
    outcome: Outcome
    results_bytes: int = 0

    def without_results(self) -> Ended:
        """As it is kept in memory."""
        size = self.results_bytes or self.outcome.results.size()
        return Ended(self.attempt, replace(self.outcome, results=Results()), size)
