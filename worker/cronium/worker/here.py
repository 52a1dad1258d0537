"""One attempt in the process of whoever asks for it, with neither supervisor nor streamer: what `exec` drives.

Runs in the command line's process, which calls `main` by its name. Output goes to file descriptors as it comes. Each run holds a
shared lock on the state folder that such runs have in common; one that gets it alone removes what killed ones have left behind.
"""

from __future__ import annotations

import fcntl
import math
import select
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import structlog

from cronium.common.errors import ExecutionError, Reason
from cronium.common.ids import place_name
from cronium.common.job import InvalidJobError, Job, parse_job
from cronium.common.messages import Outcome, Position
from cronium.worker.blocking import call_in_thread
from cronium.worker.executor import Attempt, Complete, Executor, Gap, Labels, Log, Parked, Progress, Status, Told, Update
from cronium.worker.judgement import cancelled_before_start
from cronium.worker.pipes import Pipes
from cronium.worker.registry import Executors
from cronium.worker.settings import WorkerSettings

T = TypeVar("T")
LOCK_FILE = "lock"
_LOCK_S = 60.0  # somebody else is removing leftovers
_LOCK_PAUSE_S = 0.05
_PATIENCE_S = 3.0  # for what is asked of the engine when the person has already asked for the end
_LAST_WRITE_S = 1.0  # for a reader that does not read, when the job is to end at once
_CLEANUP_PAUSES_S = (0.2, 1.0, 3.0)
_log = structlog.get_logger()


class Terminal(Protocol):
    """Who asked for the job: is shown how it goes, and may ask for its end."""

    def fileno(self) -> int:
        """Readable when `cancelled` may have changed."""

    def cancelled(self) -> int:
        """How often the job's end was asked for. Makes `fileno` unreadable again."""

    def status(self, status: str) -> None:
        """The attempt is `preparing`, `running` or `cleaning up`."""

    def progress(self, percentage: float | None, message: str | None) -> None:
        """The script's own word on its progress."""

    def output(self, stream: str, end: bytes) -> None:
        """Output that ends with this byte is about to be written."""

    def told(self, text: str) -> None:
        """Something that is to be known, beside the output."""

    def broken(self, stream: str, error: OSError) -> None:
        """The output of a stream cannot be written any more; the job is being ended."""


def main(fields: Mapping[str, Any], job_json: bytes, token: str, terminal: Terminal, descriptors: Mapping[str, int]) -> Outcome:
    """Run a job to its end, and remove its place. Main thread only.

    `fields` are those of WorkerSettings; `token` tells this run from any other of the same job. Raises InvalidJobError for a job
    that is not run here, ExecutionError for one that could not be run.
    """
    settings = WorkerSettings(**fields)
    job = parse_job(job_json)
    executors = Executors(settings, lambda _: None)
    executor = executors.for_job(job)
    problems = executor.validate(job)
    if problems:
        raise InvalidJobError(problems)
    place = place_name(settings.installation, f"{job.id}-{token}", 1)
    with _among_others(settings.state_dir, executors):
        try:
            outcome = _attempt(executor, job, place, terminal, descriptors)
        except ExecutionError as error:
            if error.reason is not Reason.ENGINE_DOWN:  # without it nothing can be removed: the last sweep tries, or the next run
                _clean(executor, job, place, terminal)
            raise
        _clean(executor, job, place, terminal)
        return outcome


def _attempt(executor: Executor, job: Job, place: str, terminal: Terminal, descriptors: Mapping[str, int]) -> Outcome:
    pipes = Pipes(descriptors, terminal.output)
    control = Here(terminal, pipes)
    outcome: Outcome | None = None
    for update in executor.execute(Attempt(job, 1, place, False, Position()), control):
        if isinstance(update, Complete):
            outcome = update.outcome
        elif isinstance(update, Parked):  # only when the person would not wait any longer
            left = ". The script may go on running there until its deadline" if update.begun else ""
            raise ExecutionError(Reason.UNREACHABLE, f"{update.error.message}{left}", server=update.server)
        else:
            _take(update, pipes, terminal)
    control.finish()
    if outcome is None:
        raise ExecutionError(Reason.INTERNAL, "the executor stopped without an outcome: please report it")
    return outcome


def _take(update: Update, pipes: Pipes, terminal: Terminal) -> None:
    match update:
        case Log():
            pipes.put(update)
        case Gap(stream, message, offset, place):
            pipes.skip(stream, offset, place)
            terminal.told(message)
        case Told(message):
            terminal.told(message)
        case Status(status):
            terminal.status(status)
        case Progress(percentage, message):
            terminal.progress(percentage, message)
        case Complete() | Parked() | Labels():
            pass


