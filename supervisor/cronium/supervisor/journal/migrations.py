"""From one schema of the journal to the next. A new file goes the same way, from nothing.

Each step is one transaction, with the version in it; before it a copy of the file is made beside it. What stands here is never
changed once released: it knows the rows of its own time, and nothing of the classes of today.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import orjson
import structlog

from cronium.common.crypto import Seal, SealError
from cronium.common.files import sync_folder
from cronium.supervisor.journal.errors import DamagedJobsError

APPLICATION_ID = 0x43524F4E  # 'CRON': SQLite's own mark of whose file it is
Migration = Callable[[sqlite3.Connection, Seal], None]
_log = structlog.get_logger()

_SCHEMA_1 = (
    """CREATE TABLE job (
      job_id TEXT PRIMARY KEY, state TEXT NOT NULL, record BLOB NOT NULL, payload BLOB NOT NULL, ended BLOB
    ) STRICT""",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) STRICT",
    f"PRAGMA application_id={APPLICATION_ID}",
)

_SCHEMA_2 = (
    "ALTER TABLE job RENAME TO job_1",
    """CREATE TABLE job (
      job_id TEXT PRIMARY KEY, state TEXT NOT NULL, priority INTEGER NOT NULL, attempt INTEGER NOT NULL,
      generation INTEGER NOT NULL, epoch INTEGER NOT NULL, deaths INTEGER NOT NULL, place TEXT, servers TEXT NOT NULL,
      begun INTEGER NOT NULL, acknowledged INTEGER NOT NULL, cancelled INTEGER NOT NULL, lost INTEGER NOT NULL,
      received_ms INTEGER NOT NULL, delivered_ms INTEGER NOT NULL, placed_ms INTEGER NOT NULL, lease_expires_ms INTEGER,
      retry_at_ms INTEGER NOT NULL, give_up_ms INTEGER, owed_ms INTEGER NOT NULL, done_ms INTEGER NOT NULL, sealed BLOB NOT NULL
    ) STRICT""",
    # Tables of their own: a record is written often, and SQLite writes whole rows.
    "CREATE TABLE payload (job_id TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT",
    "CREATE TABLE outcome (job_id TEXT PRIMARY KEY, sealed BLOB NOT NULL) STRICT",
    """CREATE TRIGGER job_removed AFTER DELETE ON job BEGIN
      DELETE FROM payload WHERE job_id = old.job_id;
      DELETE FROM outcome WHERE job_id = old.job_id;
    END""",
    """CREATE VIEW overview AS SELECT
      job_id, state, attempt, generation, epoch, place, servers, priority, owed_ms > 0 AS report_owed,
      datetime(nullif(owed_ms, 0) / 1000, 'unixepoch') AS owed_since, datetime(received_ms / 1000, 'unixepoch') AS received,
      datetime(nullif(placed_ms, 0) / 1000, 'unixepoch') AS placed, datetime(lease_expires_ms / 1000, 'unixepoch') AS lease_until,
      datetime(nullif(retry_at_ms, 0) / 1000, 'unixepoch') AS retry_at, datetime(give_up_ms / 1000, 'unixepoch') AS given_up_at,
      datetime(nullif(done_ms, 0) / 1000, 'unixepoch') AS done
    FROM job""",
)
_OF_A_FRAME_1 = {  # fields of what an outcome was made of, in the order of version 1 of the wire
    "outcome": ("status", "exit_code", "error", "started_ms", "ended_ms", "results", "usage", "servers"),
    "error": ("type", "reason", "message", "retryable", "details", "timestamp_ms"),
    "results": ("script_output", "condition", "variables", "files", "problems"),
    "file": ("path", "mime_type", "content"),
    "usage": ("peak_cpu_percent", "peak_memory_bytes", "network_rx_bytes", "network_tx_bytes"),
    "server": ("server", "name", "status", "exit_code", "reason", "message"),
}


def migrate(db: sqlite3.Connection, seal: Seal, path: Path) -> None:
    """Bring an opened journal to SCHEMA_VERSION. Raises what the steps raise; then it is as the last whole step left it."""
    (found,) = db.execute("PRAGMA user_version").fetchone()
    while (version := db.execute("PRAGMA user_version").fetchone()[0]) < SCHEMA_VERSION:
        if found:
            copy = _back_up(db, path, version)
            _log.info("migrating the journal", path=str(path), schema=version, to=version + 1, copy=str(copy))
        db.execute("BEGIN IMMEDIATE")
        try:
            MIGRATIONS[version](db, seal)
            db.execute(f"PRAGMA user_version={version + 1}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # SQLite itself has rolled back when the disk is full
                db.execute("ROLLBACK")
            raise


def _back_up(db: sqlite3.Connection, path: Path, version: int) -> Path:
    """A whole copy under its own name, or none."""
    copy = path.with_name(f"{path.name}.v{version}")
    partial = path.with_name(f"{copy.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch(0o600, exist_ok=False)
    try:
        with closing(sqlite3.connect(partial)) as target:
            target.execute("PRAGMA journal_mode=MEMORY")  # nothing else may be beside it
            db.backup(target)
        partial.replace(copy)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return copy


def _to_1(db: sqlite3.Connection, _seal: Seal) -> None:
    for statement in _SCHEMA_1:
        db.execute(statement)


def _to_2(db: sqlite3.Connection, seal: Seal) -> None:
    """Columns for what may be seen, tables for payloads and outcomes, and the name of the key."""
    for statement in _SCHEMA_2:
        db.execute(statement)
    names = [name for _, name, *_ in db.execute("PRAGMA table_info(job)")]
    insert = f"INSERT INTO job VALUES ({', '.join('?' * len(names))})"  # noqa: S608 - question marks
    bad: dict[str, str] = {}
    total = 0
    for job_id, record, payload, ended in db.execute("SELECT job_id, record, payload, ended FROM job_1"):
        total += 1
        try:
            clear = seal.open(payload, f"job {job_id}")
            outcome = None if ended is None else _outcome_2(seal.open(ended, f"outcome of {job_id}"))
            row = _row_2(msgpack.unpackb(seal.open(record, f"record of {job_id}"), use_list=False), names[:-1], outcome, seal)
        except (SealError, ValueError, TypeError, KeyError) as error:
            bad[job_id] = str(error)
            continue
        db.execute(insert, row)
        if clear:
            sealed = seal.close(clear, f"job {job_id}")  # by the current key, which is named below
            db.execute("INSERT INTO payload VALUES (?, ?)", (job_id, sealed))
        if outcome is not None:
            sealed = seal.close(msgpack.packb(outcome), f"outcome of {job_id}")
            db.execute("INSERT INTO outcome VALUES (?, ?)", (job_id, sealed))
    if bad and len(bad) == total:
        raise SealError(f"none of the jobs in the journal can be read: {next(iter(bad.values()))}. Nothing was changed")
    if bad:
        raise DamagedJobsError(bad)
    db.execute("DROP TABLE job_1")
    db.execute("INSERT INTO meta (name, value) VALUES ('key_id', ?)", (seal.key_id,))


def _row_2(fields: dict[str, Any], names: list[str], outcome: dict[str, Any] | None, seal: Seal) -> tuple[Any, ...]:
    lease = fields.pop("lease", None)
    fields["lease_expires_ms"] = lease["expires_ms"] if lease else None
    fields["servers"] = orjson.dumps(fields.get("servers", ())).decode()
    fields["placed_ms"] = 0
    fields["owed_ms"] = outcome["outcome"]["ended_ms"] if outcome and fields["state"] == "ended" else 0
    fields.setdefault("begun", False)
    fields.setdefault("give_up_ms", None)
    columns = [fields.pop(name) for name in names]
    columns = [int(value) if isinstance(value, bool) else value for value in columns]
    fields["lease_token"] = lease["token"] if lease else None
    context = f"record of {columns[0]} {orjson.dumps(columns).decode()}"
    return (*columns, seal.close(msgpack.packb(fields), context))


def _outcome_2(blob: bytes) -> dict[str, Any]:
    """Fields by name, from the number of the attempt and the frame of the message that had brought the outcome."""
    attempt, _, frame = blob.partition(b"\n")
    outcome = _named("outcome", msgpack.unpackb(frame, use_list=False)[-1])
    outcome["error"] = _named("error", outcome["error"]) if outcome["error"] else None
    outcome["results"] = _named("results", outcome["results"])
    outcome["results"]["files"] = [_named("file", file) for file in outcome["results"]["files"]]
    outcome["usage"] = _named("usage", outcome["usage"])
    outcome["servers"] = [_named("server", server) for server in outcome["servers"]]
    return {"attempt": int(attempt), "outcome": outcome}


def _named(what: str, values: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(_OF_A_FRAME_1[what], values, strict=True))


MIGRATIONS: tuple[Migration, ...] = (_to_1, _to_2)
"""The one at n leads from version n to n + 1."""
SCHEMA_VERSION = len(MIGRATIONS)
