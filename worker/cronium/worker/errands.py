"""What an idle worker does on a server between two jobs: remove what was left there, connect before a job comes.

Runs in a worker.
"""

from __future__ import annotations

from functools import partial

import structlog

from cronium.common.errors import ExecutionError
from cronium.common.job import InvalidJobError, Job, parse_job
from cronium.common.messages import CleanedUp, CleanUp, Message, ReleaseConnections, Said, WarmUp
from cronium.worker.executor import Resident
from cronium.worker.registry import Executors
from cronium.worker.sockets import Sockets

_CALL_S = 60.0
_log = structlog.get_logger()


class Errands:
    """One at a time."""

    def __init__(self, worker: str, sockets: Sockets, executors: Executors) -> None:
        self._worker = worker
        self._sockets = sockets
        self._executors = executors

    def run(self, order: CleanUp | WarmUp) -> None:
        """Do it as far as it can be done, and say what came of it."""
        self._sockets.listener = self
        match order:
            case WarmUp():
                if (job := _job(order.job)) is not None and isinstance(executor := self._executors.for_job(job), Resident):
                    executor.hear(order)  # goes on by itself, while the worker waits
            case CleanUp(job_id, raw, places):
                self._sockets.tell_supervisor(CleanedUp(self._worker, job_id, self._cleaned(raw, places)))

    def _cleaned(self, raw: bytes, places: tuple[str, ...]) -> tuple[str, ...]:
        job = _job(raw)
        if job is None:
            return ()
        executor, gone = self._executors.for_job(job), []
        for place in places:
            try:
                self._sockets.call(partial(executor.cleanup, place, job), _CALL_S)
            except (ExecutionError, TimeoutError) as error:
                _log.info("place not removed yet", place=place, error=str(error))
                break
            gone.append(place)
        return tuple(gone)

    def on_supervisor(self, message: Message) -> None:
        """Only what cannot wait."""
        if isinstance(message, ReleaseConnections):
            self._executors.hear(message)

    def on_said(self, said: Said) -> None:
        """Of no concern here."""

    def on_new_streamer(self) -> None:
        """Of no concern here."""

    def on_time(self, now_s: float) -> float | None:
        """What is kept is looked after meanwhile."""
        return self._executors.tend(now_s)


def _job(raw: bytes) -> Job | None:
    try:
        return parse_job(raw)
    except InvalidJobError as error:
        _log.warning("not a job any more", error=str(error))
        return None
