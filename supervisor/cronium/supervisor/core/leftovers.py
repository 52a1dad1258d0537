"""Directories on servers that could not be removed when their job ended: when they are tried again. Pure; part of the core.

Which they are stands in the jobs' records. One look is on its way at a time; it needs the job's payload, which tells how to get
to its servers. What nobody gets to removes itself in the end (`ssh.execution.remoteTtl`).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from cronium.common.servers import host_of
from cronium.supervisor.core.decisions import backoff
from cronium.supervisor.core.events import Now
from cronium.supervisor.core.state import JobRecord

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 600.0


@dataclass(slots=True)
class _Left:
    hosts: frozenset[str]
    due_s: float
    tried_s: float = -math.inf
    tries: int = 0


class Leftovers:
    """The jobs that have some."""

    def __init__(self, jitter: random.Random) -> None:
        self._random = jitter
        self._left: dict[str, _Left] = {}
        self._worker: str | None = None

    def __len__(self) -> int:
        return len(self._left)

    def note(self, record: JobRecord) -> None:
        """A job as it is now."""
        if not record.leftovers:
            self._left.pop(record.job_id, None)
        elif record.job_id not in self._left:
            self._left[record.job_id] = _Left(frozenset(map(host_of, record.servers)), due_s=0.0)

    def forget(self, job_id: str) -> None:
        """The job is not known any more."""
        self._left.pop(job_id, None)

    def contact(self, host: str) -> None:
        """The server answers: try soon what is left there."""
        for left in self._left.values():
            if host in left.hosts:
                left.due_s = min(left.due_s, left.tried_s + _FIRST_PAUSE_S)

    def due(self, now: Now) -> list[str]:
        """The jobs whose leftovers may be tried now, the longest waiting first; none while somebody is at it."""
        if self._worker is not None or not self._left:
            return []
        return sorted((j for j, left in self._left.items() if left.due_s <= now.mono_s), key=lambda j: self._left[j].due_s)

    def begins(self, job_id: str, worker: str, now: Now) -> None:
        """A worker goes there."""
        self._worker = worker
        left = self._left[job_id]
        left.tries += 1
        left.tried_s = now.mono_s
        left.due_s = now.mono_s + backoff(left.tries, _FIRST_PAUSE_S, _LONGEST_PAUSE_S, self._random)

    def ends(self, worker: str) -> bool:
        """A worker has come back, or died; whether it was at it."""
        if self._worker != worker:
            return False
        self._worker = None
        return True

    def next_due_s(self, now_s: float) -> float:
        """When (monotonic) the next may be tried; what is due already waits for something else."""
        if not self._left:
            return math.inf
        return min((left.due_s for left in self._left.values() if left.due_s > now_s), default=math.inf)
