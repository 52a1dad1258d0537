"""What the worker and an executor know of each other: nothing but this.

An executor is the way to one kind of place (a container, a server). It is a generator of updates; whenever it has to wait it
waits through `Control`, which keeps the worker's own sockets served meanwhile. A third executor is one folder with a class
that has these three methods, and a line in `registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from cronium.common.errors import ErrorReport
from cronium.common.job import Job, JobProblem
from cronium.common.messages import Message, Outcome, Position, Results, ServerOutcome

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a job, and the name of the place it has or gets.

    `adopt`: another worker may have made the place already; find out, and go on with what is there. `begun`: and is known to
    have started the script (`begun_at`: in which of several).
    `position`: where to read on (its marks are at the start for a place nobody has read).
    `finished`: servers on which an earlier attempt has succeeded, or this one is over.
    `placed_ms` (Unix): when the place was named; 0 if that is not known.
    """

    job: Job
    number: int
    place: str
    adopt: bool
    position: Position
    begun: bool = False
    begun_at: tuple[str, ...] = ()
    finished: tuple[ServerOutcome, ...] = ()
    placed_ms: int = 0


@dataclass(frozen=True, slots=True)
class Log:
    """Bytes of one stream as they stand in the place's file; `offset` is where the next ones begin.

    `place`: whose, where an attempt has several (one for each server); empty for the attempt's only one.
    """

    stream: str
    data: bytes
    offset: int
    place: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """Something happened to a stream that people must be told as a `system` line; the file goes on at `offset`."""

    stream: str
    message: str
    offset: int
    place: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """Something that people who watch the job should know; becomes a `system` line."""

    message: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Labels:
    """Said first by an attempt with several places: the label that the lines of each carry."""

    by_place: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Status:
    """The attempt is `preparing` or `running` now; where, if it has several places."""

    status: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """The script's own word on its progress."""

    percentage: float | None
    message: str | None


@dataclass(frozen=True, slots=True)
class Complete:
    """The last update: nothing more will come from this place."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Parked:
    """The last update instead of Complete: a place cannot be reached, and the attempt goes on there without us.

    Somebody takes it over later, until `give_up_ms` (Unix); `error` is then its end. `begun`: the script has been started.
    `touched`: something of the place may be there. `finished`, `missing`, `results`: see `AttemptParked`.
    `over`: the places that have said all they will ever say.
    """

    server: str
    error: ErrorReport
    give_up_ms: int
    begun: bool
    touched: bool = True
    finished: tuple[ServerOutcome, ...] = ()
    missing: tuple[ServerOutcome, ...] = ()
    results: Results = field(default_factory=Results)
    over: tuple[str, ...] = ()


Update = Log | Gap | Told | Labels | Status | Progress | Complete | Parked


class Control(Protocol):
    """What the worker offers to an executor while it runs."""

    def wait(self, descriptors: tuple[int, ...], timeout_s: float) -> frozenset[int]:
        """Serve the worker's sockets until one of these file descriptors is readable; which ones are (none: time is up)."""

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        """Run something that blocks in a thread, and serve the worker's sockets meanwhile.

        Raises what it raises, and TimeoutError when it takes longer (the thread is then left to itself).
        """

    def room(self) -> int:
        """How many bytes of output may be handed over now; 0: wait until it is more."""

    def durable(self, stream: str, place: str = "") -> int:
        """Up to which offset of this stream everything is safe on our disk: credit and space may be given back."""

    def cancelled(self) -> int:
        """How often the job's end was asked for: 0 no, 1 SIGTERM and grace, 2 at once."""

    def patience_s(self) -> float:
        """How long an executor may hold on to a place that it cannot reach; then the attempt is `Parked`."""

    def engine_patience_s(self) -> float:
        """How long an attempt whose script has not begun may wait for an engine that does not answer."""


class Executor(Protocol):
    """The way to one kind of place."""

    name: str

    def validate(self, job: Job) -> tuple[JobProblem, ...]:
        """Every reason why this executor cannot run the job within its configured limits."""

    def execute(self, attempt: Attempt, control: Control) -> Iterator[Update]:
        """Run the attempt, or go on with it; the last update is Complete.

        What a job can do wrong is an outcome. An error of the executor itself is an ExecutionError, and the place is left for
        `cleanup`. A closed generator leaves the place as it is (the job runs on).
        """

    def cleanup(self, place: str, job: Job | None = None) -> None:
        """Remove everything of a place, whatever of it there is. Doing it again is harmless. Raises ExecutionError.

        `job`: whose it was, where that is known: a place on a server needs the way there.
        """

    def make_ready(self, stop: Callable[[], bool]) -> None:
        """At the supervisor's start: do what makes the first job as quick as the others; what is missing goes to the log.

        `stop` says when there is no point in going on.
        """

    def places(self) -> frozenset[str]:
        """Every place of this installation of which there is something, wherever this executor can look by itself.

        Raises ExecutionError.
        """

    def leave(self) -> None:
        """Remove what only a running supervisor needs, if nothing uses it. Raises ExecutionError."""


@runtime_checkable
class Resident(Protocol):
    """An executor that keeps something (connections) between two jobs, and looks after it whenever the worker waits."""

    def tend(self, now_s: float) -> float:
        """Do what is due, without blocking; when (monotonic) to come again."""

    def descriptors(self) -> tuple[int, ...]:
        """Readable when `tend` has something to do."""

    def hear(self, message: Message) -> None:
        """An order that concerns what is kept."""

    def close(self) -> None:
        """Let go of it; the worker leaves."""
