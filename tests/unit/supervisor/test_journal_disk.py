"""What was committed is there after a kill; a full disk takes a step or nothing of it; the file never grows without limit."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cronium.common.crypto import Seal
from cronium.common.messages import Outcome, Results
from cronium.supervisor.core import actions as do
from cronium.supervisor.core.state import Ended, JobRecord, JobState
from cronium.supervisor.journal import Journal, JournalError, advice
from peers import journal_v1 as v1

SEAL = Seal(b"k" * 32)
_COMMITS = """
import itertools, sys
from pathlib import Path
from cronium.common.crypto import Seal
from cronium.supervisor.core import actions as do
from cronium.supervisor.core.state import JobRecord
from cronium.supervisor.journal import Journal
journal = Journal(Path(sys.argv[1]), Seal(b"k" * 32))
print("ready", flush=True)
for number in itertools.count(int(sys.argv[2])):
    record = JobRecord(f"job-{number}", 5, 1)
    journal.commit([do.PutJob(record, b"x" * 5000), do.PutPollKey(str(number))])
    journal.commit([do.PutJob(record.but(generation=number))])
    print(number, flush=True)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True, timeout=10)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True, timeout=10)


def filled(folder: Path) -> Path:
    """A file that leaves no room."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return ballast


def test_what_was_said_to_be_committed_is_there_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    said: list[int] = []
    for _ in range(4):
        begin = said[-1] + 2 if said else 0
        child = subprocess.Popen([sys.executable, "-c", _COMMITS, path, str(begin)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        said += [int(child.stdout.readline()) for _ in range(6)]
        time.sleep(random.uniform(0, 0.2))
        os.kill(child.pid, signal.SIGKILL)
        said += [int(line) for line in child.stdout.read().splitlines()]
        child.wait(10)
        child.stdout.close()
        journal = Journal(path, SEAL)
        memory = journal.load()
        known = {record.job_id: record for record in memory.records}
        for number in said:
            assert known[f"job-{number}"].generation == number
            assert journal.payload(f"job-{number}") == b"x" * 5000
        assert memory.poll_key is not None
        assert f"job-{memory.poll_key}" in known, "one step, whole"
        journal.close()


def test_a_full_disk_takes_nothing_of_a_step_and_all_of_it_once_there_is_room(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    journal = Journal(path, SEAL)
    journal.commit([do.PutJob(JobRecord("first", 5, 1), b"x")])
    ballast = filled(small_disk)
    step = [do.PutJob(JobRecord(f"job-{number}", 5, 1), os.urandom(3000)) for number in range(20)]
    for _ in range(3):
        with pytest.raises(sqlite3.OperationalError, match=r"full|disk I/O error"):
            journal.commit(step)
        assert [record.job_id for record in journal.load().records] == ["first"]
    ballast.unlink()
    journal.commit(step)
    assert len(journal.load().records) == 21
    journal.close()
    again = Journal(path, SEAL)
    assert len(again.load().records) == 21
    again.close()


def test_what_keeps_it_from_being_written_is_told_by_its_cause(small_disk: Path) -> None:
    # Guards: nobody is sent to free space where there is enough; and the loop is not held up by a lock.
    path = small_disk / "journal.db"
    journal = Journal(path, SEAL)
    said = []
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert journal._db.execute("PRAGMA busy_timeout").fetchone() == (500,)
        said.append(refusal(journal))
        other.execute("ROLLBACK")
    ballast = filled(small_disk)
    said.append(refusal(journal))
    ballast.unlink()
    journal._db.execute("PRAGMA query_only=1")
    said.append(refusal(journal))
    journal.close()
    for words, text in zip(("end that program", "disk", "make it writable"), said, strict=True):
        assert words in text
    error = sqlite3.OperationalError("as it comes from a disk that is broken")
    error.sqlite_errorname = "SQLITE_IOERR_WRITE"
    assert "the kernel's log" in advice(error)


def refusal(journal: Journal) -> str:
    with pytest.raises(sqlite3.OperationalError) as caught:
        journal.commit([do.PutJob(JobRecord("job", 5, 1), os.urandom(100_000))])
    return advice(caught.value)


def test_a_journal_that_cannot_be_opened_on_a_full_disk_says_so_and_is_no_damage(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    Journal(path, SEAL).close()
    before = path.read_bytes()
    ballast = filled(small_disk)
    with pytest.raises(JournalError, match="free space"):
        Journal(path, SEAL)
    assert path.read_bytes() == before
    ballast.unlink()
    Journal(path, SEAL).close()
    assert not list(small_disk.glob("*.damaged-*"))


def test_a_migration_on_a_full_disk_leaves_the_old_journal(small_disk: Path) -> None:
    path = small_disk / "journal.db"
    v1.write(path, [(v1.record(f"job-{number}", "ready"), b"x" * 2000, None) for number in range(100)])
    with (small_disk / "ballast").open("wb") as file:
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        file.write(bytes(max(0, free - 400_000)))  # enough for the -wal to be moved into the file, not for what follows
    with pytest.raises(JournalError, match="free space"):
        Journal(path, SEAL)
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", small_disk], check=True, timeout=10)
    journal = Journal(path, SEAL)
    assert len(journal.load().records) == 100
    journal.close()


def test_the_file_does_not_grow_with_the_jobs_that_have_gone_through_it(tmp_path: Path) -> None:
    # Guards: promise 7. Each job leaves 20 KB of results behind until it is done; some are always here.
    path = tmp_path / "journal.db"
    journal = Journal(path, SEAL)
    journal._db.execute("PRAGMA synchronous=OFF")  # only to be quick
    most = 0
    body = os.urandom(10_000)
    rounds, batch = 100, 500  # 50,000 jobs
    for round_ in range(rounds):
        ids = [f"job-{round_}-{number}" for number in range(batch)]
        records = [JobRecord(job_id, 5, 1, state=JobState.ENDED) for job_id in ids]
        big = Outcome("completed", 0, None, 1, 2, Results(script_output=body))
        journal.commit([do.PutJob(record, b"x" * 500) for record in records])
        if round_ % 10 == 0:
            journal.commit([do.PutEnded(job_id, Ended(1, big)) for job_id in ids])
        journal.commit([do.PutJob(record.but(state=JobState.DONE, done_ms=1)) for record in records])
        journal.commit([do.PutEnded(job_id, Ended(1, Outcome("completed", 0, None, 1, 2))) for job_id in ids])
        for first in range(0, batch, 50):
            journal.commit([do.ForgetJob(job_id) for job_id in ids[first : first + 50]])
        most = max(most, sum(p.stat().st_size for p in tmp_path.iterdir()))
    assert most < 48 * 1024 * 1024, "one round and the -wal"
    for number in range(200):  # and it shrinks, a piece with each job that goes
        journal.commit([do.PutJob(JobRecord(f"small-{number}", 5, 1), b"")])
        journal.commit([do.ForgetJob(f"small-{number}")])
    journal.close()
    assert path.stat().st_size < 2 * 1024 * 1024
