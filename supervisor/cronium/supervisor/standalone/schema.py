"""The tables of the queue's SQLite file, and how a connection is opened. Used by the database's thread only."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from cronium.common.errors import CroniumError

VERSION = 1

# Whatever may hold a secret (what a job is told, what it reports, leases, answers) is sealed. Counts are kept by triggers: the
# size of the queue is told with every poll.
_TABLES = """
CREATE TABLE jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, executor TEXT NOT NULL,
  priority INTEGER NOT NULL, created_ms INTEGER NOT NULL, scheduled_ms INTEGER NOT NULL, status TEXT NOT NULL, reached TEXT,
  owner TEXT, epoch INTEGER NOT NULL, acknowledged INTEGER NOT NULL, attempts INTEGER NOT NULL, lease_token BLOB,
  lease_ms INTEGER, cancel_ms INTEGER, cancel_told INTEGER NOT NULL, started_ms INTEGER, ended_ms INTEGER, exit_code INTEGER,
  reports INTEGER NOT NULL, refused_reports INTEGER NOT NULL, report_key TEXT, first_sequence INTEGER NOT NULL,
  last_sequence INTEGER NOT NULL, attempt INTEGER, log_bytes INTEGER NOT NULL, log_refused INTEGER NOT NULL, expected_logs TEXT,
  logs_complete TEXT
);
CREATE INDEX jobs_queue ON jobs (priority DESC, number) WHERE status = 'queued';
CREATE INDEX jobs_lease ON jobs (lease_ms) WHERE lease_ms IS NOT NULL;
CREATE INDEX jobs_cancelled ON jobs (owner) WHERE cancel_ms IS NOT NULL;
CREATE INDEX jobs_ended ON jobs (ended_ms) WHERE ended_ms IS NOT NULL;
CREATE TABLE blobs (job INTEGER NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (job, kind));

CREATE TABLE counts (status TEXT PRIMARY KEY, jobs INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER jobs_added AFTER INSERT ON jobs BEGIN
  INSERT INTO counts VALUES (new.status, 1) ON CONFLICT DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER jobs_moved AFTER UPDATE OF status ON jobs WHEN old.status <> new.status BEGIN
  UPDATE counts SET jobs = jobs - 1 WHERE status = old.status;
  INSERT INTO counts VALUES (new.status, 1) ON CONFLICT DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER jobs_removed AFTER DELETE ON jobs BEGIN
  UPDATE counts SET jobs = jobs - 1 WHERE status = old.status;
END;

CREATE TABLE frames (
  number INTEGER PRIMARY KEY, job INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
  encoding INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE UNIQUE INDEX frames_of_job ON frames (job, last);
CREATE TABLE extents (
  job INTEGER NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
  out_lines INTEGER NOT NULL, out_bytes INTEGER NOT NULL, out_crc32 INTEGER NOT NULL,
  err_lines INTEGER NOT NULL, err_bytes INTEGER NOT NULL, err_crc32 INTEGER NOT NULL,
  PRIMARY KEY (job, epoch, first)
) WITHOUT ROWID;

CREATE TABLE answers (
  scope TEXT NOT NULL, key TEXT NOT NULL, created_ms INTEGER NOT NULL, status INTEGER NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (scope, key)
) WITHOUT ROWID;
CREATE INDEX answers_age ON answers (created_ms);
CREATE TABLE orchestrators (id TEXT PRIMARY KEY, seen_ms INTEGER NOT NULL, health BLOB NOT NULL) WITHOUT ROWID;
"""


class SchemaError(CroniumError):
    """The file is no database of this version of the queue."""


def connect(path: Path, *, durable: bool, max_bytes: int) -> sqlite3.Connection:
    """The one connection, in WAL mode, with the tables there. Transactions are the caller's (BEGIN … COMMIT).

    The file does not grow beyond `max_bytes`: SQLite then says what it says of a full disk (SQLITE_FULL).

    Raises SchemaError for a file of another version, sqlite3.Error for one that is damaged or cannot be written.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # counts only before the first table is made
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute("PRAGMA temp_store = MEMORY")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
    elif version != VERSION:
        connection.close()
        raise SchemaError(f"{path} has version {version}, this program knows {VERSION}: move the file away to begin a new one")
    page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {max(1, max_bytes // page_bytes)}")
    return connection
