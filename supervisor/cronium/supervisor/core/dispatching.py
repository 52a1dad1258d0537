"""Which ready job goes to which worker, and why the others wait. Pure; part of the core.

In order: what already has a place (a job that was never parked first: only a worker can say until when it may wait; then one on
servers, for its way is longer), then by priority, then by arrival. A job that cannot go holds up nobody behind it, but keeps its
room on full servers from those. Only a few at once are on their way to a server that may not answer, or every worker could hang
there. A job in a container goes to the worker with the fewest connections; one on servers to the one with the most of its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cronium.common.servers import host_of
from cronium.supervisor.core import actions as do
from cronium.supervisor.core.breakers import Breakers, Obstacle
from cronium.supervisor.core.crew import Crew
from cronium.supervisor.core.events import Now
from cronium.supervisor.core.parking import Parking
from cronium.supervisor.core.rules import Rules
from cronium.supervisor.core.servers import Servers
from cronium.supervisor.core.state import JobRecord


@dataclass(slots=True)
class Round:
    """What was decided. `given`: job, worker, and the place of the launcher that waits for it, if one does. `waits`: why the
    servers of a job keep it waiting, None when they do not. `fails`: jobs that are not to wait any longer.
    """

    given: list[tuple[JobRecord, str, str | None]] = field(default_factory=list)
    waits: dict[str, str | None] = field(default_factory=dict)
    fails: list[tuple[JobRecord, str]] = field(default_factory=list)


@dataclass(slots=True)
class Dispatching:
    """Decides with the others' help, and tells them what it has decided."""

    rules: Rules
    draft: do.Draft
    crew: Crew
    servers: Servers
    breakers: Breakers
    parking: Parking
    _reserved: Counter[str] = field(default_factory=Counter)
    # Of this round: why the jobs on these servers wait, and how many may be on their way to a host at once.
    _shut: dict[tuple[str, ...], Obstacle] = field(default_factory=dict)
    _most: dict[str, float] = field(default_factory=dict)

    def choose(self, ready: Sequence[JobRecord], now: Now, *, more_follow: bool) -> Round:
        """One round. `more_follow`: more jobs are to be expected, so connections may be warmed up."""
        made = Round()
        self._reserved.clear()
        self._shut.clear()
        self._most.clear()
        if not ready:
            return made
        idle = [worker.name for worker in self.crew if worker.idle()]
        running = self.crew.busy()
        for record in sorted(ready, key=_rank):
            may_start = bool(idle) and (running < self.rules.max_concurrent or _is_running(record))
            worker = self._server_worker(record, idle, now, made, may_start=may_start) if record.servers else None
            if not record.servers and may_start:
                worker = min(idle, key=lambda name: len(self.servers.held(name)))
            if worker is None:
                continue
            idle.remove(worker)
            running += 1
            self.servers.begins(worker, record.servers, now)
            slot = self.servers.take_slot(worker, record.servers) if record.place is None else None
            made.given.append((record, worker, slot))
        if more_follow and made.given:
            self._warm_up(made, ready, idle, now)
        return made

    def cleaner(self, record: JobRecord, now: Now) -> str | None:
        """An idle worker that can get to this job's servers; it has the order from now on."""
        hosts = _hosts(record)
        idle = [worker.name for worker in self.crew if worker.idle()]
        self._most.clear()
        if self.breakers.obstacle(hosts) is not None or self._crowd(record, hosts, idle, now) is not None:
            return None
        worker = self._best(record, idle)
        if worker is None and idle:
            self._make_room(record, idle, now)
        if worker is not None:
            self.servers.begins(worker, record.servers, now)
            self.breakers.begins(worker, hosts)
        return worker

    def _server_worker(self, record: JobRecord, idle: list[str], now: Now, made: Round, *, may_start: bool) -> str | None:
        if record.parked is not None and not self.parking.is_due(record.job_id, now):
            return None
        running = _is_running(record)
        obstacle = None if running else self._shut.get(record.servers)
        if obstacle is None:
            hosts = _hosts(record)
            obstacle = self.breakers.obstacle(hosts) or (None if running else self._crowd(record, hosts, idle, now))
        if obstacle is not None:
            if not running:  # stays so until this round is over
                self._shut[record.servers] = obstacle
            made.waits[record.job_id] = obstacle.reason
            if self._has_waited_enough(record, obstacle, now):
                made.fails.append((record, obstacle.reason))
            return None
        self.parking.let_in(record.job_id)
        if record.parked is None:
            made.waits[record.job_id] = None
        if not may_start:
            return None
        worker = self._best(record, idle)
        if worker is None:
            made.waits[record.job_id] = self._make_room(record, idle, now)
            self._reserved.update(record.servers)
            return None
        self.breakers.begins(worker, hosts)
        return worker

    def _crowd(self, record: JobRecord, hosts: tuple[str, ...], idle: list[str], now: Now) -> Obstacle | None:
        """Enough workers are on their way to one of its servers, of which nobody knows that it answers."""
        for key, host in zip(record.servers, hosts, strict=True):
            most = self._most.get(host)
            if most is None:
                most = self._most[host] = self._most_dials(host)
            if self.servers.dialing(host, now) >= most and not any(self.servers.has(worker, key) for worker in idle):
                return Obstacle(f"server {host} has not answered yet, and is being tried", open=False)
        return None

    def _most_dials(self, host: str) -> float:
        """One after a failure, half of all before the first connection; then there is no such limit, and none for a trial."""
        if self.breakers.is_failing(host):
            return 1
        if self.breakers.is_on_trial(host) or self.servers.is_known_to_work(host):
            return math.inf
        return max(1, self.rules.max_concurrent // 2)

    def _has_waited_enough(self, record: JobRecord, obstacle: Obstacle, now: Now) -> bool:
        """Only for jobs that were not started; what may be running on a server is waited for until its own end."""
        if record.begun or _is_running(record) or not obstacle.open:
            return False
        return self.rules.breaker_fails or (record.parked is None and self.parking.has_waited_too_long(record.job_id, now))

    def _best(self, record: JobRecord, idle: Iterable[str]) -> str | None:
        """The idle worker that needs the fewest new connections for it, if there is room for all of them."""
        if not all(self.servers.is_capacity(key, self._reserved[key]) for key in record.servers):
            return None
        best: tuple[tuple[int, bool, int], str] | None = None
        for worker in idle:
            held = self.servers.held(worker)
            missing = [key for key in record.servers if key not in held]
            if not all(self.servers.is_room(key) for key in missing):
                continue
            slot = len(record.servers) == 1 and self.servers.slot(worker, record.servers[0]) is not None
            rank = (len(missing), not slot, len(held))
            if best is None or rank < best[0]:
                best = (rank, worker)
        return None if best is None else best[1]

    def _make_room(self, record: JobRecord, idle: list[str], now: Now) -> str:
        """Have unused connections closed that are in its way; why it waits."""
        for key in record.servers:
            if not self.servers.is_capacity(key, self._reserved[key]):
                most = self.rules.connections_per_server
                return f"all {most} connections to {_shown(key)} are in use (ssh.connectionPool.maxPerServer)"
        own = max(idle, key=lambda name: len(self.servers.held(name).intersection(record.servers)))
        held = self.servers.held(own)
        for key in record.servers:
            if key not in held and not self.servers.is_room(key):
                worker = self.servers.in_the_way(key, own, now)
                if worker is not None:
                    self.draft.actions.append(do.ReleaseAt(worker, (key,)))
        return "unused connections of other workers to its servers are being closed first"

    def _warm_up(self, made: Round, ready: Sequence[JobRecord], idle: list[str], now: Now) -> None:
        """Where jobs come one after the other, have the next one's connection ready."""
        given = {record.job_id for record, _, _ in made.given}
        waiting = {key for record in ready if record.job_id not in given for key in record.servers}
        for record, _, _ in made.given:
            if len(record.servers) != 1:
                continue
            key = record.servers[0]
            again = self.servers.used_again(key, now)
            if not (again or key in waiting) or not idle or self._reserved[key] or not self.breakers.are_closed(_hosts(record)):
                continue
            if not self.servers.is_room(key) or any(key in self.servers.held(worker) for worker in idle):
                continue
            worker = min(idle, key=lambda name: len(self.servers.held(name)))
            self.servers.warms(worker, key, now)
            self.draft.actions.append(do.WarmUpAt(worker, record.job_id))


def _rank(record: JobRecord) -> tuple[bool, bool, bool, int, int]:
    placed = record.place is not None
    return (not placed, record.parked is not None, placed and not record.servers, -record.priority, record.received_ms)


def _is_running(record: JobRecord) -> bool:
    """Whether something of it may run already, with nobody to look after it."""
    return record.place is not None and record.parked is None


def _hosts(record: JobRecord) -> tuple[str, ...]:
    return tuple(map(host_of, record.servers))


def _shown(key: str) -> str:
    return key.rpartition("#")[0]
