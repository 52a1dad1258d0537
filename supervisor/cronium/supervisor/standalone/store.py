"""What the queue keeps of jobs: SQL in, values out. Used inside a transaction, by the database's thread only.

No decision is made here. Log lines are in log_store.py. Bodies that may hold secrets are sealed before they are stored.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from cronium.common.crypto import Seal
from cronium.supervisor.standalone.log_store import LogStore
from cronium.supervisor.standalone.rules import Job, Status

BlobKind = Literal["spec", "details", "report"]

_COLUMNS = tuple(field.name for field in dataclasses.fields(Job))
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM jobs "  # noqa: S608  # names of our own class
_INSERT = f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
_FIXED = frozenset({"number", "id", "type", "executor", "priority", "created_ms", "scheduled_ms"})
_CHANGING = tuple(name for name in _COLUMNS if name not in _FIXED)
_UPDATE = f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in _CHANGING)} WHERE number = ?"  # noqa: S608
_FLAGS = tuple(_COLUMNS.index(name) for name in ("acknowledged", "cancel_told", "log_refused"))
_ID, _STATUS, _REACHED, _LEASE = (_COLUMNS.index(name) for name in ("id", "status", "reached", "lease_token"))
_MAX_ORCHESTRATORS = 100


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer that was given to a request with an Idempotency-Key."""

    status: int
    body: Any


@dataclass(frozen=True, slots=True)
class OrchestratorRow:
    """An orchestrator's last health report."""

    id: str
    seen_ms: int
    health: Any


