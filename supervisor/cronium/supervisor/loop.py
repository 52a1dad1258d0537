"""The supervisor's event loop: bytes in, events to the core, writes to the journal, actions out. Single-threaded.

It decides nothing about jobs. One poller waits for everything: workers, streamer and monitor (ROUTER), deaths (pidfds), the
backend's answers, signals. A step's writes are committed before any of its actions is carried out; when the disk is full the
step waits, and only leases are renewed.
"""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog
import zmq

from cronium.common.addresses import STREAMER_IDENTITY, SUPERVISOR, endpoint
from cronium.common.messages import Housekeep, HousekeepingDone, Message, PlacesSeen, StopStreamer, StreamerBeat
from cronium.common.wire import WireError, pack, unpack
from cronium.supervisor import health
from cronium.supervisor.backend.contract import HealthHeard
from cronium.supervisor.backend.lanes import BackendLanes
from cronium.supervisor.core import actions as do
from cronium.supervisor.core import events as on
from cronium.supervisor.core.core import Core
from cronium.supervisor.core.roles import FORKSERVER
from cronium.supervisor.journal import Journal, JournalError, advice
from cronium.supervisor.pool.descriptors import wait_readable
from cronium.supervisor.pool.forks import Started
from cronium.supervisor.pool.staff import Staff
from cronium.supervisor.pulse import Pulse
from cronium.supervisor.status.observer import Observer
from cronium.supervisor.status.report import Report
from cronium.supervisor.translate import OrderWithJob, event_of, message_of, message_with_job

_DISK_PAUSE_S = 1.0
_TOLD_AGAIN_S = 60.0
_LAST_TIDY_S = 0.9
_MOST_WAITING = 16  # messages of each process, some as large as what a job gave back; further ones wait where they come from
_MOST_BEFORE_A_LOOK = 10_000
_log = structlog.get_logger()


class Orders(Protocol):
    """What people ask of the loop (signals): see `stop.StopOrders`."""

    def fileno(self) -> int:
        """Readable when there is something new."""

    def events(self, busy: int, *, stuck: bool = False) -> list[on.Event]:
        """What the core is to be told; `busy` jobs are running. `stuck`: it is told later, as nothing can be written down."""

    def leave_now(self, now_s: float) -> bool:
        """Whether to leave, whatever still runs."""


