"""The supervisor's event loop: bytes in, events to the core, writes to the journal, actions out. Single-threaded.

It decides nothing about jobs. One poller waits for everything: workers and streamer (ROUTER), deaths (pidfds), the backend's
answers, signals. A step's writes are committed before any of its actions is carried out; when the disk is full the step waits.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import structlog
import zmq

from cronium.common.addresses import STREAMER_IDENTITY, SUPERVISOR, endpoint
from cronium.common.messages import Housekeep, HousekeepingDone, Message, PlacesSeen, StopStreamer, StreamerBeat
from cronium.common.wire import WireError, pack, unpack
from cronium.supervisor.backend.lanes import BackendLanes
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.core import Core
from cronium.supervisor.health import HealthReport
from cronium.supervisor.journal import Journal
from cronium.supervisor.pool.roles import Role
from cronium.supervisor.pool.workers import WorkerPool
from cronium.supervisor.translate import OrderWithJob, event_of, message_of, message_with_job

_DISK_PAUSE_S = 1.0
_LAST_TIDY_S = 0.9
_log = structlog.get_logger()


class Orders(Protocol):
    """What people ask of the loop (signals): see `stop.StopOrders`."""

    def fileno(self) -> int:
        """Readable when there is something new."""

    def events(self, busy: int) -> list[on.Event]:
        """What the core is to be told; `busy` jobs are running."""

    def leave_now(self, now_s: float) -> bool:
        """Whether to leave, whatever still runs."""


class Loop:
    """Everything is handed in; `run` returns when the work is done or a person wants it to end."""

    def __init__(
        self,
        core: Core,
        journal: Journal,
        pool: WorkerPool,
        lanes: BackendLanes,
        roles: tuple[Role, ...],
        orders: Orders,
        runtime_dir: Path,
        health: HealthReport,
    ) -> None:
        self._core, self._journal, self._pool, self._lanes, self._roles, self._orders = core, journal, pool, lanes, roles, orders
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a new process may take an old identity
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # what cannot be delivered is told, not dropped unseen
        self._router.setsockopt(zmq.LINGER, 0)
        (runtime_dir / SUPERVISOR).unlink(missing_ok=True)
        self._router.bind(endpoint(runtime_dir, SUPERVISOR))
        self._poller = zmq.Poller()
        for descriptor in (lanes.fileno(), pool.fileno(), orders.fileno()):
            self._poller.register(descriptor, zmq.POLLIN)
        self._poller.register(self._router, zmq.POLLIN)
        self._watched: dict[int, str] = {}
        self._leaving = False
        self._handled = 0
        self._health = health
        self._api_works = False

    def run(self) -> None:
        """Until the core says Exit or a person insists."""
        for role in self._roles:
            if role.process is None:  # the queue was started before: its address was needed
                role.start()
            self._poller.register(role.descriptor, zmq.POLLIN)
        self._handle(on.Tick())
        while not self._leaving:
            ready = dict(self._poller.poll(self._pause_ms()))
            handled = self._handled
            if self._router in ready:
                self._receive()
            if self._lanes.fileno() in ready:
                for event in self._lanes.take():
                    self._api_works = not isinstance(event, on.PollFailed | on.Unanswered)
                    self._handle(event)
            if self._pool.fileno() in ready:
                self._workers_started()
            self._deaths(ready)
            self._start_roles()
            for event in self._orders.events(sum(1 for w in self._core.workers() if w.job_id is not None)):
                self._handle(event)
            if self._handled == handled:  # every event makes the core look at all that is due
                self._handle(on.Tick())
            if self._health.is_due(time.monotonic()):
                self._say_health()
            self._leaving = self._leaving or self._orders.leave_now(time.monotonic())

    def close(self, grace_s: float = 0.8) -> None:
        """End all our processes; what runs in places goes on."""
        self._tidy_last()
        deadline_s = time.monotonic() + grace_s
        self._send(STREAMER_IDENTITY, StopStreamer())
        for role in self._roles:
            role.ask_to_stop()
        self._pool.close()
        for role in self._roles:
            role.stop(deadline_s)
        self._context.destroy(linger=0)
        self._journal.close()

    def _tidy_last(self) -> None:
        """Have an idle worker remove what only a running supervisor needs; not for long."""
        # The one that is making ready comes first: it has to finish what it tries, or the trial's container stays behind.
        free = sorted((w for w in self._core.workers() if w.tidying or w.idle()), key=lambda w: not w.tidying)
        if not free:
            return
        self._send(free[0].name.encode(), Housekeep(starting=False, leaving=True))
        until_s = time.monotonic() + _LAST_TIDY_S
        while (left_s := until_s - time.monotonic()) > 0 and self._router.poll(int(left_s * 1000)):
            _, frame = self._router.recv_multipart()
            with contextlib.suppress(WireError):
                message = unpack(frame)
                if isinstance(message, HousekeepingDone):
                    return
                if isinstance(message, PlacesSeen):
                    self._handle(on.WorkerSaw(message.worker, message.places))

    # --- what comes in -----------------------------------------------------------------------------------------------

    def _pause_ms(self) -> int:
        now = _now()
        due = min([self._core.next_due_s(now), *(d for role in self._roles if (d := role.due_s()) is not None)])
        return max(0, round((due - now.mono_s) * 1000 + 0.5))

    def _receive(self) -> None:
        for _ in range(200):  # then look at the others again
            try:
                identity, frame = self._router.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            except ValueError:
                continue  # no message of ours has another number of parts
            try:
                message = unpack(frame)
            except WireError as error:
                _log.warning("message refused", sender=identity.decode("utf-8", "replace"), error=str(error))
                continue
            if isinstance(message, StreamerBeat):
                self._health.beat(message, time.monotonic())
            elif (event := event_of(message)) is not None:
                self._handle(event)

    def _say_health(self) -> None:
        body = self._health.body(self._core.counts(), self._core.servers(), api_works=self._api_works, now_s=time.monotonic())
        self._lanes.submit(do.SayHealth(body))

    def _workers_started(self) -> None:
        for started in self._pool.started():
            if started.pid is None:
                self._handle(on.WorkerDied(started.name, started.error))
        self._watched = self._pool.descriptors()
        for descriptor in self._watched:
            self._poller.register(descriptor, zmq.POLLIN)

    def _deaths(self, ready: Mapping[object, int]) -> None:
        for descriptor in [d for d in self._watched if d in ready]:
            name = self._watched.pop(descriptor)
            self._poller.unregister(descriptor)
            self._receive()  # what it said before it died counts
            self._handle(on.WorkerDied(name, self._pool.reap(name)))
        for role in self._roles:
            if role.descriptor >= 0 and role.descriptor in ready:
                self._poller.unregister(role.descriptor)
                role.died(time.monotonic())

    def _start_roles(self) -> None:
        for role in self._roles:
            due_s = role.due_s()
            if due_s is not None and time.monotonic() >= due_s:
                role.start()
                self._poller.register(role.descriptor, zmq.POLLIN)

    # --- what goes out -----------------------------------------------------------------------------------------------

    def _handle(self, event: on.Event) -> None:
        now = _now()
        self._handled += 1
        step = self._core.handle(event, now)
        if step.writes and not self._committed(step):
            return
        for action in step.actions:
            self._carry_out(action)

    def _committed(self, step: do.Step) -> bool:
        """Write the step down, waiting for the disk as long as it takes; False when a person wants us to leave meanwhile."""
        told = False
        while True:
            try:
                self._journal.commit(step.writes)
            except sqlite3.OperationalError as error:
                if not told:
                    _log.error("the journal cannot be written, everything waits: free some disk space", error=str(error))
                    told = True
                self._orders.events(0)
                if self._orders.leave_now(time.monotonic()):
                    self._leaving = True
                    return False
                time.sleep(_DISK_PAUSE_S)
            else:
                return True

    def _carry_out(self, action: do.Action) -> None:
        match action:
            case do.Poll() | do.Acknowledge() | do.SayStatus() | do.SayComplete() | do.RenewLease():
                self._lanes.submit(action)
            case do.DispatchTo() | do.WarmUpAt() | do.CleanUpAt():
                self._send(*message_with_job(action, self._journal.payload(action.job_id)))
                _log_order(action)
            case do.StartWorker(name, number):
                self._pool.start(name, number)
            case do.KillWorker(worker, reason):
                _log.warning("ending a worker", worker=worker, error=reason)
                self._pool.kill(worker)
            case do.Note(level, message, job_id, details):
                values = {} if job_id is None else {"job_id": job_id}
                getattr(_log, level)(message, **values, **dict(details))
            case do.Exit():
                self._leaving = True
            case _:
                self._send(*message_of(action))

    def _send(self, identity: bytes, message: Message) -> None:
        """To a worker or the streamer. One that is gone misses it: its death, or its Ready, makes the core say it again."""
        try:
            self._router.send_multipart([identity, pack(message)], zmq.DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            _log.debug("not delivered", to=identity.decode(), message=type(message).__name__)


def _log_order(order: OrderWithJob) -> None:
    match order:
        case do.DispatchTo(worker, job_id, attempt, generation):
            _log.info("dispatched", job_id=job_id, worker=worker, attempt=attempt, generation=generation)
        case do.WarmUpAt(worker, job_id):
            _log.debug("warming up for jobs like this one", job_id=job_id, worker=worker)
        case do.CleanUpAt(worker, job_id, places):
            _log.info("cleaning up", job_id=job_id, worker=worker, places=places)


def _now() -> on.Now:
    return on.Now(time.monotonic(), time.time_ns() // 1_000_000)


def prepare_runtime_dir(path: Path) -> None:
    """Make the sockets' directory, for its owner only. Raises PermissionError when it belongs to somebody else."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(f"runtimeDir {path} belongs to user {found.st_uid}: name another one (CRONIUM_RUNTIME_DIR)")
    path.chmod(0o700)