class Store:
    """The tables of jobs, answers and orchestrators; `logs` has the lines."""

    def __init__(self, connection: sqlite3.Connection, seal: Seal) -> None:
        self._sql = connection
        self._seal = seal
        self.logs = LogStore(connection)

    # --- jobs

    def job(self, job_id: str) -> Job | None:
        """The job of that id."""
        row = self._sql.execute(_SELECT + "WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else self._job(row)

    def add(self, job: Job) -> Job:
        """Store a new job (its number is given here). Raises sqlite3.IntegrityError when the id is taken."""
        values = [None if name == "number" else self._stored(job, name) for name in _COLUMNS]
        number = self._sql.execute(_INSERT, values).lastrowid
        return dataclasses.replace(job, number=int(number or 0))

    def save(self, job: Job) -> None:
        """Store what changes of a job."""
        self._sql.execute(_UPDATE, [*(self._stored(job, name) for name in _CHANGING), job.number])

    def due(self, now_ms: int, min_priority: int, types: Sequence[str], limit: int) -> list[Job]:
        """Queued jobs whose time has come, the most urgent and then the oldest first. No `types` means all."""
        clause = f"AND type IN ({', '.join('?' * len(types))}) " if types else ""
        rows = self._sql.execute(
            _SELECT + "WHERE status = 'queued' AND scheduled_ms <= ? AND priority >= ? "
            f"{clause}ORDER BY priority DESC, number LIMIT ?",
            (now_ms, min_priority, *types, limit),
        )
        return [self._job(row) for row in rows]

    def next_scheduled(self, after_ms: int, until_ms: int) -> bool:
        """Whether a queued job's time came in after_ms < time <= until_ms."""
        found = self._sql.execute(
            "SELECT 1 FROM jobs WHERE status = 'queued' AND scheduled_ms > ? AND scheduled_ms <= ? LIMIT 1",
            (after_ms, until_ms),
        )
        return found.fetchone() is not None

    def leases_over(self, now_ms: int, limit: int) -> list[Job]:
        """Jobs whose offer or lease has run out."""
        rows = self._sql.execute(_SELECT + "WHERE lease_ms IS NOT NULL AND lease_ms <= ? LIMIT ?", (now_ms, limit))
        return [self._job(row) for row in rows]

    def cancelled_of(self, orchestrator: str) -> list[Job]:
        """Jobs of an orchestrator that are to end and either still run or were not told to it."""
        rows = self._sql.execute(
            _SELECT + "WHERE owner = ? AND cancel_ms IS NOT NULL AND (cancel_told = 0 OR ended_ms IS NULL) LIMIT 1000",
            (orchestrator,),
        )
        return [self._job(row) for row in rows]

    def listed(self, statuses: Sequence[str], executor: str | None, before: int | None, limit: int) -> list[Job]:
        """Jobs, the newest first. `before` is the number of the last job of the page before."""
        clauses, values = ["number < ?"], [before if before is not None else 2**62]
        parameters: list[Any] = list(values)
        if statuses:
            clauses.append(f"status IN ({', '.join('?' * len(statuses))})")
            parameters += statuses
        if executor is not None:
            clauses.append("executor = ?")
            parameters.append(executor)
        rows = self._sql.execute(_SELECT + f"WHERE {' AND '.join(clauses)} ORDER BY number DESC LIMIT ?", (*parameters, limit))
        return [self._job(row) for row in rows]

    def count(self, *statuses: Status) -> int:
        """How many jobs have one of these statuses."""
        marks = ", ".join("?" * len(statuses))
        row = self._sql.execute(f"SELECT sum(jobs) FROM counts WHERE status IN ({marks})", statuses).fetchone()  # noqa: S608
        return int(row[0] or 0)

    def oldest_ended(self, ended_before_ms: int, limit: int) -> list[int]:
        """Numbers of jobs that ended before, the first to end first."""
        rows = self._sql.execute(
            "SELECT number FROM jobs WHERE ended_ms IS NOT NULL AND ended_ms < ? ORDER BY ended_ms LIMIT ?",
            (ended_before_ms, limit),
        )
        return [row[0] for row in rows]

    def remove(self, number: int) -> None:
        """Forget a job whose lines are gone already."""
        self._sql.execute("DELETE FROM blobs WHERE job = ?", (number,))
        self._sql.execute("DELETE FROM jobs WHERE number = ?", (number,))

    def _stored(self, job: Job, name: str) -> Any:
        value = getattr(job, name)
        return self._seal.close(value.encode(), f"{job.id}/lease") if name == "lease_token" and value is not None else value

    def _job(self, row: Sequence[Any]) -> Job:
        values = list(row)
        for index in _FLAGS:
            values[index] = bool(values[index])
        values[_STATUS] = Status(values[_STATUS])
        values[_REACHED] = None if values[_REACHED] is None else Status(values[_REACHED])
        if values[_LEASE] is not None:
            values[_LEASE] = self._seal.open(values[_LEASE], f"{values[_ID]}/lease").decode()
        return Job(*values)

    # --- bodies

    def put_blob(self, job: Job, kind: BlobKind, value: Any) -> None:
        """Store JSON of a job, sealed."""
        body = self._seal.close(orjson.dumps(value), f"{job.id}/{kind}")
        self._sql.execute("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?)", (job.number, kind, body))

    def blob(self, job: Job, kind: BlobKind) -> Any:
        """The JSON of a job, None when there is none. Raises SealError with the wrong key."""
        row = self._sql.execute("SELECT body FROM blobs WHERE job = ? AND kind = ?", (job.number, kind)).fetchone()
        return None if row is None else orjson.loads(self._seal.open(row[0], f"{job.id}/{kind}"))

    # --- answers given to keys

    def answer(self, scope: str, key: str) -> StoredAnswer | None:
        """What was answered to that key in that scope."""
        row = self._sql.execute("SELECT status, body FROM answers WHERE scope = ? AND key = ?", (scope, key)).fetchone()
        return None if row is None else StoredAnswer(row[0], orjson.loads(self._seal.open(row[1], f"{scope}/{key}")))

    def keep_answer(self, scope: str, key: str, now_ms: int, status: int, body: Any) -> None:
        """Remember an answer."""
        sealed = self._seal.close(orjson.dumps(body), f"{scope}/{key}")
        self._sql.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", (scope, key, now_ms, status, sealed))

    def forget_answers(self, before_ms: int, limit: int) -> None:
        """Drop answers given before."""
        self._sql.execute(
            "DELETE FROM answers WHERE (scope, key) IN (SELECT scope, key FROM answers WHERE created_ms < ? LIMIT ?)",
            (before_ms, limit),
        )

    # --- orchestrators

    def keep_health(self, orchestrator: str, now_ms: int, health: Any) -> None:
        """Remember an orchestrator's last health report; the longest silent are forgotten."""
        self._sql.execute("INSERT OR REPLACE INTO orchestrators VALUES (?, ?, ?)", (orchestrator, now_ms, orjson.dumps(health)))
        self._sql.execute(
            "DELETE FROM orchestrators WHERE id NOT IN (SELECT id FROM orchestrators ORDER BY seen_ms DESC LIMIT ?)",
            (_MAX_ORCHESTRATORS,),
        )

    def orchestrators(self) -> list[OrchestratorRow]:
        """Those that reported, the latest first."""
        rows = self._sql.execute("SELECT id, seen_ms, health FROM orchestrators ORDER BY seen_ms DESC")
        return [OrchestratorRow(row[0], row[1], orjson.loads(row[2])) for row in rows]

    def used_bytes(self) -> int:
        """What the database holds."""
        pages, free, size = (
            self._sql.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def give_space_back(self, pages: int) -> None:
        """Return free pages of the file to the file system."""
        (free,) = self._sql.execute("PRAGMA freelist_count").fetchone()
        for _ in range(min(pages, free)):
            self._sql.execute("PRAGMA incremental_vacuum(1)")  # takes one step, whatever the number: one page
