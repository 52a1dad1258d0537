"""What a person reads when the journal cannot be used."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

from cronium.common.errors import CroniumError

_MOST_SHOWN = 20


class JournalError(CroniumError):
    """The journal cannot be used; the text says why and what to do. Nothing was thrown away."""


class DamagedJobsError(CroniumError):
    """Some jobs cannot be read while others can: `bad` says what is wrong with which. Becomes a JournalError."""

    def __init__(self, bad: Mapping[str, str]) -> None:
        super().__init__(f"{len(bad)} jobs cannot be read")
        self.bad = bad


def damaged_jobs(path: Path, bad: Mapping[str, str], copy: str) -> JournalError:
    """Some jobs (id and what is wrong) cannot be read while others can; `copy` says where one is."""
    shown = [f"  {job_id}: {reason}" for job_id, reason in list(bad.items())[:_MOST_SHOWN]]
    if len(bad) > _MOST_SHOWN:
        shown.append(f"  and {len(bad) - _MOST_SHOWN} more")
    ids = ", ".join("'" + job_id.replace("'", "''") + "'" for job_id in bad)
    command = f"DELETE FROM job WHERE job_id IN ({ids})"  # noqa: S608 - text for a person; quoted above
    return JournalError(
        f"{len(bad)} of the jobs in the journal {path} cannot be read:\n" + "\n".join(shown) + f"\n{copy} "
        f"The supervisor does not start, as it would forget them. {put_back(path, 'a copy from before')}; or go on without these "
        f'jobs (what is left of them here is removed, the backend is told nothing of them):\n  sqlite3 {path} "{command}"'
    )


def put_back(path: Path, copy: str) -> str:
    """How an earlier file takes the journal's place. A -wal that stays is of the later one: SQLite would write it over this."""
    name = path.name
    return f"Move {name}, {name}-wal and {name}-shm away, as far as they are there, and only then put {copy} in place of {path}"


def advice(error: sqlite3.OperationalError) -> str:
    """What to do when the journal cannot be written, by SQLite's name for it (https://www.sqlite.org/rescode.html)."""
    name = getattr(error, "sqlite_errorname", None) or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "another program has locked the file; end that program"
    if name.startswith("SQLITE_READONLY"):
        return "the file or its disk is read-only now; make it writable again"
    if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")):
        return "its disk does not work as it should; look into the kernel's log, and whether it has free space"
    return "free some disk space"
