"""The journal: what must survive us, in one SQLite file (WAL). Written before the outside world is told.

Runs in the supervisor's loop thread. One transaction a step of the core. All that may hold a secret (environments, results,
renewal tokens) is sealed (AES-256-GCM), so a look with sqlite3 shows ids and states and nothing else.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgpack
import orjson

from cronium.common.crypto import Seal
from cronium.common.errors import CroniumError, ErrorReport
from cronium.common.messages import AttemptEnded, ServerOutcome
from cronium.common.wire import pack, unpack
from cronium.supervisor.core import actions as do
from cronium.supervisor.core.state import Ended, JobRecord, JobState, Lease, RetryRule

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x43524F4E  # 'CRON': SQLite's own mark of whose file it is
_SCHEMA = """
CREATE TABLE job (job_id TEXT PRIMARY KEY, state TEXT NOT NULL, record BLOB NOT NULL, payload BLOB NOT NULL, ended BLOB) STRICT;
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) STRICT;
"""


class JournalError(CroniumError):
    """The journal cannot be used; the text says why and what to do. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a journal held at start. Payloads are asked for one by one."""

    records: tuple[JobRecord, ...]
    ended: dict[str, Ended]
    poll_key: str | None


class Journal:
    """One journal, opened. Raises JournalError when the file is not ours or damaged."""

    def __init__(self, path: Path, seal: Seal) -> None:
        self._path = path
        self._seal = seal
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=5)
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._prepare()
        except sqlite3.DatabaseError as error:
            raise JournalError(
                f"the journal {path} cannot be read: {error}. Nothing was changed. Move it and its -wal file away to start "
                "anew (running jobs are then forgotten), or put a copy back"
            ) from error

    def load(self) -> Memory:
        """Everything that is known. Raises SealError when the key is another one."""
        records, ended = [], {}
        for job_id, record, sealed in self._db.execute("SELECT job_id, record, ended FROM job"):
            records.append(_record(self._seal.open(record, f"record of {job_id}")))
            if sealed is not None:
                ended[job_id] = _ended(self._seal.open(sealed, f"outcome of {job_id}"))
        row = self._db.execute("SELECT value FROM meta WHERE name = 'poll_key'").fetchone()
        return Memory(tuple(records), ended, None if row is None else row[0])

    def payload(self, job_id: str) -> bytes:
        """The job as the backend gave it. Raises JournalError when it is not known."""
        row = self._db.execute("SELECT payload FROM job WHERE job_id = ?", (job_id,)).fetchone()
        if row is None:
            raise JournalError(f"job {job_id} is not in the journal")
        return self._seal.open(row[0], f"job {job_id}")

    def commit(self, writes: Iterable[do.Write]) -> None:
        """Write all of a step or nothing of it. Raises sqlite3.Error (disk full and the like): the step must not be acted on."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for write in writes:
                self._write(write)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Leave the file as one piece, without a -wal beside it."""
        self._db.close()

    def _write(self, write: do.Write) -> None:
        match write:
            case do.PutJob(record, None):
                self._db.execute(
                    "UPDATE job SET state = ?, record = ? WHERE job_id = ?",
                    (record.state.value, self._sealed(record), record.job_id),
                )
                if record.state is JobState.DONE and not record.is_unclean():  # nobody will run it or clean up after it
                    empty = self._seal.close(b"", f"job {record.job_id}")
                    self._db.execute("UPDATE job SET payload = ? WHERE job_id = ?", (empty, record.job_id))
            case do.PutJob(record, payload):
                sealed = self._seal.close(payload or b"", f"job {record.job_id}")
                self._db.execute(
                    "INSERT OR REPLACE INTO job (job_id, state, record, payload) VALUES (?, ?, ?, ?)",
                    (record.job_id, record.state.value, self._sealed(record), sealed),
                )
            case do.PutEnded(job_id, ended):
                sealed = self._seal.close(_packed_ended(job_id, ended), f"outcome of {job_id}")
                self._db.execute("UPDATE job SET ended = ? WHERE job_id = ?", (sealed, job_id))
            case do.ForgetJob(job_id):
                self._db.execute("DELETE FROM job WHERE job_id = ?", (job_id,))
            case do.PutPollKey(key):
                self._db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('poll_key', ?)", (key,))

    def _sealed(self, record: JobRecord) -> bytes:
        return self._seal.close(_packed(record), f"record of {record.job_id}")

    def _prepare(self) -> None:
        (mark,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables == 0:
            self._db.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA application_id={_APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
            )
            return
        if mark != _APPLICATION_ID:
            raise JournalError(f"{self._path} is a database of another program: name another stateDir. Nothing was changed")
        if version != SCHEMA_VERSION:
            raise JournalError(
                f"the journal {self._path} has schema {version}, this program knows {SCHEMA_VERSION}: run the version that "
                "wrote it. Nothing was changed"
            )


def _packed(record: JobRecord) -> bytes:
    packed: bytes = msgpack.packb(dataclasses.asdict(record))
    return packed


def _record(blob: bytes) -> JobRecord:
    """A record; one of an earlier version has no fields for servers, and gets what stands for none."""
    fields = msgpack.unpackb(blob)
    fields["state"] = JobState(fields["state"])
    fields["retry"] = RetryRule(**fields["retry"])
    fields["lease"] = Lease(**fields["lease"]) if fields["lease"] else None
    fields["parked"] = ErrorReport(**fields["parked"]) if fields.get("parked") else None
    fields["finished"] = tuple(ServerOutcome(**server) for server in fields.get("finished", ()))
    for name in ("servers", "leftovers", "begun_at"):
        fields[name] = tuple(fields.get(name, ()))
    return JobRecord(**fields)


def _packed_ended(job_id: str, ended: Ended) -> bytes:
    # The outcome's shape is that of the message it came in; so is its check when it is read again.
    return orjson.dumps(ended.attempt) + b"\n" + pack(AttemptEnded("", job_id, 0, ended.outcome))


def _ended(blob: bytes) -> Ended:
    attempt, _, frame = blob.partition(b"\n")
    message = unpack(frame)
    if not isinstance(message, AttemptEnded):
        raise JournalError("an outcome in the journal is of another kind: it was written by another version")
    return Ended(int(attempt), message.outcome)
