"""Puts together how the supervisor is, from the core, the streamer's beats and the backend's answers.

Runs in the supervisor's loop, once a second: nothing here may take long, so the kernel is not asked about processes.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Mapping
from itertools import islice
from operator import itemgetter

from cronium.common import VERSION
from cronium.common.messages import StreamerBeat
from cronium.supervisor.backend.contract import HealthHeard, iso_now
from cronium.supervisor.backend.lanes import BackendEvent
from cronium.supervisor.core import events as on
from cronium.supervisor.core.core import Core
from cronium.supervisor.core.state import JobState
from cronium.supervisor.status.reasons import reasons
from cronium.supervisor.status.report import (
    MOST_REASON,
    MOST_SERVERS,
    MOST_SET_ASIDE,
    Backend,
    Kind,
    Output,
    Report,
    Servers,
    SetAside,
)

RECENT_S = 35.0  # a report to the backend every half minute misses nothing
_BEAT_IS_OLD_S = 5.0
_STATES = tuple(state for state in JobState if state is not JobState.DONE)
_ENDS = ("completed", "failed", "timeout", "cancelled")


class Observer:
    """What is known between two reports. Times are monotonic seconds."""

    def __init__(self, installation: str) -> None:
        self._installation = installation
        self._started_s = time.monotonic()
        self._started_at = iso_now()
        self._backend = Backend()
        self._beat: StreamerBeat | None = None
        self._beat_s = 0.0
        self._counted: dict[str, Mapping[str, int]] = {}
        self._changed_s: dict[str, float] = {}

    def hears(self, beat: StreamerBeat, now_s: float) -> None:
        """The streamer's word on itself."""
        self._beat, self._beat_s = beat, now_s

    def answered(self, event: BackendEvent) -> None:
        """What came of a request to the backend."""
        match event:
            case on.PollFailed(_, reason) | on.Unanswered(_, _, reason):
                self._backend = Backend(works=False, error=_text(reason))
            case HealthHeard(str(error)):
                self._backend = Backend(works=False, error=_text(error))
            case on.LeaseUnanswered():
                self._backend = Backend(works=False, error=self._backend.error or "a lease could not be renewed")
            case _:
                self._backend = Backend(works=True)

    def report(self, core: Core, now_s: float, *, journal_waits_for_disk: bool) -> Report:
        """How it is now."""
        if journal_waits_for_disk:
            self._beat_s = now_s  # nobody is heard meanwhile, so the streamer's silence says nothing
        counts, aside = core.counts(), core.set_aside()
        output, servers = self._output(now_s), _servers(core)
        found = reasons(self._backend, output, servers, journal_waits_for_disk=journal_waits_for_disk)
        return Report(
            status="degraded" if found else "healthy",
            reasons=found,
            version=VERSION,
            installation=self._installation,
            pid=os.getpid(),
            started_at=self._started_at,
            timestamp=iso_now(),
            uptime_s=round(now_s - self._started_s, 1),
            draining=core.draining,
            journal_waits_for_disk=journal_waits_for_disk,
            jobs={state.value: counts.get(state, 0) for state in _STATES},
            ended_jobs={status: counts.get(status, 0) for status in _ENDS},
            set_aside_count=len(aside),
            set_aside=tuple(
                SetAside(job_id=_text(job_id), reason=_text(aside[job_id])) for job_id in islice(reversed(aside), MOST_SET_ASIDE)
            ),
            backend=self._backend,
            output=output,
            servers=servers,
            processes=self._processes(core.processes(), now_s),
        )

    def _output(self, now_s: float) -> Output:
        beat = self._beat
        if beat is None:
            return Output()
        heard = now_s - self._beat_s < _BEAT_IS_OLD_S
        return Output(
            heard=heard,
            connected=heard and beat.connected,
            reconnects=beat.reconnects,
            lines_given_up=beat.given_up_lines,
            lines_refused=beat.lines_refused,
            spool_bytes=beat.spool_bytes,
            spool_max_bytes=beat.spool_max_bytes,
            spool_full=beat.spool_full,
        )

    def _processes(self, counted: Mapping[str, Mapping[str, int]], now_s: float) -> dict[str, Kind]:
        for kind, figures in counted.items():
            if self._counted.get(kind, figures) != figures:
                self._changed_s[kind] = now_s
            self._counted[kind] = figures
        return {
            kind: Kind(
                restarts=figures["restarts"],
                hung=figures["hung"],
                recently=kind in self._changed_s and now_s - self._changed_s[kind] < RECENT_S,
            )
            for kind, figures in counted.items()
        }


def _servers(core: Core) -> Servers:
    found = Servers.model_validate(core.servers())
    most = heapq.nlargest(MOST_SERVERS, found.connections.items(), key=itemgetter(1))
    return found.model_copy(
        update={
            "connections": {_text(key): count for key, count in most},
            "open_breakers": tuple(map(_text, found.open_breakers[:MOST_SERVERS])),
            "half_open_breakers": tuple(map(_text, found.half_open_breakers[:MOST_SERVERS])),
            "open_breaker_count": len(found.open_breakers),
            "half_open_breaker_count": len(found.half_open_breakers),
        }
    )


def _text(said: str) -> str:
    """What others have said or named, for a terminal: short, with no control characters and nothing that is no Unicode."""
    return "".join(character if character.isprintable() else "?" for character in said[:MOST_REASON])
