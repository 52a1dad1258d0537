"""Everything that can happen, as the core sees it. Frozen values; the loop makes them, the core only reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

from cronium.common.errors import ErrorReport
from cronium.common.messages import Outcome, Results, ServerOutcome, Slot, Summary
from cronium.supervisor.core.state import Lease, RetryRule


@dataclass(frozen=True, slots=True)
class Now:
    """The time of an event: a monotonic clock for durations, Unix time for what is written down."""

    mono_s: float
    unix_ms: int


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job as it was polled. `refusal`: why it cannot be run, when it is no job that can. `servers`: see `Server.key`."""

    job_id: str
    payload: bytes
    priority: int
    retry: RetryRule
    refusal: Outcome | None = None
    servers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Polled:
    """The queue answered. `took_s` how long it took; `next_after_s` when the backend wants to be asked again."""

    key: str
    jobs: tuple[QueuedJob, ...]
    cancelled: tuple[str, ...] = ()
    took_s: float = 0.0
    next_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class PollFailed:
    """The queue did not answer: the same key is asked again, after `retry_after_s` at the earliest."""

    key: str
    reason: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """The backend took a statement about a job. What it said in return, as far as it said something."""

    job_id: str
    key: str
    next_action: str | None = None
    lease: Lease | None = None
    epoch: int | None = None
    next_sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The backend will never take this statement. `gone`: because the job is not ours (any more)."""

    job_id: str
    key: str
    reason: str
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A statement did not get through; it is made again, after `retry_after_s` at the earliest."""

    job_id: str
    key: str
    reason: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class LeaseRenewed:
    """A new lease for a job, perhaps with an order in the same answer."""

    job_id: str
    lease: Lease
    next_action: str | None = None


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """Another host has the job, or it is no more."""

    job_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeaseUnanswered:
    """A renewal did not get through."""

    job_id: str


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The backend or a person wants the job to end."""

    job_id: str


@dataclass(frozen=True, slots=True)
class WorkerIsReady:
    """A worker has started."""

    worker: str


@dataclass(frozen=True, slots=True)
class Beats:
    """A worker, the streamer or the monitor says its counter, which only its main loop raises, and what it knows of its RSS."""

    name: str
    progress: int
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Looked:
    """Everything that was said has been heard, and the mute were looked at: these are there, and not stopped (`Vitals`)."""

    awake: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoleStarted:
    """The forkserver, the streamer, the monitor or the queue runs."""

    role: str


@dataclass(frozen=True, slots=True)
class RoleDied:
    """It is gone, or could not be started. Of the forkserver it is said before the deaths of all that die with it."""

    role: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerIsIdle:
    """A worker has let go of its job. `removed`: and its place is gone."""

    worker: str
    job_id: str
    generation: int
    memory_bytes: int
    removed: bool = True


@dataclass(frozen=True, slots=True)
class WorkerSaw:
    """A worker has looked: these places are there."""

    worker: str
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerHasTidied:
    """A worker has removed what was left behind."""

    worker: str


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """A worker process is gone (seen by the kernel, never guessed), or could not be started."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class AttemptSaid:
    """A worker's word on its attempt: `preparing` or `running`, progress."""

    worker: str
    job_id: str
    generation: int
    status: str | None = None
    percentage: float | None = None
    message: str | None = None
    place: str = ""


@dataclass(frozen=True, slots=True)
class AttemptOver:
    """An attempt has ended, its last line is durable."""

    worker: str
    job_id: str
    generation: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class AttemptParked:
    """An attempt waits on a server that cannot be reached, everything read of it is durable. See the message of that name."""

    worker: str
    job_id: str
    generation: int
    server: str
    error: ErrorReport
    give_up_ms: int
    begun: bool
    touched: bool = True
    finished: tuple[ServerOutcome, ...] = ()
    missing: tuple[ServerOutcome, ...] = ()
    results: Results = field(default_factory=Results)


@dataclass(frozen=True, slots=True)
class WorkerIsConnected:
    """All servers that a worker has a connection to, and where launchers wait."""

    worker: str
    servers: tuple[str, ...]
    slots: tuple[Slot, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerSeen:
    """A worker has tried to get to a server: whether it answered, or why not."""

    worker: str
    server: str
    reached: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LeftoversCleaned:
    """A worker has tried to remove what is left of a job; these places are gone."""

    worker: str
    job_id: str
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StreamerIsReady:
    """A streamer has started; it knows nothing of who may write."""


@dataclass(frozen=True, slots=True)
class SummaryHeard:
    """What `complete` needs to know of a job's output."""

    summary: Summary


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """Take no new jobs; be done when those that are here are done."""


@dataclass(frozen=True, slots=True)
class CancelAll:
    """End every job that is here; `at_once`: without its grace."""

    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    Polled
    | PollFailed
    | Taken
    | Refused
    | Unanswered
    | LeaseRenewed
    | LeaseLost
    | LeaseUnanswered
    | CancelRequested
    | WorkerIsReady
    | Beats
    | Looked
    | RoleStarted
    | RoleDied
    | WorkerIsIdle
    | WorkerSaw
    | WorkerHasTidied
    | WorkerDied
    | AttemptSaid
    | AttemptOver
    | AttemptParked
    | WorkerIsConnected
    | ServerSeen
    | LeftoversCleaned
    | StreamerIsReady
    | SummaryHeard
    | DrainRequested
    | CancelAll
    | Tick
)
