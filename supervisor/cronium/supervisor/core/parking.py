"""When jobs that wait for a server are tried again, and when no longer. Pure; part of the core.

Nothing of it is written down but what stands in a job's record: after a restart each is tried at once.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from cronium.supervisor.core.decisions import backoff
from cronium.supervisor.core.events import Now
from cronium.supervisor.core.rules import Rules

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_CALM_S = 120.0  # a job that was not parked for so long starts with the first pause again


@dataclass(slots=True)
class _Parked:
    host: str
    since_s: float
    times: int
    due_s: float


class Parking:
    """All parked jobs, and those that are kept from a server that is left alone."""

    def __init__(self, rules: Rules, jitter: random.Random) -> None:
        self._rules = rules
        self._random = jitter
        self._parked: dict[str, _Parked] = {}
        self._shut_out_s: dict[str, float] = {}

    def park(self, job_id: str, host: str, now: Now) -> None:
        """It has to wait for this server."""
        before = self._parked.get(job_id)
        times = before.times + 1 if before is not None and now.mono_s - before.since_s < _CALM_S else 1
        due_s = now.mono_s + backoff(times, _FIRST_PAUSE_S, _LONGEST_PAUSE_S, self._random)
        self._parked[job_id] = _Parked(host, now.mono_s, times, due_s)

    def wake(self, host: str) -> None:
        """The server answers: all that wait for it may be tried; not in a tight loop where it answers and then fails."""
        for parked in self._parked.values():
            if parked.host == host:
                parked.due_s = min(parked.due_s, parked.since_s + _FIRST_PAUSE_S)

    def was_tried(self, job_id: str) -> bool:
        """Whether somebody could not get there since our start."""
        return job_id in self._parked

    def is_due(self, job_id: str, now: Now) -> bool:
        """Whether it may be tried."""
        parked = self._parked.get(job_id)
        return parked is None or now.mono_s >= parked.due_s

    def has_waited_too_long(self, job_id: str, now: Now) -> bool:
        """A job that was never started is kept from its server, which is left alone; whether it has been long enough."""
        return now.mono_s - self._shut_out_s.setdefault(job_id, now.mono_s) >= self._rules.unreachable_after_s

    def let_in(self, job_id: str) -> None:
        """Its server may be tried (again)."""
        self._shut_out_s.pop(job_id, None)

    def forget(self, job_id: str) -> None:
        """It has ended."""
        self._parked.pop(job_id, None)
        self._shut_out_s.pop(job_id, None)

    def next_due_s(self, now_s: float) -> float:
        """When (monotonic) the next may be tried; what is due already waits for something else."""
        if not self._parked:
            return math.inf
        return min((p.due_s for p in self._parked.values() if p.due_s > now_s), default=math.inf)
