"""Every message between our processes: frozen dataclasses with full words for names.

Who says what to whom stands in the section heads. `wire` packs and unpacks them; nobody sends anything else. Adding a message
means adding a class here and its line in `MESSAGES`; a changed shape means a new `wire.VERSION`.

Positions. The streamer is the authority on how far a job's output is. A `Position` says it completely: the next sequence
number, the sums over each stream since the job's first line of this epoch (over all attempts), and how far each file of each
place has been consumed. Workers compute it, the streamer stores it with every batch and says it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cronium.common.errors import ErrorReport

# --- values that several messages carry ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StreamTotals:
    """Sums over the lines of one stream as they were sent.

    `lines`: lines, one in pieces counts once, when it ends. `bytes` and `crc32`: over the UTF-8 text of the entries, with a
    `\\n` after each line's end (none after a piece that is `continued`).
    """

    lines: int = 0
    bytes: int = 0
    crc32: int = 0


@dataclass(frozen=True, slots=True)
class FileMark:
    """How far one file of a place has been consumed: `offset` in bytes; `inside` an unfinished line whose start was sent."""

    place: str
    stream: str
    offset: int
    inside: bool = False


@dataclass(frozen=True, slots=True)
class Position:
    """How far a job's output is (DESIGN.md, 'A batch of log lines on its way')."""

    next_sequence: int = 1
    stdout: StreamTotals = StreamTotals()
    stderr: StreamTotals = StreamTotals()
    files: tuple[FileMark, ...] = ()

    def mark(self, place: str, stream: str) -> FileMark:
        """The mark of one file; at its start when nothing of it was consumed."""
        for mark in self.files:
            if mark.place == place and mark.stream == stream:
                return mark
        return FileMark(place, stream, 0)


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A file that the script left in its output directory; `path` is relative, `/`-separated, without `..`."""

    path: str
    mime_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Results:
    """What the script gave back beside its output. JSON texts are kept as bytes; None where nothing was said."""

    script_output: bytes | None = None
    condition: bool | None = None
    variables: bytes | None = None
    files: tuple[ResultFile, ...] = ()
    problems: tuple[str, ...] = ()

    def within(self, max_bytes: int) -> Results:
        """The same with the files that fit into so many bytes together; a problem names those that do not."""
        kept: list[ResultFile] = []
        left_out: list[ResultFile] = []
        room = max_bytes
        for file in self.files:
            fits = len(file.content) <= room
            (kept if fits else left_out).append(file)
            room -= len(file.content) if fits else 0
        if not left_out:
            return self
        shown = ", ".join(file.path for file in left_out[:5]) + (", …" if len(left_out) > 5 else "")
        text = f"the job's output files hold more than {max_bytes} bytes together (container.maxResults), left out: {shown}"
        return replace(self, files=tuple(kept), problems=(*self.problems, text))

    def size(self) -> int:
        """About how many bytes it is."""
        said = len(self.script_output or b"") + len(self.variables or b"")
        return said + sum(len(file.content) for file in self.files)

    def without_files(self, problem: str) -> Results:
        """The same with no files at all, and why."""
        return replace(self, files=(), problems=(*self.problems, problem))

    def then(self, later: Results) -> Results:
        """Both as one: the later word of each kind (a condition holds where both do), all files and problems."""
        both = self.condition is not None and later.condition is not None
        return Results(
            later.script_output if later.script_output is not None else self.script_output,
            self.condition and later.condition if both else later.condition if self.condition is None else self.condition,
            later.variables if later.variables is not None else self.variables,
            (*self.files, *later.files),
            (*self.problems, *later.problems),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """What an attempt used, as far as it is known: percent of one core, bytes."""

    peak_cpu_percent: float | None = None
    peak_memory_bytes: int | None = None
    network_rx_bytes: int | None = None
    network_tx_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ServerOutcome:
    """How a job on several servers ended on one of them. `server`: its key (`Server.key`); `name`: its label.

    `touched`: something of its place may be there.
    """

    server: str
    name: str
    status: str
    exit_code: int | None
    reason: str | None = None
    message: str | None = None
    touched: bool = True


@dataclass(frozen=True, slots=True)
class Slot:
    """A launcher that waits for a job on a server: `place` is its directory, and becomes the name of the job's place."""

    server: str
    place: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. `status` is one of `completed`, `failed`, `timeout`, `cancelled` (PROTOCOL.md); times are Unix ms.

    `servers`: one for each server of a job on several, also those on which an earlier attempt has already succeeded.
    """

    status: str
    exit_code: int | None
    error: ErrorReport | None
    started_ms: int
    ended_ms: int
    results: Results = Results()
    usage: Usage = Usage()
    servers: tuple[ServerOutcome, ...] = ()


# --- supervisor -> worker --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Run this attempt in this place, or go on with it when the place is already there.

    `job`: the job as the backend gave it, JSON. `generation` fences: it rises with every worker and attempt of a job.
    `fresh`: nobody has ever read from this job (first generation, no `next_sequence` from the backend), so the reader need
    not ask the streamer first. `adopt`: another worker may have made the place already; `begun`: and is known to have started
    the script in it (`begun_at`: in which of several places).
    `finished` (jobs on several servers only): those on which an earlier attempt has succeeded, or this one is over. `placed_ms`
    (Unix): when the place was named.
    """

    job_id: str
    job: bytes
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
class CancelAttempt:
    """End the script: SIGTERM, grace, SIGKILL. Said again, it means SIGKILL at once."""

    job_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Settled:
    """The outcome is in the journal: the place may be removed."""

    job_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Housekeep:
    """Look for what this installation left behind, and say it (`PlacesSeen`).

    `starting`: also make ready what the first job needs (images). `leaving`: no jobs will be run for now; what only a running
    supervisor needs (the network) goes too.
    """

    starting: bool
    leaving: bool


