"""The helper threads in which the backend is spoken to, each kind of statement in a lane of its own.

A slow report must not hold up a poll, and nothing may hold up a lease's renewal (actions/runner#1546 lost jobs that way). The
loop hands actions in and takes events out; `fileno` tells it when there are some.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

import structlog

from cronium.supervisor.backend.contract import ContractBackend, HealthHeard
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on

BackendAction = do.Poll | do.Acknowledge | do.SayStatus | do.SayComplete | do.RenewLease | do.SayHealth
BackendEvent = on.Event | HealthHeard
_LANES = {"poll": 1, "renew": 4, "report": 4}  # threads: one request that hangs holds up no other job's renewal
_log = structlog.get_logger()


class BackendLanes:
    """All lanes. `connect` makes the backend of one thread."""

    def __init__(self, connect: Callable[[], ContractBackend]) -> None:
        self._connect = connect
        self._events: queue.SimpleQueue[BackendEvent] = queue.SimpleQueue()
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._queues: dict[str, queue.SimpleQueue[BackendAction | None]] = {}
        for lane, count in _LANES.items():
            self._queues[lane] = queue.SimpleQueue()
            for number in range(count):
                threading.Thread(target=self._run, args=(lane,), name=f"{lane} {number}", daemon=True).start()

    def fileno(self) -> int:
        """Readable when there are events to take."""
        return self._descriptor

    def submit(self, action: BackendAction) -> None:
        """Carry this out; its event comes later."""
        lane = "poll" if isinstance(action, do.Poll) else "renew" if isinstance(action, do.RenewLease) else "report"
        self._queues[lane].put(action)

    def take(self) -> list[BackendEvent]:
        """The events that have come."""
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            return []
        events = []
        while not self._events.empty():
            events.append(self._events.get())
        return events

    def _run(self, lane: str) -> None:
        backend = self._connect()
        while (action := self._queues[lane].get()) is not None:
            try:
                event = _carry_out(backend, action)
            except Exception as error:  # noqa: BLE001 - a lane that dies would stop all reports; it is told and tried again
                _log.exception("a request could not be made", action=type(action).__name__)
                event = _failed(action, f"{type(error).__name__}: {error}")
            self._events.put(event)
            os.eventfd_write(self._descriptor, 1)


def _carry_out(backend: ContractBackend, action: BackendAction) -> BackendEvent:
    match action:
        case do.Poll():
            return backend.poll(action)
        case do.Acknowledge():
            return backend.acknowledge(action)
        case do.SayStatus():
            return backend.status(action)
        case do.SayComplete():
            return backend.complete(action)
        case do.RenewLease():
            return backend.renew(action)
        case do.SayHealth():
            return backend.health(action)


def _failed(action: BackendAction, reason: str) -> BackendEvent:
    match action:
        case do.Poll(key):
            return on.PollFailed(key, reason)
        case do.RenewLease(job_id):
            return on.LeaseUnanswered(job_id)
        case do.SayHealth():
            return HealthHeard(reason)
        case _:
            return on.Unanswered(action.job_id, action.key, reason)
