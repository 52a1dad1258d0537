"""The journal, opened: loads, commits, forgets. Written before the outside world is told.

Runs in the supervisor's loop thread; the only connection to the file. One transaction a step of the core, synced before it
returns (WAL, synchronous=FULL), so neither a kill nor a power cut takes back what was committed. All that may hold a secret
(environments, results, renewal tokens, error texts) is sealed (AES-256-GCM); for the rest see the view `overview`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from cronium.common.crypto import KEY_FILE, OLD_KEYS_VARIABLE, Seal, SealError
from cronium.common.files import sync_folder
from cronium.supervisor.core import actions as do
from cronium.supervisor.core.state import Ended, JobRecord, JobState
from cronium.supervisor.journal.damage import check_file, keep_copy, refused
from cronium.supervisor.journal.errors import DamagedJobsError, JournalError, damaged_jobs
from cronium.supervisor.journal.migrations import APPLICATION_ID, SCHEMA_VERSION, migrate
from cronium.supervisor.journal.rows import COLUMNS, UNREADABLE, context_of, ended_blob, ended_of, record_of, row_of

_NAMES = ", ".join((*COLUMNS, "sealed"))
_SELECT = f"SELECT {_NAMES} FROM job"  # noqa: S608 - names of our own
_INSERT = f"INSERT INTO job ({_NAMES}) VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"  # noqa: S608
_UPDATE = f"UPDATE job SET ({_NAMES}) = ({', '.join('?' * (len(COLUMNS) + 1))}) WHERE job_id = ?"  # noqa: S608
_INCREMENTAL = 2  # PRAGMA auto_vacuum
_FREE_PAGES = 256  # of 4 KiB: what may lie idle in the file
_VACUUM_PAGES = 64  # given back at once: a commit must not wait for more
_WAL_BYTES = 16 * 1024 * 1024  # what the -wal may keep after a large step
_WAIT_S = 5.0  # for others at start; later the loop has to go on with what it can
_COMMIT_WAIT_MS = 500
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Memory:
    """What a journal held at start. Payloads, and what jobs gave back, are asked for one by one."""

    records: tuple[JobRecord, ...]
    ended: dict[str, Ended]
    poll_key: str | None


class Journal:
    """One journal, opened: made when there is none, migrated when it is an older one.

    Raises JournalError when the file is not ours, damaged, of a newer schema or cannot be written, SealError when it was written
    with another key.
    """

    def __init__(self, path: Path, seal: Seal) -> None:
        self._path = path
        self._seal = seal
        check_file(path, APPLICATION_ID, SCHEMA_VERSION)
        try:
            if not path.exists():
                _create(path, seal)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=_WAIT_S)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise
        except (sqlite3.DatabaseError, OSError) as error:
            raise refused(path, error) from error

    def load(self) -> Memory:
        """Everything that is known. Raises JournalError when some of it cannot be read: nothing is left out in silence."""
        records, ended, bad = [], {}, {}
        for row in self._db.execute(_SELECT):
            try:
                records.append(record_of(row, self._seal))
            except (SealError, *UNREADABLE) as error:
                bad[row[0]] = _reason(error)
        for job_id, sealed in self._db.execute("SELECT job_id, sealed FROM outcome"):
            try:
                ended[job_id] = ended_of(job_id, sealed, self._seal).without_results()
            except (SealError, *UNREADABLE) as error:
                bad[job_id] = _reason(error)
        for job_id, sealed in self._db.execute("SELECT job_id, sealed FROM payload"):
            try:
                self._seal.open(sealed, f"job {job_id}")
            except SealError as error:
                bad[job_id] = _reason(error)
        if bad:
            raise self._refused_jobs(bad)
        return Memory(tuple(records), ended, self._meta("poll_key"))

    def payload(self, job_id: str) -> bytes:
        """The job as the backend gave it, empty when nobody needs it any more. Raises JournalError when it is not known, or
        cannot be read.
        """
        query = "SELECT payload.sealed FROM job LEFT JOIN payload USING (job_id) WHERE job_id = ?"
        with _readable(job_id):
            row = self._db.execute(query, (job_id,)).fetchone()
            if row is None:
                raise JournalError(f"job {job_id} is not in the journal")
            return b"" if row[0] is None else self._seal.open(row[0], f"job {job_id}")

    def ended(self, job_id: str) -> Ended:
        """How a job ended, with what it gave back. Raises JournalError when it is not known, or cannot be read."""
        with _readable(job_id):
            row = self._db.execute("SELECT sealed FROM outcome WHERE job_id = ?", (job_id,)).fetchone()
            if row is None:
                raise JournalError(f"how job {job_id} ended is not in the journal")
            return ended_of(job_id, row[0], self._seal)

    def commit(self, writes: Iterable[do.Write]) -> None:
        """Write all of a step or nothing of it. The step must not be acted on when it raises.

        Raises sqlite3.Error (disk full and the like), JournalError for a job whose row is gone.
        """
        writes = tuple(writes)
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for write in writes:
                self._write(write)
            self._db.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        if any(isinstance(write, do.ForgetJob) for write in writes):
            self._give_space_back()

    def close(self) -> None:
        """Leave the file as one piece, without a -wal beside it."""
        self._db.close()

    # --- at start ----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self._path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(f"PRAGMA journal_size_limit={_WAL_BYTES}")
        self._checkpoint()
        try:
            migrate(self._db, self._seal, self._path)
        except DamagedJobsError as error:
            raise self._refused_jobs(error.bad) from error
        (vacuum,) = self._db.execute("PRAGMA auto_vacuum").fetchone()
        if vacuum != _INCREMENTAL:  # a file from before schema 2
            try:
                self._db.execute(f"PRAGMA auto_vacuum={_INCREMENTAL}")
                self._db.execute("VACUUM")
            except sqlite3.OperationalError as error:
                _log.warning("the journal's file cannot shrink yet; tried again at the next start", error=str(error))
        self._use_current_key()
        self._db.execute(f"PRAGMA busy_timeout={_COMMIT_WAIT_MS}")

    def _use_current_key(self) -> None:
        """Seal everything with the current key, if it was sealed with an older one: that can be removed then."""
        used = self._meta("key_id")
        if used == self._seal.key_id:
            return
        if used not in self._seal.known_ids:
            raise SealError(
                f"the journal {self._path} was written with another key (its id is {used}, that of the current one "
                f"{self._seal.key_id}): put the right key back, into {KEY_FILE} as a further line or into {OLD_KEYS_VARIABLE}"
            )
        self._db.execute("BEGIN IMMEDIATE")
        try:
            count = self._reseal()
            self._db.execute("UPDATE meta SET value = ? WHERE name = 'key_id'", (self._seal.key_id,))
            self._db.execute("COMMIT")
        except SealError as error:
            self._roll_back()
            _log.warning("the journal stays sealed with an older key: keep it", key_id=used, error=str(error))
        except BaseException:
            self._roll_back()
            raise
        else:
            _log.info("the journal is sealed with the current key now", jobs=count, old_key_id=used, key_id=self._seal.key_id)

    def _reseal(self) -> int:
        ids = [job_id for (job_id,) in self._db.execute("SELECT job_id FROM job")]
        for job_id in ids:
            row = self._db.execute(f"{_SELECT} WHERE job_id = ?", (job_id,)).fetchone()
            contexts = {"job": context_of(row[:-1]), "payload": f"job {job_id}", "outcome": f"outcome of {job_id}"}
            for table, context in contexts.items():
                found = self._db.execute(f"SELECT sealed FROM {table} WHERE job_id = ?", (job_id,)).fetchone()  # noqa: S608
                if found is not None:
                    sealed = self._seal.close(self._seal.open(found[0], context), context)
                    self._db.execute(f"UPDATE {table} SET sealed = ? WHERE job_id = ?", (sealed, job_id))  # noqa: S608
        return len(ids)

    def _refused_jobs(self, bad: Mapping[str, str]) -> JournalError:
        self._checkpoint()  # so that the same damage looks the same at each start, and is copied once
        return damaged_jobs(self._path, bad, keep_copy(self._path))

    # --- one by one --------------------------------------------------------------------------------------------------

    def _write(self, write: do.Write) -> None:
        match write:
            case do.PutJob(record, None):
                done = self._db.execute(_UPDATE, (*row_of(record, self._seal), record.job_id))
                if done.rowcount != 1:
                    raise JournalError(f"job {record.job_id} is gone from the journal {self._path}: start the supervisor again")
                if record.state is JobState.DONE and not record.is_unclean():  # nobody will run it or clean up after it
                    self._db.execute("DELETE FROM payload WHERE job_id = ?", (record.job_id,))
            case do.PutJob(record, payload):
                self._db.execute("DELETE FROM job WHERE job_id = ?", (record.job_id,))  # with its outcome, if it begins anew
                self._db.execute(_INSERT, row_of(record, self._seal))
                sealed = self._seal.close(payload or b"", f"job {record.job_id}")
                self._db.execute("INSERT INTO payload VALUES (?, ?)", (record.job_id, sealed))
            case do.PutEnded(job_id, ended):
                blob = ended_blob(job_id, ended, self._seal)
                self._db.execute("INSERT OR REPLACE INTO outcome VALUES (?, ?)", (job_id, blob))
            case do.ForgetJob(job_id):
                self._db.execute("DELETE FROM job WHERE job_id = ?", (job_id,))
            case do.PutPollKey(key):
                self._db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('poll_key', ?)", (key,))

    def _give_space_back(self) -> None:
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        if free > _FREE_PAGES:
            try:
                # Not by execute: that takes one step of it, which is one page.
                self._db.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
            except sqlite3.OperationalError as error:
                _log.debug("the journal's file stays as large as it is", error=str(error))

    def _meta(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def _checkpoint(self) -> None:
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # SQLite itself has rolled back when the disk is full
            self._db.execute("ROLLBACK")


@contextmanager
def _readable(job_id: str) -> Iterator[None]:
    """What goes wrong in here while we run concerns one job, whatever it is."""
    try:
        yield
    except (sqlite3.Error, SealError, *UNREADABLE) as error:
        raise JournalError(f"job {job_id} cannot be read from the journal ({type(error).__name__}: {error})") from error


def _create(path: Path, seal: Seal) -> None:
    """Make an empty journal, whole or not at all: a file that is there and is none is damaged, and not new."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(0o600, exist_ok=False)
    with closing(sqlite3.connect(new, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=MEMORY")  # nothing else may be beside it
        db.execute(f"PRAGMA auto_vacuum={_INCREMENTAL}")  # counts only before the first table is made
        migrate(db, seal, new)
    new.replace(path)
    sync_folder(path.parent)


def _reason(error: Exception) -> str:
    """In one line, and nothing of what the job holds."""
    return str(error) if isinstance(error, SealError) else f"it is of another version, or damaged ({type(error).__name__})"
