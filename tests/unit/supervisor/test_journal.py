"""Promise 1 rests on the journal: what was committed is there after a crash, and what is not ours is left as it is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgpack
import pytest

from cronium.common.crypto import Seal
from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome, ResultFile, Results, ServerOutcome
from cronium.supervisor.core import actions as do
from cronium.supervisor.core.state import Ended, JobRecord, JobState, Lease, RetryRule
from cronium.supervisor.journal import Journal, JournalError
from cronium.supervisor.journal.rows import COLUMNS, context_of, packed

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
    assert memory.ended == {"job-1": ended.without_results()}
    assert again.ended("job-1") == ended, "what it gave back is asked for when it is reported"
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
        missing=(ServerOutcome("deploy@web:22#1", "web", "failed", None, "unreachable", "no answer"),),
        results=Results(b"1", files=(ResultFile("db/f", "text/plain", b"\xff"),)),
    )
    journal = Journal(path, SEAL)
    journal.commit([do.PutJob(record, PAYLOAD)])
    (read,) = journal.load().records
    assert read == record
    assert read.waits_for == "no answer", "which is not compared"
    assert {type(read.servers), type(read.leftovers), type(read.finished)} == {tuple}
    journal.close()


def test_a_field_that_a_record_of_an_earlier_version_does_not_have_gets_its_default(path: Path) -> None:
    """An upgrade to this version is just a restart; a new field needs no migration."""
    journal = Journal(path, SEAL)
    journal.commit([do.PutJob(RECORD, PAYLOAD)])
    *columns, sealed = journal._db.execute(f"SELECT {', '.join((*COLUMNS, 'sealed'))} FROM job").fetchone()
    fields = msgpack.unpackb(SEAL.open(sealed, context_of(columns)))
    del fields["leftovers"], fields["finished"]
    fields["of_a_later_version"] = 1
    journal._db.execute("UPDATE job SET sealed = ?", (SEAL.close(packed(fields), context_of(columns)),))
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


def test_a_job_that_begins_anew_has_nothing_of_its_first_life(path: Path) -> None:
    journal = Journal(path, SEAL)
    journal.commit([do.PutJob(RECORD, PAYLOAD), do.PutEnded("job-1", Ended(1, outcome()))])
    journal.commit([do.PutJob(RECORD.but(generation=3), b"new")])
    memory = journal.load()
    assert memory.records == (RECORD.but(generation=3),)
    assert memory.ended == {}
    assert journal.payload("job-1") == b"new"
    journal.close()


def test_an_operator_sees_with_sqlite3_how_it_stands(path: Path) -> None:
    record = RECORD.but(
        state=JobState.ENDED,
        place="cronium-x",
        placed_ms=1_700_000_000_000,
        owed_ms=1_700_000_060_000,
        servers=("deploy@web:22#1",),
    )
    journal = Journal(path, SEAL)
    journal.commit([do.PutJob(RECORD, PAYLOAD), do.PutJob(record)])
    query = "SELECT state, place, placed, report_owed, owed_since, servers, retry_at FROM overview"
    with closing(sqlite3.connect(path)) as db:
        assert db.execute(query).fetchall() == [
            ("ended", "cronium-x", "2023-11-14 22:13:20", 1, "2023-11-14 22:14:20", '["deploy@web:22#1"]', None)
        ]
    journal.close()


def test_only_its_owner_can_read_it(path: Path) -> None:
    Journal(path, SEAL).close()
    assert path.stat().st_mode & 0o077 == 0


def test_a_job_whose_row_is_gone_is_not_written_in_silence(path: Path) -> None:
    """Guards: what the core takes for committed is there, or the step is not acted on."""
    journal = Journal(path, SEAL)
    with pytest.raises(JournalError, match="job a is gone from the journal"):
        journal.commit([do.PutPollKey("later"), do.PutJob(JobRecord("a", 5, 1))])
    assert journal.load().poll_key is None
    journal.close()
