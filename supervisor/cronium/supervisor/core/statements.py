"""What is to be said to the backend about each job, one statement at a time. Pure; part of the core.

`acknowledge` and `complete` are owed until they are taken; each has one key, derived from what it says, so it is the same after
a crash. A status is only ever the latest, and is repeated as a heartbeat: its answer is how the backend orders a cancel.

Only a few reports are being made at a time: each holds what its job gave back and its last output in memory, and a thousand of
them may wait for a backend that is away.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass

from cronium.common.messages import Summary
from cronium.supervisor.core import actions as do
from cronium.supervisor.core.decisions import backoff
from cronium.supervisor.core.events import Now
from cronium.supervisor.core.rules import Rules
from cronium.supervisor.core.state import Ended, JobRecord, JobState

_ASK_AGAIN_S = 5.0  # for a summary that does not come
_MOST_COMPLETES = 4  # as many as there are threads for them (backend/lanes.py)
_OVER = "over"  # what is on its way was said of a job that is done


@dataclass(slots=True)
class _Line:
    """The statements of one job: what is on its way, when the next may go."""

    in_flight: str | None = None
    kind: str = ""
    failures: int = 0
    not_before_s: float = 0.0
    status: str | None = None
    percentage: float | None = None
    message: str | None = None
    waits: str | None = None
    changed: bool = False
    count: int = 0
    said_s: float = 0.0
    asked_s: float | None = None
    summary: Summary | None = None


class Statements:
    """All lines."""

    def __init__(self, rules: Rules, jitter: random.Random) -> None:
        self._rules = rules
        self._random = jitter
        self._lines: dict[str, _Line] = {}
        self._completing: set[str] = set()  # jobs whose summary was asked for, or whose report is on its way
        self._run = f"{jitter.getrandbits(32):08x}"
        self._due_s = 0.0

    def status(self, job_id: str, status: str | None, percentage: float | None, message: str | None) -> None:
        """Something new to tell about a running job."""
        line = self._line(job_id)
        if status is not None and status != line.status:
            line.status, line.changed = status, True
        line.percentage = percentage if percentage is not None else line.percentage
        line.message = message if message is not None else line.message

    def waits(self, job_id: str, reason: str | None) -> None:
        """Why a job that was started stands still, None when it goes on; said instead of what its script last said."""
        line = self._line(job_id)
        line.changed = line.changed or line.waits != reason
        line.waits = reason

    def new_attempt(self, job_id: str) -> None:
        """What was said of the last attempt is over."""
        if line := self._lines.get(job_id):
            line.status = line.percentage = line.message = None
            line.changed = False

    def runs(self, record: JobRecord) -> bool:
        """Whether its worker has said that the script of the current attempt runs."""
        line = self._lines.get(record.job_id)
        return record.state is JobState.RUNNING and line is not None and line.status == "running"

    def progress(self, job_id: str) -> tuple[float | None, str | None]:
        """What the script last said of its progress."""
        line = self._lines.get(job_id)
        return (None, None) if line is None else (line.percentage, line.message)

    def taken(self, job_id: str, key: str) -> str | None:
        """A statement has been answered for good: its kind, None if it is not the one on its way."""
        line = self._answered(job_id, key)
        if line is None:
            return None
        line.in_flight, line.failures, line.not_before_s = None, 0, 0.0
        self._completing.discard(job_id)
        return line.kind

    def failed(self, job_id: str, key: str, now_s: float, retry_after_s: float | None) -> None:
        """A statement did not get through."""
        line = self._answered(job_id, key)
        if line is None:
            return
        line.in_flight = line.asked_s = line.summary = None
        self._completing.discard(job_id)
        line.failures += 1
        pause = backoff(line.failures, self._rules.retry_first_s, self._rules.retry_longest_s, self._random)
        line.not_before_s = now_s + max(pause, retry_after_s or 0.0)

    def summary(self, summary: Summary) -> None:
        """The streamer's answer."""
        if summary.job_id in self._completing:
            self._line(summary.job_id).summary = summary

    def summaries_lost(self) -> None:
        """The streamer that was asked is gone: ask the new one."""
        for line in self._lines.values():
            line.asked_s = None

    def forget(self, job_id: str) -> None:
        """Nothing more will be said about this job; should it come again, then not before what is on its way is answered."""
        line = self._lines.pop(job_id, None)
        self._completing.discard(job_id)
        if line is not None and line.in_flight is not None:
            self._lines[job_id] = _Line(in_flight=line.in_flight, kind=_OVER)

    def next_due_s(self, now_s: float) -> float:
        """When (monotonic) `due` may have something new."""
        return max(self._due_s, now_s + 0.01)

    def due(self, jobs: Mapping[str, JobRecord], ended: Mapping[str, Ended], now: Now, running: int) -> list[do.Action]:
        """What is to be said now, at most one statement a job; `running` jobs share the backend's limit for statuses."""
        out: list[do.Action] = []
        interval_s = max(self._rules.status_interval_s, running / self._rules.status_per_s)
        self._due_s = now.mono_s + 3600.0
        for record in jobs.values():
            if record.lost:
                continue
            line = self._lines.get(record.job_id) or self._line(record.job_id)
            if line.in_flight is not None:
                continue
            if now.mono_s < line.not_before_s:
                if line.not_before_s < self._due_s:
                    self._due_s = line.not_before_s
                continue
            if not record.acknowledged:
                key = _key(record.job_id, "acknowledge", record.delivered_ms)
                out.append(do.Acknowledge(record.job_id, self._send(line, "acknowledge", key)))
            elif record.state is JobState.ENDED:
                out.extend(self._complete(line, record, ended[record.job_id], now))
            elif record.parked is not None or (record.state is JobState.RUNNING and line.status is not None):
                out.extend(self._status(line, record, now, interval_s))
        return out

    def _complete(self, line: _Line, record: JobRecord, ended: Ended, now: Now) -> list[do.Action]:
        if record.job_id not in self._completing:
            if len(self._completing) >= _MOST_COMPLETES:
                return []  # its turn comes when one of them is answered
            self._completing.add(record.job_id)
        if line.summary is None or line.summary.epoch != record.epoch:
            if line.asked_s is not None and now.mono_s - line.asked_s < _ASK_AGAIN_S:
                self._due_s = min(self._due_s, line.asked_s + _ASK_AGAIN_S)
                return []
            line.asked_s = now.mono_s
            return [do.Summarize(record.job_id, record.epoch)]
        key = self._send(line, "complete", _key(record.job_id, "complete", record.received_ms, record.epoch))
        return [do.SayComplete(record.job_id, key, record.epoch, ended.attempt, ended.outcome, line.summary)]

    def _status(self, line: _Line, record: JobRecord, now: Now, interval_s: float) -> list[do.Action]:
        due_s = line.said_s + interval_s
        if not line.changed and now.mono_s < due_s:
            self._due_s = min(self._due_s, due_s)
            return []
        line.changed, line.said_s = False, now.mono_s
        line.count += 1
        status = line.status or ("running" if record.begun else "preparing")  # after a restart nobody has said it yet
        message = line.waits or line.message
        key = self._send(line, "status", _key(record.job_id, f"status-{self._run}", record.received_ms, line.count))
        attempt = record.attempt if record.place is not None else record.attempt + 1  # it waits to be made, once more
        return [do.SayStatus(record.job_id, key, record.epoch, status, attempt, line.percentage, message)]

    @staticmethod
    def _send(line: _Line, kind: str, key: str) -> str:
        line.in_flight, line.kind = key, kind
        return key

    def _answered(self, job_id: str, key: str) -> _Line | None:
        line = self._lines.get(job_id)
        if line is None or line.in_flight != key:
            return None
        if line.kind == _OVER:
            del self._lines[job_id]
            return None
        return line

    def _line(self, job_id: str) -> _Line:
        line = self._lines.get(job_id)
        if line is None:
            line = self._lines[job_id] = _Line()
        return line


def _key(job_id: str, kind: str, *numbers: int) -> str:
    """An Idempotency-Key: the same whenever the same statement is made, and never for another one."""
    return hashlib.sha256("\0".join((job_id, kind, *map(str, numbers))).encode()).hexdigest()[:32]
