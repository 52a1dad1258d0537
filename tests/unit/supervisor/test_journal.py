"""Promise 1 rests on the journal: what was committed is there after a crash, and what is not ours is left as it is."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import msgpack
import pytest

from cronium.common.crypto import Seal, SealError
from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome, ResultFile, Results, ServerOutcome
from cronium.supervisor.core import actions as do
from cronium.supervisor.core.state import Ended, JobRecord, JobState, Lease, RetryRule
from cronium.supervisor.journal import Journal, JournalError

SEAL = Seal(b"k" * 32)
RECORD = JobRecord(
    "job-1", 7, 1_700_000_000_000, lease=Lease("renewal-token-secret", 5), retry=RetryRule(3, exponential=False, delay_s=2.0)
)
PAYLOAD = b'{"environment": {"PASSWORD": "hunter2"}}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def crashed(journal: Journal) -> None:
    """Let go of the file as a killed process does: without closing anything in order."""
    journal._db = sqlite3.connect(":memory:")


def outcome() -> Outcome:
    error = ExecutionError(Reason.SCRIPT_EXIT, "the script ended with 3", exit_code=3).report()
    return Outcome("failed", 3, error, 1, 2, Results(files=(ResultFile("a/b", "text/plain", b"\0\xff"),)))


def test_what_was_committed_is_there_after_a_crash(path: Path) -> None:
    journal = Journal(path, SEAL)
    ended = Ended(2, outcome())
    journal.commit([do.PutJob(RECORD, PAYLOAD), do.PutPollKey("key-1")])
    journal.commit([do.PutJob(RECORD.but(state=JobState.ENDED, attempt=2)), do.PutEnded("job-1", ended)])
    crashed(journal)
    again = Journal(path, SEAL)
    memory = again.load()
    assert memory.records == (RECORD.but(state=JobState.ENDED, attempt=2),)
    assert memory.ended == {"job-1": ended}
    assert memory.poll_key == "key-1"
    assert again.payload("job-1") == PAYLOAD
    again.close()


def test_a_step_is_written_whole_or_not_at_all(path: Path) -> None:
    journal = Journal(path, SEAL)
    with pytest.raises(sqlite3.Error):
        journal.commit([do.PutJob(RECORD, PAYLOAD), do.PutPollKey(b"no text")])  # type: ignore[arg-type]  # STRICT refuses it
    assert journal.load().records == ()
    journal.commit([do.PutJob(RECORD, PAYLOAD)])
    assert journal.load().records == (RECORD,)
    journal.close()


def test_nothing_that_may_hold_a_secret_lies_in_clear(path: Path) -> None:
    journal = Journal(path, SEAL)
    journal.commit([do.PutJob(RECORD, PAYLOAD), do.PutEnded("job-1", Ended(1, outcome()))])
    journal.close()
    written = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"hunter2" not in written
    assert b"renewal-token-secret" not in written
    assert b"the script ended" not in written


def test_the_payload_of_a_job_that_is_done_goes(path: Path) -> None:
    journal = Journal(path, SEAL)
    journal.commit([do.PutJob(RECORD, PAYLOAD)])
    journal.commit([do.PutJob(RECORD.but(state=JobState.DONE))])
    assert journal.payload("job-1") == b""
    journal.commit([do.ForgetJob("job-1")])
    with pytest.raises(JournalError, match="not in the journal"):
        journal.payload("job-1")
    journal.close()


def test_what_is_known_of_a_job_on_servers_comes_back_as_it_was(path: Path) -> None:
    parked = ExecutionError(Reason.UNREACHABLE, "no answer", server="web").report()
    record = RECORD.but(
        servers=("deploy@web:22#1", "deploy@db:22#1"),
        begun=True,
        parked=parked,
        give_up_ms=7,
        waits_for="no answer",
        leftovers=("cronium-x-1",),
        finished=(ServerOutcome("deploy@db:22#1", "db", "completed", 0),),
    )
    journal = Journal(path, SEAL)
    journal.commit([do.PutJob(record, PAYLOAD)])
    (read,) = journal.load().records
    assert read == record
    assert read.waits_for == "no answer", "which is not compared"
    assert {type(read.servers), type(read.leftovers), type(read.finished)} == {tuple}
    journal.close()


def test_records_from_before_there_were_servers_are_read(path: Path) -> None:
    """An upgrade to this version is just a restart."""
    fields = dataclasses.asdict(RECORD)
    for name in ("servers", "begun", "parked", "give_up_ms", "waits_for", "leftovers", "finished"):
        del fields[name]
    journal = Journal(path, SEAL)
    journal.commit([do.PutJob(RECORD, PAYLOAD)])
    old = SEAL.close(msgpack.packb(fields), "record of job-1")
    journal._db.execute("UPDATE job SET record = ?", (old,))
    assert journal.load().records == (RECORD,)
    journal.close()


def test_the_payload_stays_as_long_as_something_of_the_job_is_left_on_a_server(path: Path) -> None:
    """It tells how to get there."""
    record = RECORD.but(servers=("deploy@web:22#1",))
    journal = Journal(path, SEAL)
    journal.commit([do.PutJob(record, PAYLOAD)])
    for unclean in (record.but(place="p"), record.but(leftovers=("p",))):
        journal.commit([do.PutJob(unclean.but(state=JobState.DONE))])
        assert journal.payload("job-1") == PAYLOAD
    journal.commit([do.PutJob(record.but(state=JobState.DONE))])
    assert journal.payload("job-1") == b""
    journal.close()


def test_another_key_is_told_and_changes_nothing(path: Path) -> None:
    journal = Journal(path, SEAL)
    journal.commit([do.PutJob(RECORD, PAYLOAD)])
    journal.close()
    other = Journal(path, Seal(b"x" * 32))
    with pytest.raises(SealError, match="put the right key back"):
        other.load()
    other.close()
    assert Journal(path, SEAL).load().records == (RECORD,)


def test_a_file_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE theirs (a)")
    foreign.commit()
    foreign.close()
    with pytest.raises(JournalError, match="another program"):
        Journal(path, SEAL)
    assert sqlite3.connect(path).execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


def test_a_damaged_file_is_refused_with_what_to_do(path: Path) -> None:
    path.write_bytes(b"this is no database, whatever its name says" * 100)
    before = path.read_bytes()
    with pytest.raises(JournalError, match="Move it"):
        Journal(path, SEAL)
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused(path: Path) -> None:
    Journal(path, SEAL).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(JournalError, match="schema 99"):
        Journal(path, SEAL)


def test_only_its_owner_can_read_it(path: Path) -> None:
    Journal(path, SEAL).close()
    assert path.stat().st_mode & 0o077 == 0
