"""Is the file at the journal's name a journal that we can use? And a copy of one that is damaged, before anybody tries anything.

Looks only: it opens the file for reading, so that the next start finds what this one has found.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from cronium.common.files import sync_folder
from cronium.supervisor.journal.errors import JournalError, put_back

_MAGIC = b"SQLite format 3\0"
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_WAIT_S = 5.0


def check_file(path: Path, application_id: int, version: int) -> None:
    """Raises JournalError for a file that is damaged, not ours, of a newer schema, or cannot be written; it is left as it is.

    `version` is the newest schema that is known. No file at all is fine.
    """
    _check_access(path)
    if not path.exists():
        return
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise damaged(path, "it is no SQLite file" if path.stat().st_size else "it is empty")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S)) as db:
            (mark,), (found,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version"))
            (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables and mark != application_id:
                raise JournalError(f"{path} is a database of another program: name another stateDir. Nothing was changed")
            if found > version:
                raise JournalError(_newer(path, found, version))
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        raise refused(path, error) from error
    if verdict != "ok":
        raise damaged(path, verdict.splitlines()[-1])


def refused(path: Path, error: sqlite3.DatabaseError | OSError) -> JournalError:
    """What an error of SQLite, or of the file system, at start means."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in _DAMAGE:
        return damaged(path, str(error))
    step = "free space on its disk, and see that nothing else has it open and that its folder can be written"
    return JournalError(f"the journal {path} cannot be used: {error}; {step}. Nothing was changed")


def damaged(path: Path, what: str) -> JournalError:
    """The error for a damaged file, of which a copy is kept from now on."""
    return JournalError(
        f"the journal {path} is damaged: {what}. {keep_copy(path)} {put_back(path, 'a copy from before')}; with nothing in its "
        "place we start anew: what it knew is then forgotten, places of running jobs are removed, and only the backend can give "
        "the jobs out again"
    )


def keep_copy(path: Path) -> str:
    """Copy the file, and its -wal, as they are; once for the same content, however often we are started. Says where it is."""
    for earlier in path.parent.glob(f"{path.name}.damaged-*"):
        if not earlier.name.endswith("-wal") and all(_same(_beside(path, end), _beside(earlier, end)) for end in ("", "-wal")):
            return f"A copy is kept in {earlier}."
    copy = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    partial = path.with_name(f"{path.name}.damaged.partial")  # one name: what a kill leaves of it is gone with the next
    ends = [end for end in ("-wal", "") if not end or _has(_beside(path, end))]
    try:
        for end in ends:
            _beside(partial, end).unlink(missing_ok=True)
            _copy(_beside(path, end), _beside(partial, end))
        for end in ends:  # the main file last: without it there is no copy
            _beside(partial, end).rename(_beside(copy, end))
        sync_folder(path.parent)
    except OSError as error:
        for end in ("", "-wal"):
            _beside(partial, end).unlink(missing_ok=True)
            _beside(copy, end).unlink(missing_ok=True)
        return f"No copy could be made ({error.strerror}): make one before you do anything."
    return f"A copy is kept in {copy}."


def _newer(path: Path, found: int, version: int) -> str:
    return (
        f"the journal {path} has schema {found}, this program knows {version}: run the version that wrote it; or go back to "
        f"{path.name}.v{version}, the copy made before the upgrade (what came later is then forgotten). "
        f"{put_back(path, 'that copy')}. Nothing was changed"
    )


def _check_access(path: Path) -> None:
    wal = _beside(path, "-wal")
    if not path.exists():
        if _has(wal):
            raise JournalError(
                f"the journal {path} is gone, but {wal.name}, a part of it, is there: put that very file back, or move "
                f"{wal.name} and {path.name}-shm away, and start anew or with a copy from before"
            )
        return
    owner = path.stat().st_uid
    if owner != os.geteuid():
        raise JournalError(
            f"the journal {path} belongs to user {owner}, and this is user {os.geteuid()}: run as that user, or give the whole "
            f"folder to this one ('chown -R {os.geteuid()} {path.parent}')"
        )
    for one in (path, path.parent):
        if not os.access(one, os.R_OK | os.W_OK):
            raise JournalError(f"the journal {path} cannot be written ({one}): make it writable, or name another stateDir")


def _copy(source: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.open("rb") as old, os.fdopen(descriptor, "wb") as new:
        shutil.copyfileobj(old, new)
        new.flush()
        os.fsync(new.fileno())


def _same(one: Path, other: Path) -> bool:
    if not (_has(one) and _has(other)):
        return _has(one) == _has(other)
    return filecmp.cmp(one, other, shallow=False)


def _has(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)
