"""A worker process: forked by the forkserver with everything loaded, it takes one job after another until it is told to stop.

`main` is called in the forked process (`common.process.run_forked`). Nothing is shared with another worker.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Mapping
from typing import Any

import structlog

from cronium.common.logging import configure_logging
from cronium.common.messages import (
    CleanUp,
    Dispatch,
    Housekeep,
    Message,
    ReleaseConnections,
    Said,
    StopWorker,
    WarmUp,
    WorkerIdle,
    WorkerReady,
)
from cronium.common.process import set_title
from cronium.worker.errands import Errands
from cronium.worker.housekeeping import Housekeeping
from cronium.worker.registry import Executors
from cronium.worker.run import AttemptRun
from cronium.worker.settings import WorkerSettings
from cronium.worker.sockets import Sockets

_IDLE_WAIT_S = 3600.0
_IDLE_EVERY_S = 5.0
_log = structlog.get_logger()


def main(fields: Mapping[str, Any]) -> None:
    """Run until StopWorker; `fields` are those of WorkerSettings."""
    settings = WorkerSettings(**fields)
    configure_logging("worker", settings.level, settings.log_format)
    structlog.contextvars.bind_contextvars(worker=settings.name)
    gc.freeze()
    Worker(settings).run()


class Worker:
    """Waits for a Dispatch, runs it, waits again."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._sockets = Sockets(settings)
        self._executors = Executors(settings, self._sockets.tell_supervisor)
        self._dispatch: Dispatch | None = None
        self._housekeep: Housekeep | None = None
        self._errand: CleanUp | WarmUp | None = None
        self._stopping = False
        self._idle: WorkerIdle | None = None
        self._idle_at_s = 0.0

    def run(self) -> None:
        """Until told to stop."""
        self._sockets.tell_supervisor(WorkerReady(self._settings.name, os.getpid()))
        while not self._stopping:
            self._sockets.listener = self
            set_title(f"worker {self._settings.number}")
            self._idle_at_s = 0.0
            self._wait_for_work()
            if self._errand is not None:
                order, self._errand = self._errand, None
                Errands(self._settings.name, self._sockets, self._executors).run(order)
                continue
            if self._housekeep is not None:
                look, self._housekeep = self._housekeep, None
                Housekeeping(self._settings.name, self._sockets, self._executors).run(
                    starting=look.starting, leaving=look.leaving
                )
                continue
            if self._dispatch is not None and not self._stopping:
                dispatch, self._dispatch, self._idle = self._dispatch, None, None
                started_s = time.monotonic()
                self._idle = AttemptRun(self._settings, self._sockets, self._executors, dispatch).run()
                _log.debug("attempt done", job_id=dispatch.job_id, duration=time.monotonic() - started_s)
        self._executors.close()
        self._sockets.close()

    def _wait_for_work(self) -> None:
        while not self._has_work():
            wait_s = min(_IDLE_WAIT_S, self._executors.tend(time.monotonic()) - time.monotonic())
            self._sockets.wait(self._executors.descriptors(), max(0.0, wait_s), self._has_work)

    def _has_work(self) -> bool:
        return self._stopping or self._dispatch is not None or self._housekeep is not None or self._errand is not None

    def on_supervisor(self, message: Message) -> None:
        """A job, or the end."""
        match message:
            case Dispatch():
                self._dispatch = message
            case Housekeep():
                self._housekeep = message
            case CleanUp() | WarmUp():
                self._errand = message
            case ReleaseConnections():
                self._executors.hear(message)
            case StopWorker():
                self._stopping = True
            case _:
                _log.debug("message of an attempt that is over", message=type(message).__name__)

    def on_said(self, said: Said) -> None:
        """A position of a job that is over."""

    def on_new_streamer(self) -> None:
        """Nothing is on its way."""

    def on_time(self, now_s: float) -> float | None:
        """Say again that we are idle, until there is a new job: the slot would be lost with that one message."""
        if self._idle is None:
            return None
        if now_s >= self._idle_at_s:
            self._idle_at_s = now_s + _IDLE_EVERY_S
            self._sockets.tell_supervisor(self._idle)
        return self._idle_at_s