def _clean(executor: Executor, job: Job, place: str, terminal: Terminal) -> None:
    terminal.status("cleaning up")
    for pause_s in (*_CLEANUP_PAUSES_S, None):
        try:
            executor.cleanup(place, job)
        except ExecutionError as error:
            if pause_s is None:
                terminal.told(f"{place} could not be removed ({error.message}); the next `exec` will try again")
                return
            time.sleep(pause_s)
        else:
            return


class Here:
    """`Control` in front of a person: waits for the executor's descriptors, a reader that is slow, and Ctrl-C."""

    def __init__(self, terminal: Terminal, pipes: Pipes) -> None:
        self._terminal = terminal
        self._pipes = pipes
        self._told = False

    def wait(self, descriptors: tuple[int, ...], timeout_s: float) -> frozenset[int]:
        """See `Control.wait`. May return early when something else has changed."""
        self._pipes.write()
        poller = select.poll()
        for descriptor in (*descriptors, self._terminal.fileno()):
            poller.register(descriptor, select.POLLIN)
        blocked = self._pipes.blocked()
        if blocked is not None:
            poller.register(blocked, select.POLLOUT)
        events = dict(poller.poll(max(0.0, timeout_s) * 1000))
        self._pipes.write()
        return frozenset(descriptor for descriptor in descriptors if descriptor in events)

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        """See `Control.call`. Once the end was asked for, it has only a few seconds left: raises ExecutionError (cancelled)."""
        until_s = time.monotonic() + timeout_s

        def wait_for(done: int) -> None:
            give_up_s: float | None = None
            while done not in self.wait((done,), min(until_s, give_up_s or until_s) - time.monotonic()):
                now_s = time.monotonic()
                if self.cancelled():
                    give_up_s = give_up_s or now_s + _PATIENCE_S
                    if now_s >= give_up_s:
                        raise cancelled_before_start()
                if now_s >= until_s:
                    raise TimeoutError(f"no answer within {timeout_s:g} s")

        return call_in_thread(function, wait_for)

    def room(self) -> int:
        """See `Control.room`."""
        if self._pipes.room() == 0 and self.cancelled() > 1:
            self._pipes.drop()  # the job ends at once, and so does the wait for its reader
        return self._pipes.room()

    def durable(self, stream: str, place: str = "") -> int:
        """See `Control.durable`."""
        return self._pipes.durable(stream, place)

    def patience_s(self) -> float:
        """See `Control.patience_s`. A person waits; nobody else would come back to the place."""
        return math.inf

    def engine_patience_s(self) -> float:
        """See `Control.engine_patience_s`. A person is told at once, and starts it."""
        return 0.0

    def cancelled(self) -> int:
        """See `Control.cancelled`. An output that nobody reads any more ends the job as well."""
        if self._pipes.broken is not None and not self._told:
            self._told = True
            self._terminal.broken(*self._pipes.broken)
        return max(self._terminal.cancelled(), int(self._told))

    def finish(self) -> None:
        """Wait until the last output is written; but not for a reader that does not read when the end was asked for twice."""
        until_s: float | None = None
        while self._pipes.blocked() is not None:
            self.wait((), _LAST_WRITE_S)
            if self.cancelled() > 1:
                until_s = until_s or time.monotonic() + _LAST_WRITE_S
                if time.monotonic() >= until_s:
                    self._pipes.drop()
        self.cancelled()


# --- what runs of the same folder have in common -----------------------------------------------------------------------


@contextmanager
def _among_others(folder: Path, executors: Executors) -> Iterator[None]:
    """Hold the folder's lock with others. Whoever is alone, before or after, removes what is left."""
    with (folder / LOCK_FILE).open("w") as lock:
        _sweep_if_alone(lock, executors)
        _share(lock, folder)
        try:
            yield
        finally:
            _sweep_if_alone(lock, executors)


def _sweep_if_alone(lock: IO[str], executors: Executors) -> None:
    """Gives up the lock if somebody else has it too (flock(2): a conversion that fails has lost it)."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    try:
        for executor in executors.all():
            for place in executor.places():
                executor.cleanup(place)
            executor.leave()
    except ExecutionError as error:
        _log.info("leftovers not removed", error=error.message)  # the run itself says so if the engine is away


def _share(lock: IO[str], folder: Path) -> None:
    give_up_s = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up_s:
                raise ExecutionError(
                    Reason.INTERNAL, f"{folder / LOCK_FILE} stays locked: see who holds it (`fuser {folder / LOCK_FILE}`)"
                ) from None
            time.sleep(_LOCK_PAUSE_S)
        else:
            return
