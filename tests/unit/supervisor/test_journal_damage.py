"""A journal that is damaged or not ours is refused with what to do, is copied once, and nothing of it is thrown away."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cronium.common.crypto import Seal
from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import Outcome
from cronium.supervisor.core import actions as do
from cronium.supervisor.core.state import Ended, JobRecord
from cronium.supervisor.journal import Journal, JournalError
from cronium.supervisor.journal.damage import check_file, keep_copy
from cronium.supervisor.journal.migrations import APPLICATION_ID

SEAL = Seal(b"k" * 32)
_JOBS = 300
_PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with some jobs in it, closed in order."""
    path = tmp_path / "journal.db"
    journal = Journal(path, SEAL)
    error = ExecutionError(Reason.SCRIPT_EXIT, "it ended with 3").report()
    for number in range(_JOBS):
        record = JobRecord(f"job-{number}", 5, 1_700_000_000_000)
        journal.commit(
            [do.PutJob(record, b"payload" * 100), do.PutEnded(record.job_id, Ended(1, Outcome("failed", 3, error, 1, 2)))]
        )
    journal.close()
    return path


def copies(path: Path) -> list[Path]:
    return sorted(path.parent.glob("journal.db.damaged-*"))


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def a_header_of_garbage(path: Path) -> None:
    overwrite(path, 0, os.urandom(100))


