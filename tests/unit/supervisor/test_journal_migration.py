"""An upgrade is just a restart: a journal of an earlier version is taken over whole, or left as it was."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cronium.common.crypto import Seal, SealError
from cronium.common.errors import ErrorReport
from cronium.common.messages import Outcome, ResultFile, Results, ServerOutcome, Usage
from cronium.supervisor.core.state import Ended, JobRecord, JobState, Lease, RetryRule
from cronium.supervisor.journal import Journal, JournalError
from cronium.supervisor.journal import migrations as steps
from cronium.supervisor.journal.rows import COLUMNS
from peers import journal_v1 as v1

SEAL = Seal(v1.KEY)
PAYLOAD = b'{"environment": {"PASSWORD": "hunter2"}}'
PARKED = {
    "type": "resource",
    "reason": "unreachable",
    "message": "no answer",
    "retryable": True,
    "details": {},
    "timestamp_ms": 5,
}
SERVERS = ("deploy@web:22#1", "deploy@db:22#1")
JOBS: list[tuple[dict[str, Any], bytes, bytes | None]] = [
    (v1.record("received", "received", lease=None, acknowledged=False, attempt=0, generation=0), PAYLOAD, None),
    (v1.record("ready", "ready"), PAYLOAD, None),
    (v1.record("running", "running", place="cronium-x-1", begun=True), PAYLOAD, None),
    (
        v1.record(
            "parked",
            "ready",
            place="cronium-y",
            servers=SERVERS,
            begun_at=("cronium-y.0",),
            parked=PARKED,
            give_up_ms=1_700_000_900_000,
            waits_for="no answer",
            leftovers=("cronium-z",),
            finished=[
                {"server": SERVERS[1], "name": "db", "status": "completed", "exit_code": 0, "reason": None, "message": None},
            ],
        ),
        PAYLOAD,
        None,
    ),
    (v1.record("waiting", "waiting", retry_at_ms=1_700_000_500_000), PAYLOAD, None),
    (v1.record("ended", "ended"), PAYLOAD, v1.outcome_frame("ended")),
    (v1.record("done", "done", done_ms=1_700_000_600_000, lease=None, set_aside="422: no"), b"", v1.outcome_frame("done")),
]
OUTCOME = Outcome(
    "failed",
    3,
    ErrorReport("script", "script_exit", "the script ended with 3", False, {"exitCode": 3}, 5),
    1_700_000_001_000,
    1_700_000_002_000,
    Results(b'{"a": 1}', True, None, (ResultFile("a/b", "text/plain", b"\0\xff"),), ("too many files",)),
    Usage(12.5, 1024, None, 7),
    (ServerOutcome("deploy@web:22#1", "web", "failed", 3, "script_exit", "ended with 3"),),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def as_today(job_id: str, state: JobState, **others: Any) -> JobRecord:
    base = JobRecord(
        job_id,
        7,
        1_700_000_000_000,
        1_700_000_000_001,
        state,
        RetryRule(3, exponential=False, delay_s=2.0),
        2,
        10,
        Lease("renewal-token-secret", 1_700_000_100_000),
        acknowledged=True,
        attempt=1,
        generation=4,
        deaths=1,
    )
    return base.but(**others)


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def test_a_journal_of_version_1_is_taken_over_whole(path: Path) -> None:
    v1.write(path, JOBS)
    journal = Journal(path, SEAL)
    memory = journal.load()
    parked = as_today(
        "parked",
        JobState.READY,
        place="cronium-y",
        servers=SERVERS,
        begun_at=("cronium-y.0",),
        parked=ErrorReport(**PARKED),
        give_up_ms=1_700_000_900_000,
        waits_for="no answer",
        leftovers=("cronium-z",),
        finished=(ServerOutcome(SERVERS[1], "db", "completed", 0),),
    )
    assert {record.job_id: record for record in memory.records} == {
        "received": as_today("received", JobState.RECEIVED, lease=None, acknowledged=False, attempt=0, generation=0),
        "ready": as_today("ready", JobState.READY),
        "running": as_today("running", JobState.RUNNING, place="cronium-x-1", begun=True),
        "parked": parked,
        "waiting": as_today("waiting", JobState.WAITING, retry_at_ms=1_700_000_500_000),
        "ended": as_today("ended", JobState.ENDED, owed_ms=1_700_000_002_000),
        "done": as_today("done", JobState.DONE, done_ms=1_700_000_600_000, lease=None, set_aside="422: no"),
    }
    assert next(r for r in memory.records if r.job_id == "parked").waits_for == "no answer", "which is not compared"
    assert memory.ended == dict.fromkeys(("ended", "done"), Ended(2, OUTCOME).without_results())
    assert journal.ended("ended") == Ended(2, OUTCOME)
    assert memory.poll_key == "poll-1"
    assert {journal.payload(job["job_id"]) for job, *_ in JOBS if job["state"] != "done"} == {PAYLOAD}
    assert journal.payload("done") == b""
    journal.close()
    again = Journal(path, SEAL)
    assert again.load() == memory
    again.close()


def test_a_record_from_before_there_were_servers_is_taken_over_too(path: Path) -> None:
    fields = v1.record("old", "ready")
    for name in ("servers", "begun", "begun_at", "parked", "give_up_ms", "waits_for", "leftovers", "finished"):
        del fields[name]
    v1.write(path, [(fields, PAYLOAD, None)])
    journal = Journal(path, SEAL)
    assert journal.load().records == (as_today("old", JobState.READY),)
    journal.close()


def test_a_copy_from_before_lies_beside_it(path: Path) -> None:
    # Guards: who goes back to the earlier version has what it wrote.
    v1.write(path, JOBS)
    Journal(path, SEAL).close()
    copy = path.with_name("journal.db.v1")
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT count(*), max(length(payload)) FROM job").fetchone() == (len(JOBS), len(PAYLOAD) + 28)


def test_the_rows_are_those_that_a_new_journal_has(path: Path) -> None:
    # Guards: a file that grew up looks like one that was born today; the columns' order is part of what binds them.
    v1.write(path, JOBS)
    fresh = path.with_name("fresh.db")
    for one in (path, fresh):
        Journal(one, SEAL).close()
    schemas = []
    for one in (path, fresh):
        with closing(sqlite3.connect(one)) as db:
            schemas.append(sorted(db.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()))
            assert [row[1] for row in db.execute("PRAGMA table_info(job)")] == [*COLUMNS, "sealed"]
            assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    assert schemas[0] == schemas[1]
    assert [p.name for p in path.parent.iterdir() if p.name.startswith("fresh")] == ["fresh.db"]


def test_a_migration_that_fails_half_way_leaves_the_old_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    v1.write(path, JOBS)

    def fails(db: sqlite3.Connection, seal: Seal) -> None:
        steps._to_2(db, seal)
        raise RuntimeError("half way")

    monkeypatch.setattr(steps, "MIGRATIONS", (steps.MIGRATIONS[0], fails))
    with pytest.raises(RuntimeError, match="half way"):
        Journal(path, SEAL)
    assert version(path) == 1
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*), count(ended) FROM job").fetchone() == (len(JOBS), 2)
    monkeypatch.undo()
    journal = Journal(path, SEAL)
    assert len(journal.load().records) == len(JOBS)
    journal.close()


def test_with_another_key_nothing_is_migrated(path: Path) -> None:
    v1.write(path, JOBS)
    with pytest.raises(SealError, match="put the right key back"):
        Journal(path, Seal(b"x" * 32))
    assert version(path) == 1
    assert not list(path.parent.glob("*.damaged-*"))


def test_after_it_the_older_key_is_not_needed_any_more(path: Path) -> None:
    # Guards: what is named as the key of all rows is the key of all rows.
    v1.write(path, JOBS)
    Journal(path, Seal(b"x" * 32, v1.KEY)).close()
    journal = Journal(path, Seal(b"x" * 32))
    assert len(journal.load().records) == len(JOBS)
    assert journal.payload("ready") == PAYLOAD
    journal.close()


def test_a_record_that_cannot_be_read_stops_the_migration_and_is_named(path: Path) -> None:
    # Guards: an acknowledged job is never forgotten in silence.
    v1.write(path, JOBS)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE job SET record = zeroblob(length(record)) WHERE job_id = 'ready'")
        db.commit()
    for _ in range(3):
        with pytest.raises(JournalError, match=r"(?s)1 of the jobs.*ready: .*WHERE job_id IN \('ready'\)"):
            Journal(path, SEAL)
    assert version(path) == 1
    assert len(list(path.parent.glob("*.damaged-*"))) == 1
    with closing(sqlite3.connect(path)) as db:  # what the message says
        db.execute("DELETE FROM job WHERE job_id IN ('ready')")
        db.commit()
    journal = Journal(path, SEAL)
    assert len(journal.load().records) == len(JOBS) - 1
    journal.close()


_MIGRATES = """
import sys
from pathlib import Path
from cronium.common.crypto import Seal
from cronium.supervisor.journal import Journal
print("begins", flush=True)
Journal(Path(sys.argv[1]), Seal(b"k" * 32)).close()
print("done", flush=True)
"""


def test_a_kill_in_the_middle_of_a_migration_loses_nothing(path: Path) -> None:
    jobs = [(v1.record(f"job-{number}", "ready"), PAYLOAD, None) for number in range(1500)]
    v1.write(path, jobs)
    original = {end: path.with_name(path.name + end).read_bytes() for end in ("", "-wal")}
    before = set()
    for pause_s in (0.0, 0.03, 0.06, 0.1, 0.15):
        for end, content in original.items():
            path.with_name(path.name + end).write_bytes(content)
        path.with_name(path.name + "-shm").unlink(missing_ok=True)
        child = subprocess.Popen([sys.executable, "-c", _MIGRATES, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert child.stdout is not None
        assert child.stdout.readline() == b"begins\n"
        time.sleep(pause_s)
        os.kill(child.pid, signal.SIGKILL)
        child.wait(10)
        child.stdout.close()
        before.add(version(path))
        journal = Journal(path, SEAL)
        assert {record.job_id for record in journal.load().records} == {job["job_id"] for job, *_ in jobs}
        assert version(path) == steps.SCHEMA_VERSION
        journal.close()
    assert 1 in before, "at least one was killed before its end"
