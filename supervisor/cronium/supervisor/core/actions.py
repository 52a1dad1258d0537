"""What the core wants done. Writes go to the journal first, all of a step in one transaction; then the actions, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cronium.common.messages import Outcome, ServerOutcome, Summary
from cronium.supervisor.core.state import Ended, JobRecord

# --- writes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PutJob:
    """The record as it is now; `payload` with a new job."""

    record: JobRecord
    payload: bytes | None = None


@dataclass(frozen=True, slots=True)
class PutEnded:
    """The outcome that is owed to the backend."""

    job_id: str
    ended: Ended


@dataclass(frozen=True, slots=True)
class ForgetJob:
    """A job that nobody will ask for again."""

    job_id: str


@dataclass(frozen=True, slots=True)
class PutPollKey:
    """The key of the poll that is about to be made; None: the last one was answered."""

    key: str | None


Write = PutJob | PutEnded | ForgetJob | PutPollKey

# --- actions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Poll:
    """Ask the queue for at most `limit` jobs; it may take `wait_s` to answer."""

    key: str
    limit: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Tell the backend that the job is in our journal."""

    job_id: str
    key: str


@dataclass(frozen=True, slots=True)
class SayStatus:
    """Tell the backend how a job does."""

    job_id: str
    key: str
    epoch: int
    status: str
    attempt: int
    percentage: float | None
    message: str | None


@dataclass(frozen=True, slots=True)
class SayComplete:
    """Tell the backend how a job ended. What it gave back is in the journal, and added by the loop."""

    job_id: str
    key: str
    epoch: int
    attempt: int
    outcome: Outcome
    summary: Summary


@dataclass(frozen=True, slots=True)
class SayHealth:
    """Tell the backend how we are; made by the loop, answered by nothing."""

    body: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RenewLease:
    """Ask for a longer lease."""

    job_id: str
    token: str
    percentage: float | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Summarize:
    """Ask the streamer for a job's summary."""

    job_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class AnnounceWriter:
    """Tell the streamer which worker may write."""

    job_id: str
    worker: str
    epoch: int
    generation: int
    next_sequence: int


@dataclass(frozen=True, slots=True)
class ForgetOutput:
    """Tell the streamer that nobody will ask for this job's summary again."""

    job_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class WantOutput:
    """Tell a new streamer of which jobs, by epoch, the output will be asked for; it may forget that of all others."""

    jobs: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Fork one more worker."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class StopWorkerProcess:
    """Tell a worker to leave."""

    worker: str


@dataclass(frozen=True, slots=True)
class TidyAt:
    """Have an idle worker look for places that belong to nobody; `starting`: and make ready what jobs will need."""

    worker: str
    starting: bool


@dataclass(frozen=True, slots=True)
class RemoveAt:
    """Of the places it has seen, these belong to nobody."""

    worker: str
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KillWorker:
    """End a worker that does not become ready, or makes no progress."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class StartRole:
    """Start the forkserver, the streamer, the monitor or the queue; the answer is RoleStarted or RoleDied."""

    role: str


@dataclass(frozen=True, slots=True)
class EndRole:
    """End it, so that it is started anew."""

    role: str
    reason: str


@dataclass(frozen=True, slots=True)
class DumpStack:
    """Have a process that makes no progress say where it is, before it is ended."""

    name: str


@dataclass(frozen=True, slots=True)
class DispatchTo:
    """Give a job to a worker."""

    worker: str
    job_id: str
    attempt: int
    generation: int
    epoch: int
    place: str
    fresh: bool
    adopt: bool
    begun: bool = False
    begun_at: tuple[str, ...] = ()
    finished: tuple[ServerOutcome, ...] = ()
    placed_ms: int = 0


@dataclass(frozen=True, slots=True)
class WarmUpAt:
    """Have an idle worker connect to this job's server: more jobs for it are to be expected."""

    worker: str
    job_id: str


@dataclass(frozen=True, slots=True)
class ReleaseAt:
    """Have a worker close unused connections to these servers: a job elsewhere needs their room."""

    worker: str
    servers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CleanUpAt:
    """Have an idle worker remove what is left of a job on its servers."""

    worker: str
    job_id: str
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CancelAt:
    """Tell the worker to end its job."""

    worker: str
    job_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class SettleAt:
    """Tell the worker that the outcome is in the journal."""

    worker: str
    job_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something a person may want to know; goes to the log."""

    level: str
    message: str
    job_id: str | None = None
    details: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Exit:
    """Everything that was to be done is done; or, with another `code` than 0, the level above has to decide (`Intensity`)."""

    code: int = 0
    reason: str = ""


Action = (
    Poll
    | Acknowledge
    | SayStatus
    | SayComplete
    | RenewLease
    | Summarize
    | AnnounceWriter
    | ForgetOutput
    | WantOutput
    | StartWorker
    | StopWorkerProcess
    | TidyAt
    | RemoveAt
    | KillWorker
    | StartRole
    | EndRole
    | DumpStack
    | DispatchTo
    | WarmUpAt
    | ReleaseAt
    | CleanUpAt
    | CancelAt
    | SettleAt
    | Note
    | Exit
)


@dataclass(frozen=True, slots=True)
class Step:
    """What one event leads to."""

    writes: tuple[Write, ...]
    actions: tuple[Action, ...]


@dataclass(slots=True)
class Draft:
    """A step while it is being made; the parts of the core add to it."""

    writes: list[Write] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)

    def note(self, level: str, message: str, job_id: str | None, **details: object) -> None:
        """Add something for the log."""
        self.actions.append(Note(level, message, job_id, tuple(details.items())))

    def finished(self) -> Step:
        """The step; the draft is empty then."""
        step = Step(tuple(self.writes), tuple(self.actions))
        self.writes.clear()
        self.actions.clear()
        return step
