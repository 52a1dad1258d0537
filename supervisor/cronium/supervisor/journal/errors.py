"""What a person reads when the journal cannot be used."""

from __future__ import annotations

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
        "The supervisor does not start, as it would forget them. Put a copy of the file back; or go on without these jobs (what "
        f'is left of them here is removed, the backend is told nothing of them):\n  sqlite3 {path} "{command}"'
    )
