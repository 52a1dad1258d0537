"""One attempt of one job in one worker: from Dispatch to WorkerIdle.

Takes the executor's updates, hands output to the streamer, waits until the last line is durable, reports the outcome until it
is in the journal, and only then removes the place (DESIGN.md, promise 4). Implements `Control` for the executor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import structlog

from cronium.common.errors import ErrorReport, ExecutionError, Reason
from cronium.common.job import InvalidJobError, Job, parse_job
from cronium.common.messages import (
    AttemptEnded,
    AttemptParked,
    AttemptProgress,
    AttemptStatus,
    CancelAttempt,
    Dispatch,
    Message,
    Outcome,
    Position,
    ReleaseConnections,
    Results,
    Said,
    Settled,
    WorkerIdle,
)
from cronium.common.process import set_title
from cronium.common.wire import FrameTooLargeError, pack
from cronium.worker.executor import Attempt, Complete, Executor, Gap, Labels, Log, Parked, Progress, Status, Told, Update
from cronium.worker.lines import LineEncoder
from cronium.worker.reader import OutputReader
from cronium.worker.registry import Executors
from cronium.worker.sender import Sender
from cronium.worker.settings import WorkerSettings
from cronium.worker.sockets import Sockets

T = TypeVar("T")
_PATIENCE_S = 10.0  # a connection that breaks is made anew meanwhile; a worker is not held for longer
_ENGINE_PATIENCE_S = 600.0  # it comes back with a restart; until then no job that needs it could run anyway
_REPEAT_S = 1.0  # how often what must be heard is said again
_LARGE_BYTES = 1024 * 1024
_LARGE_REPEAT_S, _LARGE_REPEAT_MOST_S = 15.0, 600.0
_CLEANUP_PAUSES_S = (0.2, 1.0, 5.0, 15.0, 30.0)  # between tries to remove a place; the reaper has the rest
_log = structlog.get_logger()


class AttemptRun:
    """Everything of one attempt. `run()` returns when the worker is free again."""

    def __init__(self, settings: WorkerSettings, sockets: Sockets, executors: Executors, dispatch: Dispatch) -> None:
        self._settings = settings
        self._executors = executors
        self._sockets = sockets
        self._dispatch = dispatch
        self._log = _log.bind(job_id=dispatch.job_id, attempt=dispatch.attempt, generation=dispatch.generation)
        self._sender = Sender(
            dispatch.job_id,
            settings.name,
            dispatch.epoch,
            dispatch.generation,
            settings.logging.compress_threshold,
        )
        self._reader: OutputReader | None = None
        self._executor: Executor | None = None
        self._job: Job | None = None
        self._cancels = 0
        self._settled = False
        self._woken = False

    def run(self) -> WorkerIdle:
        """Do the attempt; what the supervisor is to be told then. What goes wrong in it is its outcome; what goes wrong with us
        ends the worker.
        """
        self._sockets.listener = self
        started_ms = _now_ms()
        self._sender.start(time.monotonic(), fresh=self._dispatch.fresh)
        while self._sender.position is None:
            self.wait((), _REPEAT_S)
        position = self._sender.position
        encoder = LineEncoder(self._dispatch.job_id, position)
        self._reader = OutputReader(self._dispatch.place, encoder, self._sender, self._sockets, self._settings.logging)
        end = self._end(position, started_ms)
        if isinstance(end, Parked):
            self._reader.pause(end.over)
        else:
            self._reader.finish()
        while not self._reader.durable():
            self.wait((), _REPEAT_S)
        name, job_id, generation = self._settings.name, self._dispatch.job_id, self._dispatch.generation
        self._say_until_settled(self._framed(end))
        removed = isinstance(end, Outcome) and (self._executor is None or self._clean(self._executor))
        return WorkerIdle(name, job_id, generation, self._sockets.memory_bytes(), removed)

    def _end(self, position: Position, started_ms: int) -> Outcome | Parked:
        given = self._dispatch
        try:
            self._job = job = parse_job(given.job)
            self._executor = executor = self._executors.for_job(job)
            set_title(f"worker {self._settings.number} ({executor.name})")
            self._validate(executor, job)
            attempt = Attempt(
                job,
                given.attempt,
                given.place,
                given.adopt,
                position,
                given.begun,
                given.begun_at,
                given.finished,
                given.placed_ms,
            )
            for update in executor.execute(attempt, self):
                match update:
                    case Complete(outcome):
                        return outcome
                    case Parked():
                        return update
                    case _:
                        self._take(update)
            error = ExecutionError(Reason.INTERNAL, "the executor stopped without an outcome: see the worker's log")
        except ExecutionError as raised:
            error = raised
        except InvalidJobError as raised:
            error = _invalid(raised)
        self._log.info("attempt could not be done", error=error.message, reason=error.reason.value)
        return _failed(error.report(), started_ms)

    @staticmethod
    def _validate(executor: Executor, job: Job) -> None:
        problems = executor.validate(job)
        if problems:
            raise InvalidJobError(problems)

    def _take(self, update: Update) -> None:
        assert self._reader is not None  # noqa: S101 - set before any update
        match update:
            case Log():
                self._reader.log(update)
            case Gap():
                self._reader.gap(update)
            case Told():
                self._reader.told(update)
            case Labels():
                self._reader.label(update)
            case Status(status, place):
                name, job_id, generation = self._settings.name, self._dispatch.job_id, self._dispatch.generation
                self._sockets.tell_supervisor(AttemptStatus(name, job_id, generation, status, _now_ms(), place))
            case Progress(percentage, message):
                self._sockets.tell_supervisor(
                    AttemptProgress(self._settings.name, self._dispatch.job_id, self._dispatch.generation, percentage, message)
                )
            case Complete() | Parked():
                pass  # taken before

    def _framed(self, end: Outcome | Parked) -> bytes:
        """The end as one message. What no message can carry is left out, as nobody would ever hear of this end otherwise."""
        without = end.results.without_files("the job's output files are more than a message can carry: left out")
        nothing = Results(problems=("what the job gave back is more than a message can carry: left out",))
        for results in (end.results, without):
            try:
                return pack(_message(self._settings.name, self._dispatch, replace(end, results=results)))
            except FrameTooLargeError as error:
                self._log.error("the job gave back more than a message can carry", error=str(error))
        return pack(_message(self._settings.name, self._dispatch, replace(end, results=nothing)))

    def _say_until_settled(self, frame: bytes) -> None:
        """A large one ever more seldom: a supervisor whose disk is full has it already, and would have it many times."""
        large = len(frame) > _LARGE_BYTES
        pause_s = _LARGE_REPEAT_S if large else _REPEAT_S
        while not self._settled:
            sent = self._sockets.send_supervisor(frame)
            self._sockets.wait((), pause_s if sent else _REPEAT_S, lambda: self._settled)
            if large and sent:
                pause_s = min(2 * pause_s, _LARGE_REPEAT_MOST_S)

    def _clean(self, executor: Executor) -> bool:
        """Remove the place; whether it is gone."""
        for pause_s in (*_CLEANUP_PAUSES_S, None):
            try:
                self.call(lambda: executor.cleanup(self._dispatch.place, self._job), timeout_s=60)
            except (ExecutionError, TimeoutError) as error:
                self._log.warning("place not removed yet", error=str(error), place=self._dispatch.place)
                if pause_s is None or (not isinstance(error, ExecutionError) or error.reason is Reason.UNREACHABLE):
                    return False  # an unreachable server is come back to when it is seen again
                self._sockets.wait((), pause_s)
            else:
                return True
        return False

    # --- Control, for the executor -----------------------------------------------------------------------------------

    def wait(self, descriptors: tuple[int, ...], timeout_s: float) -> frozenset[int]:
        """See `Control.wait`."""
        self._woken = False
        return self._sockets.wait(descriptors, timeout_s, lambda: self._woken)

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        """See `Control.call`."""
        return self._sockets.call(function, timeout_s)

    def room(self) -> int:
        """See `Control.room`."""
        return self._reader.room() if self._reader else 0

    def durable(self, stream: str, place: str = "") -> int:
        """See `Control.durable`."""
        return self._sender.durable_offset(place or self._dispatch.place, stream)

    def cancelled(self) -> int:
        """See `Control.cancelled`."""
        return self._cancels

    def patience_s(self) -> float:
        """See `Control.patience_s`."""
        return _PATIENCE_S

    def engine_patience_s(self) -> float:
        """See `Control.engine_patience_s`."""
        return _ENGINE_PATIENCE_S

    # --- Listener, for the sockets -----------------------------------------------------------------------------------

    def on_supervisor(self, message: Message) -> None:
        """Take what concerns this attempt; anything else is of another time."""
        key = (self._dispatch.job_id, self._dispatch.generation)
        match message:
            case CancelAttempt(job_id, generation) if (job_id, generation) == key:
                self._cancels += 1
                self._woken = True
            case Settled(job_id, generation) if (job_id, generation) == key:
                self._settled = self._woken = True
            case ReleaseConnections():
                self._executors.hear(message)
            case _:
                self._log.debug("message of another attempt", message=type(message).__name__)

    def on_said(self, said: Said) -> None:
        """How far the streamer is: room, durable offsets and the position may have changed."""
        self._sender.hear(said, time.monotonic())
        self._woken = True

    def on_new_streamer(self) -> None:
        """What was on its way is gone with the old one."""
        self._sender.streamer_is_new(time.monotonic())

    def on_time(self, now_s: float) -> float | None:
        """Let out what is due."""
        tend_s = self._executors.tend(now_s)
        if self._reader is not None:
            due_s = self._reader.send_due(now_s)
        else:
            for message in self._sender.due(now_s):
                self._sockets.tell_streamer(message)
            due_s = self._sender.wake_at_s()
        return tend_s if due_s is None else min(due_s, tend_s)


def _invalid(error: InvalidJobError) -> ExecutionError:
    problems = [str(problem) for problem in error.problems]
    return ExecutionError(Reason.INVALID_JOB, "this job cannot be run: " + "; ".join(problems), problems=problems)


def _failed(error: ErrorReport, started_ms: int) -> Outcome:
    status = {Reason.TIMEOUT.value: "timeout", Reason.CANCELLED.value: "cancelled"}.get(error.reason, "failed")
    return Outcome(status, None, error, started_ms, _now_ms())


def _message(worker: str, given: Dispatch, end: Outcome | Parked) -> Message:
    if isinstance(end, Outcome):
        return AttemptEnded(worker, given.job_id, given.generation, end)
    return AttemptParked(
        worker,
        given.job_id,
        given.generation,
        end.server,
        end.error,
        end.give_up_ms,
        end.begun,
        end.touched,
        end.finished,
        end.missing,
        end.results,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