def a_page_of_garbage(path: Path) -> None:
    overwrite(path, path.stat().st_size // _PAGE * 3 // 4 * _PAGE, os.urandom(_PAGE))


def half_a_file(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // _PAGE * _PAGE)


def nothing_in_it(path: Path) -> None:
    os.truncate(path, 0)


def something_else(path: Path) -> None:
    path.write_bytes(b"this is no database, whatever its name says" * 100)


@pytest.mark.parametrize("damage", [a_header_of_garbage, a_page_of_garbage, half_a_file, nothing_in_it, something_else])
def test_damage_is_told_and_copied_once_however_often_it_is_started(path: Path, damage: Callable[[Path], None]) -> None:
    damage(path)
    before = path.read_bytes()
    for _ in range(3):  # as supervisord does
        with pytest.raises(
            JournalError, match=r"damaged: .*A copy is kept in .*Move journal.db, journal.db-wal and journal.db-shm away"
        ):
            Journal(path, SEAL).load()
    assert path.read_bytes() == before
    (copy,) = copies(path)
    assert copy.read_bytes() == before
    assert copy.stat().st_mode & 0o777 == 0o600


def test_another_damage_is_copied_too(path: Path) -> None:
    for damage in (a_page_of_garbage, something_else):
        damage(path)
        with pytest.raises(JournalError, match="damaged"):
            Journal(path, SEAL)
    assert len(copies(path)) == 2


def test_what_was_not_yet_moved_into_the_file_is_copied_with_it(path: Path, tmp_path: Path) -> None:
    journal = Journal(path, SEAL)
    journal.commit([do.PutJob(JobRecord("latest", 5, 1), b"x")])
    wal = path.with_name("journal.db-wal").read_bytes()
    a_page_of_garbage(path)
    with pytest.raises(JournalError, match="damaged"):
        Journal(path, SEAL)
    assert [copy.name[-4:] for copy in copies(path)][1:] == ["-wal"]
    assert copies(path)[1].read_bytes() == wal
    journal.close()


@pytest.mark.parametrize("table", ["job", "payload", "outcome"])
def test_one_job_that_cannot_be_read_is_named_with_the_way_to_go_on_without_it(path: Path, table: str) -> None:
    # Guards: no acknowledged job is ever forgotten in silence; one damaged row does not hold up the others for good.
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"UPDATE {table} SET sealed = zeroblob(length(sealed)) WHERE job_id = 'job-7'")
        db.commit()
    said = ""
    for _ in range(3):
        journal = Journal(path, SEAL)
        with pytest.raises(JournalError, match="1 of the jobs") as caught:
            journal.load()
        journal.close()
        said = str(caught.value)
    assert len(copies(path)) == 1
    command = said.splitlines()[-1].strip()
    assert command == f"""sqlite3 {path} "DELETE FROM job WHERE job_id IN ('job-7')\""""
    with closing(sqlite3.connect(path)) as db:
        db.execute(command.split('"')[1])
        db.commit()
    journal = Journal(path, SEAL)
    memory = journal.load()
    assert len(memory.records) == len(memory.ended) == _JOBS - 1
    journal.close()


def test_a_row_that_somebody_has_edited_is_refused(path: Path) -> None:
    # Guards: a flipped bit in a column in clear does not pass for the truth (SQLite has no checksums).
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE job SET generation = generation + 1 WHERE job_id = 'job-9'")
        db.commit()
    journal = Journal(path, SEAL)
    with pytest.raises(JournalError, match="job-9"):
        journal.load()
    journal.close()


def test_a_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as foreign:
        foreign.execute("CREATE TABLE theirs (a)")
        foreign.commit()
    before = path.read_bytes()
    with pytest.raises(JournalError, match="another program: name another stateDir"):
        Journal(path, SEAL)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["journal.db"]


def test_a_newer_schema_is_refused_and_the_way_back_named(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"schema 99.*run the version that wrote it; or go back to journal.db.v2"):
        Journal(path, SEAL)
    assert path.read_bytes() == before
    assert not copies(path)


def a_row_of_garbage(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE job SET sealed = zeroblob(length(sealed)) WHERE job_id = 'job-7'")
        db.commit()


@pytest.mark.parametrize("trouble", [a_page_of_garbage, a_row_of_garbage, None])
def test_who_does_what_is_said_has_the_file_from_before(
    path: Path, tmp_path: Path, trouble: Callable[[Path], None] | None
) -> None:
    # Guards: what we tell people to do does not destroy what they put back. A -wal that stays would be written over it.
    backup = tmp_path / "backup.db"
    backup.write_bytes(path.read_bytes())
    journal = Journal(path, SEAL)
    journal.commit([do.PutJob(JobRecord(f"job-{number}", 5, 1, generation=9)) for number in range(_JOBS)])
    left = {name: name.read_bytes() for name in (path, path.with_name("journal.db-wal"))}
    journal.close()
    for name, content in left.items():  # as after a kill
        name.write_bytes(content)
    if trouble is not None:
        trouble(path)
    with pytest.raises(JournalError) as caught:
        check_file(path, APPLICATION_ID, 1) if trouble is None else _loaded(path)
    steps = re.search(r"Move (.*?) away, .* in place of (\S+?)[;.] ", str(caught.value))
    assert steps is not None
    for end in re.split(r", | and ", steps[1]):
        if (found := tmp_path / end).exists():
            found.rename(tmp_path / f"away-{end}")
    backup.rename(steps[2])
    assert _loaded(path) == {f"job-{number}": 0 for number in range(_JOBS)}


def _loaded(path: Path) -> dict[str, int]:
    journal = Journal(path, SEAL)
    try:
        return {record.job_id: record.generation for record in journal.load().records}
    finally:
        journal.close()


_COPIES = """
import sys
from pathlib import Path
from cronium.supervisor.journal.damage import keep_copy
keep_copy(Path(sys.argv[1]))
"""


def test_a_kill_in_the_middle_of_copying_leaves_nothing_that_looks_like_a_copy(path: Path) -> None:
    # Guards: supervisord starts us again and again; the disk does not fill up with pieces.
    os.truncate(path, 100 * 1024 * 1024)
    child = subprocess.Popen([sys.executable, "-c", _COPIES, path])
    while len(list(path.parent.iterdir())) == 1 and child.poll() is None:
        time.sleep(0.001)
    child.kill()
    assert child.wait(10) == -signal.SIGKILL
    assert copies(path) == []
    assert list(path.parent.glob("*.partial")) != []
    assert keep_copy(path).startswith("A copy is kept")
    (copy,) = copies(path)
    assert copy.stat().st_size == path.stat().st_size
    assert not list(path.parent.glob("*.partial"))
    for big in (path, copy):
        big.unlink()


def test_a_journal_that_is_gone_but_for_its_wal_is_not_begun_anew(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.with_name("journal.db-wal").write_bytes(b"what was committed last")
    with pytest.raises(JournalError, match="put that very file back"):
        Journal(path, SEAL)
    assert not path.exists()


def test_one_of_another_user_is_refused(path: Path) -> None:
    os.chown(path, 12345, 12345)
    with pytest.raises(JournalError, match=r"belongs to user 12345.*chown -R"):
        Journal(path, SEAL)


def test_one_that_cannot_be_written_is_told(path: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=True, timeout=10)
    try:
        for make in (True, False):
            if make:
                Journal(path, SEAL).close()
                subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True, timeout=10)
            with pytest.raises(JournalError, match="cannot be written"):
                Journal(path, SEAL)
    finally:
        subprocess.run(["umount", tmp_path], check=True, timeout=10)


def test_so_is_a_folder_in_which_none_can_be_made(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k,ro", "tmpfs", tmp_path], check=True, timeout=10)
    try:
        with pytest.raises(JournalError, match=r"cannot be used: .*Read-only file system"):
            Journal(tmp_path / "journal.db", SEAL)
    finally:
        subprocess.run(["umount", tmp_path], check=True, timeout=10)


def test_where_no_copy_can_be_made_it_says_so(path: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", tmp_path], check=True, timeout=10)
    try:
        path.write_bytes(b"not a database" * 5000)
        with pytest.raises(JournalError, match=r"No copy could be made \(No space left on device\)"):
            Journal(path, SEAL)
        assert [p.name for p in tmp_path.iterdir()] == ["journal.db"]
    finally:
        subprocess.run(["umount", tmp_path], check=True, timeout=10)