class Loop:
    """Everything is handed in; `run` returns when the work is done or a person wants it to end."""

    def __init__(
        self,
        core: Core,
        journal: Journal,
        staff: Staff,
        lanes: BackendLanes,
        orders: Orders,
        runtime_dir: Path,
        observer: Observer,
        heartbeat_s: float,
    ) -> None:
        self._core, self._journal, self._staff, self._lanes, self._orders = core, journal, staff, lanes, orders
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a new process may take an old identity
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # what cannot be delivered is told, not dropped unseen
        self._router.setsockopt(zmq.RCVHWM, _MOST_WAITING)
        self._router.setsockopt(zmq.LINGER, 0)
        (runtime_dir / SUPERVISOR).unlink(missing_ok=True)
        self._router.bind(endpoint(runtime_dir, SUPERVISOR))
        self._poller = zmq.Poller()
        for descriptor in (lanes.fileno(), staff.fileno(), orders.fileno()):
            self._poller.register(descriptor, zmq.POLLIN)
        self._poller.register(self._router, zmq.POLLIN)
        self._pulse = Pulse(self._context, runtime_dir, heartbeat_s)
        self._watched: dict[int, str] = {}
        self._later: deque[on.Event] = deque()  # what came up while a step was being carried out, or waited for the disk
        self._leaving = False
        self._exit_code = 0
        self._handled = 0
        self._observer = observer
        self._health_due_s = 0.0
        self._waits_for_disk = False

    def run(self) -> int:
        """Until the core says Exit or a person insists; the process's exit code."""
        self._handle(on.Looked(()))  # by what this first step waits for its disk, the next look comes late
        while not self._leaving:
            ready = dict(self._poller.poll(self._pause_ms()))
            self._pulse.round(time.monotonic(), self._status)
            handled = self._handled
            if self._router in ready:
                self._receive()
            if self._lanes.fileno() in ready:
                for event in self._lanes.take():
                    self._observer.answered(event)
                    if not isinstance(event, HealthHeard):
                        self._handle(event)
            if self._staff.fileno() in ready:
                self._started()
            self._deaths(ready)
            for event in self._orders.events(self._busy()):
                self._handle(event)
            while self._later and not self._leaving:
                self._handle(self._later.popleft())
            if time.monotonic() >= self._core.next_look_s():
                self._look()
            if self._handled == handled:  # every event makes the core look at all that is due
                self._handle(on.Tick())
            if time.monotonic() >= self._health_due_s:
                self._say_health()
            self._leaving = self._leaving or self._orders.leave_now(time.monotonic())
        return self._exit_code

    def close(self, grace_s: float = 0.8) -> None:
        """End all our processes; what runs in places goes on."""
        self._tidy_last()
        deadline_s = time.monotonic() + grace_s
        self._send(STREAMER_IDENTITY, StopStreamer())
        self._staff.close(deadline_s)
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
        if self._later:
            return 0
        now = _now()
        due = min(self._core.next_due_s(now), self._core.next_look_s(), self._pulse.next_due_s())
        return 0 if due <= now.mono_s else round((due - now.mono_s) * 1000 + 0.5)

    def _receive(self, most: int = 200) -> None:
        for _ in range(most):  # then look at the others again
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
                self._observer.hears(message, time.monotonic())
            if (event := event_of(message)) is not None:
                self._handle(event)

    def _report(self) -> Report:
        return self._observer.report(self._core, time.monotonic(), journal_waits_for_disk=self._waits_for_disk)

    def _status(self) -> bytes:
        return self._report().to_json()

    def _say_health(self) -> None:
        self._health_due_s = time.monotonic() + health.INTERVAL_S
        self._lanes.submit(do.SayHealth(health.body(self._report())))

    def _look(self) -> None:
        """Whoever is judged now must have been heard before."""
        self._receive(_MOST_BEFORE_A_LOOK)
        self._handle(on.Looked(self._staff.awake(self._core.mute())))

    def _started(self) -> None:
        for started in self._staff.started():
            self._came_up(started)
        self._watch()

    def _came_up(self, started: Started) -> None:
        """A worker says itself that it is ready."""
        if started.name in self._staff.roles:
            if started.pid is None:
                self._later.append(on.RoleDied(started.name, started.error))
            else:
                self._later.append(on.RoleStarted(started.name))
        elif started.pid is None:
            self._later.append(on.WorkerDied(started.name, started.error))

    def _watch(self) -> None:
        """Have the poller wait for the death of everybody who is there now."""
        descriptors = self._staff.descriptors()
        for descriptor in self._watched.keys() - descriptors.keys():
            self._poller.unregister(descriptor)
        for descriptor in descriptors:
            self._poller.register(descriptor, zmq.POLLIN)  # once more changes nothing
        self._watched = descriptors

    def _deaths(self, ready: Mapping[object, int]) -> None:
        dead = [(descriptor, name) for descriptor, name in self._watched.items() if descriptor in ready]
        if not dead:
            return
        # Who dies with the forkserver can be seen a moment before it: its death has to be said first, as theirs follows from it.
        server = [one for one in self._watched.items() if one[1] == FORKSERVER and wait_readable(one[0], 0)]
        for descriptor, name in [*server, *(one for one in dead if one[1] != FORKSERVER)]:
            self._receive()  # what it said before it died counts; a role that is started then has everybody watched anew
            if self._watched.get(descriptor) != name:
                continue
            del self._watched[descriptor]
            self._poller.unregister(descriptor)
            reason = self._staff.reap(name)
            self._handle(on.RoleDied(name, reason) if name in self._staff.roles else on.WorkerDied(name, reason))

    # --- what goes out -----------------------------------------------------------------------------------------------

    def _handle(self, event: on.Event) -> None:
        now = _now()
        self._handled += 1
        step = self._core.handle(event, now)
        for action in self._committed(step) if step.writes else step.actions:
            self._carry_out(action)

    def _committed(self, step: do.Step) -> Sequence[do.Action]:
        """Write the step down, waiting for the disk as long as it takes; what is to be done then: nothing if a person wants us to
        leave. Leases are renewed meanwhile, or another host would get the jobs.
        """
        told_s: float | None = None
        while True:
            try:
                self._journal.commit(step.writes)
            except sqlite3.OperationalError as error:
                if told_s is None or time.monotonic() >= told_s + _TOLD_AGAIN_S:
                    told_s = time.monotonic()
                    _log.error(f"the journal cannot be written, everything waits: {advice(error)}", error=str(error))
                self._waits_for_disk = True
                self._later.extend(self._orders.events(self._busy(), stuck=True))
                if self._leaving or self._orders.leave_now(time.monotonic()):
                    self._leaving = True
                    return ()
                step = self._with_leases_kept(step)
                self._pulse.round(time.monotonic(), self._status)  # this is no hang
                wait_readable(self._orders.fileno(), _DISK_PAUSE_S)
            else:
                self._waits_for_disk = False
                return step.actions

    def _with_leases_kept(self, step: do.Step) -> do.Step:
        """The step that waits, with what has come of leases since; renewals have gone out, other answers are kept for later."""
        answers: list[on.LeaseRenewed | on.LeaseUnanswered] = []
        for event in self._lanes.take():
            self._observer.answered(event)
            if isinstance(event, on.LeaseRenewed | on.LeaseUnanswered):
                answers.append(event)
            elif not isinstance(event, HealthHeard):
                self._later.append(event)
        step, renewals = self._core.keep_leases(step, answers, _now())
        for renewal in renewals:
            self._lanes.submit(renewal)
        return step

    def _carry_out(self, action: do.Action) -> None:
        match action:
            case do.Poll() | do.Acknowledge() | do.SayStatus() | do.RenewLease():
                self._lanes.submit(action)
            case do.SayComplete():
                self._complete(action)
            case do.DispatchTo() | do.WarmUpAt() | do.CleanUpAt():
                self._order(action)
            case do.StartWorker(name, number):
                self._staff.start_worker(name, number)
            case do.StartRole(role):
                if (started := self._staff.start_role(role)) is not None:
                    self._came_up(started)
                self._watch()
            case do.DumpStack(name):
                self._staff.signal(name, signal.SIGUSR2)
            case do.KillWorker(name, reason) | do.EndRole(name, reason):
                _log.warning("ending a process", process=name, error=reason)
                self._staff.kill(name)
            case do.Note(level, message, job_id, details):
                values = {} if job_id is None else {"job_id": job_id}
                getattr(_log, level)(message, **values, **dict(details))
            case do.Exit(code, reason):
                if code:
                    _log.error("leaving, so that whoever has started the supervisor decides", error=reason, code=code)
                self._leaving, self._exit_code = True, code
            case _:
                self._send(*message_of(action))

    def _complete(self, action: do.SayComplete) -> None:
        """Report it, with what the job gave back. Where that cannot be read it is tried again, as when a backend is away."""
        try:
            outcome = self._journal.ended(action.job_id).outcome
        except JournalError as error:
            self._later.append(on.Unanswered(action.job_id, action.key, str(error)))
        else:
            self._lanes.submit(replace(action, outcome=outcome))

    def _order(self, action: OrderWithJob) -> None:
        """Send the order, with its job. Of one that cannot be read the worker is ended, so that the job goes the way of any whose
        worker is lost: on with another one, and after some of them to its end.
        """
        try:
            payload = self._journal.payload(action.job_id)
        except JournalError as error:
            _log.error("a job cannot be read, others go on: check the disk", job_id=action.job_id, error=str(error))
            if isinstance(action, do.DispatchTo):
                self._staff.kill(action.worker)
        else:
            self._send(*message_with_job(action, payload))
            _log_order(action)

    def _busy(self) -> int:
        return sum(1 for worker in self._core.workers() if worker.job_id is not None)

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