@dataclass(frozen=True, slots=True)
class PlacesUnknown:
    """Of the places that were seen these belong to nobody. The order is what makes it safe without a clock: a place is in the
    journal before anything of it exists, so what was seen and then is not in the journal is over.
    """

    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CleanUp:
    """Remove what is left of a job in these places: its server was out of reach when it ended. `job` tells how to reach it."""

    job_id: str
    job: bytes
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Connect to this job's servers, as more jobs for them are to be expected. The worker says what came of it (`Connected`)."""

    job: bytes


@dataclass(frozen=True, slots=True)
class ReleaseConnections:
    """Close the connections to these servers if no job uses them: others need their place. The answer is `Connected`."""

    servers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Leave, without touching what runs."""


# --- worker -> supervisor --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A fresh worker can take a job."""

    worker: str
    pid: int


@dataclass(frozen=True, slots=True)
class WorkerBeat:
    """Sent every heartbeat interval; `progress` rises when the worker did something, `memory_bytes` is its RSS."""

    worker: str
    progress: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class AttemptStatus:
    """`status` is `preparing` or `running`; `running` is said once the script has been started (`place`: in which of several)."""

    worker: str
    job_id: str
    generation: int
    status: str
    timestamp_ms: int
    place: str = ""


@dataclass(frozen=True, slots=True)
class AttemptProgress:
    """What the script said of its own progress."""

    worker: str
    job_id: str
    generation: int
    percentage: float | None
    message: str | None


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """The attempt is over and its last line is durable. Repeated until `Settled` comes."""

    worker: str
    job_id: str
    generation: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class WorkerIdle:
    """The worker can take another job. `removed`: so is the place of the last one; otherwise somebody has to come back to it."""

    worker: str
    job_id: str
    generation: int
    memory_bytes: int
    removed: bool = True


@dataclass(frozen=True, slots=True)
class AttemptParked:
    """The place cannot be reached, so the attempt waits there without a worker; everything read is durable.

    Repeated until `Settled` comes. `error` says why, for people, and is how the job ends if nobody gets there until
    `give_up_ms` (Unix). `begun`: its script has been started. `touched`: something of the place may be there.
    Of several servers: `finished` are those of this worker's visits that are over, with what they gave back (`results`);
    `missing` the others, each with its end if nobody gets there.
    """

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
    results: Results = Results()


