"""What the queue keeps of log lines: frames as they came, and extents. SQL in, values out; the database's thread only.

A frame is one row: its range of line numbers, and its JSON, gzip or plain, as it arrived. Frames of a job never overlap.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cronium.supervisor.standalone.coverage import Extent, Totals

PLAIN, GZIP = 0, 1  # the column `encoding`

_EXTENT = "first, last, out_lines, out_bytes, out_crc32, err_lines, err_bytes, err_crc32"


@dataclass(frozen=True, slots=True)
class FrameRow:
    """Lines `first` to `last` of a job, as JSON in `encoding`."""

    first: int
    last: int
    encoding: int
    body: bytes


class LogStore:
    """The tables of frames and extents. Jobs are named by their number."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection

    def add_frame(self, job: int, frame: FrameRow) -> None:
        """Store lines that are not here yet."""
        self._sql.execute(
            "INSERT INTO frames (job, first, last, encoding, body) VALUES (?, ?, ?, ?, ?)",
            (job, frame.first, frame.last, frame.encoding, frame.body),
        )

    def frames(self, job: int, first: int, last: int, limit_bytes: int) -> tuple[list[FrameRow], bool]:
        """Frames with any of the lines first..last, in order (their edges may lie outside), and whether there are more.

        At least one, then as long as their bodies stay below `limit_bytes`.
        """
        rows = self._sql.execute(
            "SELECT first, last, encoding, body FROM frames WHERE job = ? AND last >= ? AND first <= ? ORDER BY last",
            (job, first, last),
        )
        found: list[FrameRow] = []
        for row in rows:
            if limit_bytes <= 0:
                rows.close()
                return found, True
            found.append(FrameRow(*row))
            limit_bytes -= len(row[3])
        return found, False

    def extents(self, job: int, epoch: int, first: int = 0, last: int = 2**62) -> list[Extent]:
        """Extents of an epoch that overlap or touch first..last, in order."""
        rows = self._sql.execute(
            f"SELECT {_EXTENT} FROM extents "  # noqa: S608  # our own column names
            "WHERE job = ? AND epoch = ? AND last >= ? AND first <= ? ORDER BY first",
            (job, epoch, first - 1, last + 1),
        )
        return [_extent(row) for row in rows]

    def replace_extents(self, job: int, epoch: int, gone: Iterable[Extent], new: Extent) -> None:
        """Store an extent in the place of those it was made of."""
        for extent in gone:
            self._sql.execute("DELETE FROM extents WHERE job = ? AND epoch = ? AND first = ?", (job, epoch, extent.first))
        out, err = new.stdout, new.stderr
        self._sql.execute(
            f"INSERT INTO extents (job, epoch, {_EXTENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            (job, epoch, new.first, new.last, out.lines, out.bytes, out.crc32, err.lines, err.bytes, err.crc32),
        )

    def remove(self, job: int, limit: int) -> bool:
        """Drop up to `limit` frames of a job; true when none is left, and then its extents are gone too."""
        dropped = self._sql.execute(
            "DELETE FROM frames WHERE number IN (SELECT number FROM frames WHERE job = ? LIMIT ?)", (job, limit)
        ).rowcount
        if dropped == limit:
            return False
        self._sql.execute("DELETE FROM extents WHERE job = ?", (job,))
        return True


def _extent(row: Sequence[int]) -> Extent:
    return Extent(row[0], row[1], Totals(*row[2:5]), Totals(*row[5:8]))
