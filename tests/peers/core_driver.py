"""Hands events to a core and keeps what it wanted: for tests of single transitions."""

from __future__ import annotations

import math
from typing import Any, TypeVar

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome, Position, Summary
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.core import Core
from cronium.supervisor.core.decisions import PollRules
from cronium.supervisor.core.rules import Rules
from cronium.supervisor.core.state import Ended, JobRecord, JobState, Lease, RetryRule

A = TypeVar("A")
_UNIX_MS = 1_700_000_000_000


def rules(**changes: object) -> Rules:
    given: dict[str, object] = {
        "installation": "test",
        "polls": PollRules(1.0, 30.0, 0.0),
        "batch_size": 10,
        "max_concurrent": 2,
        "spare_workers": 1,
        "recycle_after_jobs": 100,
        "recycle_above_bytes": 1 << 30,
        "worker_start_s": 10.0,
        "max_worker_deaths": 2,
        "status_interval_s": 2.0,
        "retry_first_s": 1.0,
        "retry_longest_s": 8.0,
        "tidy_interval_s": 1e9,
    }
    return Rules(**{**given, **changes})  # type: ignore[arg-type]


def outcome(status: str = "completed", reason: Reason | None = None) -> Outcome:
    return Outcome(status, 0, None if reason is None else ExecutionError(reason, "m").report(), 1, 2)


def summary(job_id: str = "a", epoch: int = 1) -> Summary:
    return Summary(job_id, epoch, Position(), 1, b"", b"", truncated=False)


class Driver:
    """A core, its time, and what survives it: `records`, `ended` and `poll_key` as a journal would have them."""

    def __init__(self, roles: tuple[str, ...] = (), **changes: object) -> None:
        self.rules = rules(**changes)
        self.roles = roles
        self.now_s = 100.0
        self._clock_ms = _UNIX_MS
        self.records: dict[str, JobRecord] = {}
        self.ended: dict[str, Ended] = {}
        self.poll_key: str | None = None
        self.actions: list[do.Action] = []
        self._seed = 0
        self.restart()

    def restart(self) -> None:
        """A new supervisor, from the journal."""
        self._seed += 1
        self.core = Core(self.rules, self._seed, self.roles)
        self.core.restore(tuple(self.records.values()), dict(self.ended), self.poll_key, self.now().unix_ms)

    def now(self) -> on.Now:
        return on.Now(self.now_s, self._clock_ms + round(self.now_s * 1000))

    def set_clock(self, by_ms: int) -> None:
        """Somebody sets the Unix clock."""
        self._clock_ms += by_ms

    def give(self, event: on.Event, *, after_s: float = 0.0) -> do.Step:
        """Hand over an event, keep the writes; what it wants done is in `actions`."""
        self.now_s += after_s
        step = self.core.handle(event, self.now())
        for write in step.writes:
            match write:
                case do.PutJob(record):
                    self.records[record.job_id] = record
                case do.PutEnded(job_id, ended):
                    self.ended[job_id] = ended
                case do.ForgetJob(job_id):
                    del self.records[job_id]
                case do.PutPollKey(key):
                    self.poll_key = key
        self.actions = list(step.actions)
        return step

    def tick(self, after_s: float = 1.0) -> do.Step:
        return self.give(on.Tick(), after_s=after_s)

    def wanted(self, kind: type[A]) -> list[A]:
        """Actions of a kind that the last event led to."""
        return [action for action in self.actions if isinstance(action, kind)]

    def one(self, kind: type[A]) -> A:
        """The one action of a kind that the last event led to."""
        (action,) = self.wanted(kind)
        return action

    def state(self, job_id: str = "a") -> JobState:
        """Where a job is, as the journal has it."""
        return self.records[job_id].state

    def look(self, after_s: float = 1.0) -> None:
        """The loop looks after everybody each second; what it wants done in all of that is in `actions`."""
        wanted: list[do.Action] = []
        for _ in range(math.ceil(after_s)):
            self.give(on.Looked(self.core.mute()), after_s=1.0)
            wanted += self.actions
        self.actions = wanted

    # --- usual ways --------------------------------------------------------------------------------------------------

    def start_workers(self) -> None:
        self.tick()
        for action in self.wanted(do.StartWorker):
            self.ready(action.name)

    def ready(self, worker: str) -> None:
        """A worker is ready; if it is to tidy up, it has done so at once."""
        self.give(on.WorkerIsReady(worker))
        if self.wanted(do.TidyAt):
            self.give(on.WorkerHasTidied(worker))

    def deliver(
        self, *job_ids: str, retry: RetryRule | None = None, refusal: Outcome | None = None, servers: tuple[str, ...] = ()
    ) -> None:
        """The queue brings jobs."""
        assert self.poll_key is not None
        jobs = tuple(on.QueuedJob(job_id, b"payload", 5, retry or RetryRule(), refusal, servers) for job_id in job_ids)
        self.give(on.Polled(self.poll_key, jobs))

    def take(self, action: do.Acknowledge | do.SayStatus | do.SayComplete, *, epoch: int = 1, **more: object) -> None:
        """The backend takes a statement."""
        lease = Lease(f"token-{epoch}", self.now().unix_ms + 60_000)
        if isinstance(action, do.Acknowledge):
            self.give(on.Taken(action.job_id, action.key, lease=lease, epoch=epoch, next_sequence=1))
        else:
            self.give(on.Taken(action.job_id, action.key, **more))  # type: ignore[arg-type]

    def run(self, job_id: str = "a", retry: RetryRule | None = None, servers: tuple[str, ...] = ()) -> do.DispatchTo:
        """A job comes, is acknowledged and given to a worker."""
        self.start_workers()
        self.bring(job_id, retry=retry, servers=servers)
        return self.one(do.DispatchTo)

    def bring(self, job_id: str, retry: RetryRule | None = None, servers: tuple[str, ...] = ()) -> None:
        """A job comes and is acknowledged."""
        if self.poll_key is None:
            self.tick(after_s=40)
        self.deliver(job_id, retry=retry, servers=servers)
        self.take(self.one(do.Acknowledge))

    def end(self, order: do.DispatchTo, ended: Outcome | None = None) -> None:
        """An attempt is over."""
        self.give(on.AttemptOver(order.worker, order.job_id, order.generation, ended or outcome()))

    def idle(self, order: do.DispatchTo, memory_bytes: int = 0, *, removed: bool = True) -> None:
        """Its worker has removed the place, or could not."""
        self.give(on.WorkerIsIdle(order.worker, order.job_id, order.generation, memory_bytes, removed))

    def park(self, order: do.DispatchTo, *, begun: bool, give_up_s: float = 600.0, **more: Any) -> None:
        """Its worker cannot get to the server of its place, and lets go of it."""
        server = self.records[order.job_id].servers[0]
        error = ExecutionError(Reason.UNREACHABLE, "no answer").report()
        give_up_ms = self.now().unix_ms + round(give_up_s * 1000)
        self.give(on.AttemptParked(order.worker, order.job_id, order.generation, server, error, give_up_ms, begun, **more))

    def reached(self, server: str, *, reached: bool = True) -> None:
        """A worker tried to get to a server."""
        self.give(on.ServerSeen("worker-1", server, reached, "" if reached else "no route"))