@dataclass(frozen=True, slots=True)
class Connected:
    """All servers (`Server.key`) to which the worker has a connection now, and where launchers wait. Said on every change;
    a slot is said before anything of it exists.
    """

    worker: str
    servers: tuple[str, ...]
    slots: tuple[Slot, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerSeen:
    """A login to a server was tried: it worked, or why it did not."""

    worker: str
    server: str
    reached: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CleanedUp:
    """Answer to CleanUp: which of its places are gone for good."""

    worker: str
    job_id: str
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlacesSeen:
    """Every place of this installation of which there is something."""

    worker: str
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HousekeepingDone:
    """How many places were removed; what could not be done is in the worker's log."""

    worker: str
    removed: int


# --- worker -> streamer (PUSH) ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """A reader takes a job and asks for its position. `run` rises with each Open of a generation."""

    job_id: str
    worker: str
    epoch: int
    generation: int
    run: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive lines of one job, encoded for the backend.

    `payload`: a JSON array of log entries (PROTOCOL.md), as it is or as one gzip member (`compressed`), `size` bytes before
    compression. `after`: the position once it is taken; it must follow the streamer's position exactly.
    """

    job_id: str
    worker: str
    epoch: int
    generation: int
    run: int
    first_sequence: int
    lines: int
    payload: bytes
    compressed: bool
    size: int
    after: Position


# --- streamer -> worker (PUB, topic: the worker's name) --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said:
    """How far a job is, and how much more may come.

    `written`: survives a kill (go on from here). `synced`: survives a power cut (give space and credit back).
    `window_lines`, `window_bytes`: how much may follow `written` before the next Said (encoded bytes before compression).
    `rejected`: something did not follow; go back to `written`.
    """

    job_id: str
    worker: str
    epoch: int
    generation: int
    run: int
    written: Position
    synced: Position
    window_lines: int
    window_bytes: int
    rejected: bool = False


# --- supervisor -> streamer ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Announce:
    """From now on this worker may write this job's output; whoever did before may not."""

    job_id: str
    worker: str
    epoch: int
    generation: int
    next_sequence: int


@dataclass(frozen=True, slots=True)
class AskSummary:
    """Say how far a job is and its last text, for `complete`."""

    job_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Forget:
    """The job's report was taken (or will never be): drop its position and tails once its lines are acknowledged."""

    job_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class JobEpoch:
    """The output of a job in one epoch."""

    job_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class StillWanted:
    """To a new streamer: all output that will be asked for. What else it found when it started is to be forgotten (`Forget`)."""

    jobs: tuple[JobEpoch, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """A `status` or `error` frame for people who watch; sent when the socket is up, never kept. `payload` is JSON."""

    type: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class StopStreamer:
    """Send what can be sent at once, close the socket, leave."""


# --- streamer -> supervisor ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StreamerReady:
    """A streamer has read its spool and listens; it wants every running job announced to it again."""

    pid: int


@dataclass(frozen=True, slots=True)
class StreamerBeat:
    """Every heartbeat interval: what people and metrics want to know, all since this process started."""

    progress: int
    memory_bytes: int
    connected: bool
    frames_sent: int
    frames_acknowledged: int
    lines_refused: int
    spool_bytes: int
    reconnects: int
    spool_full: bool
    spool_max_bytes: int
    given_up_lines: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Answer to AskSummary: the position and the last 1 MiB of each stream (`truncated`: there was more)."""

    job_id: str
    epoch: int
    position: Position
    first_sequence: int
    stdout: bytes
    stderr: bytes
    truncated: bool


@dataclass(frozen=True, slots=True)
class CancelHeard:
    """The backend said over the WebSocket that this job was cancelled."""

    job_id: str


# --- supervisor -> monitor (PUB), monitor -> supervisor -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SupervisorBeat:
    """At least once a second; `progress` rises with each round of its loop, and while that waits for disk space."""

    pid: int
    progress: int


@dataclass(frozen=True, slots=True)
class StatusReport:
    """How the supervisor is, about once a second, also while it waits for disk space; also heard by the command line.

    `report`: JSON (`supervisor.status.report`), as whoever reads it may be of another version.
    """

    report: bytes


@dataclass(frozen=True, slots=True)
class MonitorBeat:
    """Every heartbeat interval; `progress` rises with each round of its loop."""

    progress: int
    memory_bytes: int


Message = (
    Dispatch
    | CancelAttempt
    | Settled
    | StopWorker
    | Housekeep
    | PlacesUnknown
    | CleanUp
    | WarmUp
    | ReleaseConnections
    | WorkerReady
    | WorkerBeat
    | AttemptStatus
    | AttemptProgress
    | AttemptEnded
    | WorkerIdle
    | PlacesSeen
    | HousekeepingDone
    | AttemptParked
    | Connected
    | ServerSeen
    | CleanedUp
    | Open
    | Batch
    | Said
    | Announce
    | AskSummary
    | Forget
    | StillWanted
    | Notice
    | StopStreamer
    | StreamerReady
    | StreamerBeat
    | Summary
    | CancelHeard
    | SupervisorBeat
    | StatusReport
    | MonitorBeat
)

# The number of a message on the wire. Numbers are never used twice.
MESSAGES: Mapping[int, type[Message]] = {
    1: Dispatch,
    2: CancelAttempt,
    3: Settled,
    4: StopWorker,
    5: Housekeep,
    6: PlacesUnknown,
    7: CleanUp,
    8: WarmUp,
    9: ReleaseConnections,
    10: WorkerReady,
    11: WorkerBeat,
    12: AttemptStatus,
    13: AttemptProgress,
    14: AttemptEnded,
    15: WorkerIdle,
    16: PlacesSeen,
    17: HousekeepingDone,
    20: Open,
    21: Batch,
    22: Said,
    30: Announce,
    31: AskSummary,
    32: Forget,
    33: Notice,
    34: StopStreamer,
    35: StillWanted,
    40: StreamerReady,
    41: StreamerBeat,
    42: Summary,
    43: CancelHeard,
    44: SupervisorBeat,
    45: MonitorBeat,
    46: StatusReport,
    50: AttemptParked,
    51: Connected,
    52: ServerSeen,
    53: CleanedUp,
}
