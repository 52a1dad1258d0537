"""Looks all the time whether lines arrive and jobs end, in the queue's database itself: it answers while the queue does not."""

from __future__ import annotations

import bisect
import sqlite3
import threading
import time
from pathlib import Path

_LOOK_S = 0.02
_ASK_JOBS_EVERY = 10
_BUSY_S = 2.0


class Pulse(threading.Thread):
    """A thread. `outstanding`: jobs that have not ended or whose lines are not all there; `ended`: the others."""

    def __init__(self, database: Path) -> None:
        super().__init__(daemon=True, name="pulse")
        self._database = database
        self._over = threading.Event()
        self._grown_s: list[float] = []  # when there were new lines, on the monotonic clock
        self.outstanding = 0
        self.running = 0
        self.ended = 0
        self.frames = 0

    def next_line_s(self, after_s: float) -> float | None:
        """Seconds from then to the next new line; None: there was none yet."""
        at = bisect.bisect_right(self._grown_s, after_s)
        return self._grown_s[at] - after_s if at < len(self._grown_s) else None

    def longest_silence_s(self) -> float:
        """Between two new lines."""
        return max((b - a for a, b in zip(self._grown_s, self._grown_s[1:], strict=False)), default=0.0)

    def stop(self) -> None:
        self._over.set()
        self.join(5)

    def run(self) -> None:
        connection = sqlite3.connect(self._database, timeout=_BUSY_S, check_same_thread=False)
        connection.execute("PRAGMA query_only = 1")
        look = 0
        while not self._over.wait(_LOOK_S):
            try:
                frames = connection.execute("SELECT max(number) FROM frames").fetchone()[0] or 0
                if frames > self.frames:
                    self.frames = frames
                    self._grown_s.append(time.monotonic())
                if look % _ASK_JOBS_EVERY == 0:
                    self._count(connection)
            except sqlite3.OperationalError:
                continue  # it is being started or checkpointed: look again
            look += 1
        connection.close()

    def _count(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute(
            "SELECT ended_ms IS NOT NULL AND coalesce(logs_complete, '') <> 'pending', status = 'running', count(*) "
            "FROM jobs GROUP BY 1, 2"
        ).fetchall()
        self.ended = sum(count for over, _, count in rows if over)
        self.outstanding = sum(count for over, _, count in rows if not over)
        self.running = sum(count for over, running, count in rows if running and not over)
