"""A key can be changed without losing anything that was written with the one before; the old one can then be taken away."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cronium.common.crypto import KEY_FILE, Seal, SealError, load_seal, rotate
from cronium.common.messages import Outcome
from cronium.supervisor.core import actions as do
from cronium.supervisor.core.state import Ended, JobRecord, Lease
from cronium.supervisor.journal import Journal, Memory
from cronium.supervisor.standalone.rules import Job
from cronium.supervisor.standalone.schema import connect
from cronium.supervisor.standalone.store import Store
from cronium.supervisor.streamer.spool import Spool, Spooled
from peers.streamer_parts import MIB, announce, batch

OLD, NEW = b"o" * 32, b"n" * 32
RECORD = JobRecord("job-1", 7, 1_700_000_000_000, lease=Lease("token", 5))
PAYLOAD = b'{"environment": {"PASSWORD": "hunter2"}}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal that was written with the old key."""
    path = tmp_path / "journal.db"
    journal = Journal(path, Seal(OLD))
    journal.commit([do.PutJob(RECORD, PAYLOAD), do.PutEnded("job-1", Ended(1, Outcome("completed", 0, None, 1, 2)))])
    journal.commit([do.PutJob(RECORD.but(job_id="job-2"), PAYLOAD)])
    journal.close()
    return path


def read(path: Path, seal: Seal) -> tuple[Memory, bytes]:
    journal = Journal(path, seal)
    try:
        return journal.load(), journal.payload("job-1")
    finally:
        journal.close()


def test_the_journal_is_sealed_anew_at_the_next_start(path: Path) -> None:
    before = read(path, Seal(OLD))
    with capture_logs() as logs:
        assert read(path, Seal(NEW, OLD)) == before
    assert [(entry["event"], entry["jobs"]) for entry in logs] == [("the journal is sealed with the current key now", 2)]
    with capture_logs() as logs:
        assert read(path, Seal(NEW)) == before, "the old key is not needed any more"
    assert not logs


def test_with_neither_key_nothing_is_changed_and_the_key_is_named(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(SealError, match=rf"its id is {Seal(OLD).key_id}.*put the right key back"):
        read(path, Seal(NEW))
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.damaged-*"))


def test_a_journal_with_a_damaged_row_stays_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE payload SET sealed = zeroblob(100) WHERE job_id = 'job-1'")
        db.commit()
    journal = Journal(path, Seal(NEW, OLD))
    assert journal._meta("key_id") == Seal(OLD).key_id
    journal.close()


def test_output_that_waits_for_the_backend_stays_readable(tmp_path: Path) -> None:
    log = Spool(tmp_path, Seal(OLD), 64 * MIB, MIB, fsync=False, ready=100)
    log.append(announce())
    log.append(batch())
    log.close()
    again = Spool(tmp_path, Seal(NEW, OLD), 64 * MIB, MIB, fsync=False, ready=100)
    again.append(batch())
    assert [found.record for found in again.recover() if isinstance(found, Spooled)] == [announce(), batch(), batch()]
    again.close()


def test_so_do_the_jobs_of_the_standalone_queue(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "queue.db", durable=True, max_bytes=MIB)) as sql:
        sql.execute("BEGIN")
        job = Store(sql, Seal(OLD)).add(Job(0, "job-1", "script", "local", 5, 1, lease_token="token"))
        Store(sql, Seal(OLD)).put_blob(job, "spec", {"a": 1})
        sql.execute("COMMIT")
        store = Store(sql, Seal(NEW, OLD))
        assert store.job("job-1") == job
        assert store.blob(job, "spec") == {"a": 1}


def test_the_key_file_is_rotated_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    first = load_seal(tmp_path, {})
    second = rotate(tmp_path)
    assert second.open(first.close(b"x")) == b"x"
    third = rotate(tmp_path)
    assert third.known_ids == {third.key_id, second.key_id, first.key_id}
    assert load_seal(tmp_path, {}).key_id == third.key_id
    assert len({first.key_id, second.key_id, third.key_id}) == 3
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [KEY_FILE]
