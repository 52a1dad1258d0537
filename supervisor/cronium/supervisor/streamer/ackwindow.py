"""Frames on their way to the backend. Pure: what was sent and what was acknowledged in, what is settled out.

The rules (PROTOCOL.md, 'WebSocket'):
- an id rises with every frame and never starts again, not with a new connection and not with a new streamer; a frame that is
  sent again gets a new one;
- an acknowledgement covers its own frame only, comes in any order, twice, or never;
- at most `limit` frames are unacknowledged; when the oldest has waited for `timeout_s` the connection is no good;
- after a reconnect everything that is not settled is read from the spool again, from `low` on: nothing of it is kept here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_SPREAD = 16  # how many times `limit` records may be settled behind one that is not


@dataclass(frozen=True, slots=True)
class Entry:
    """One frame: its record's place in the log, whose it is, and what it weighs there."""

    lsn: int
    job_id: str
    epoch: int
    lines: int
    size: int
    disk_bytes: int
    sent_at_s: float


class AckWindow:
    """The frames on their way, and up to where all are settled."""

    def __init__(self, limit: int, timeout_s: float, first_id: int) -> None:
        self._limit = limit
        self._timeout_s = timeout_s
        self.next_id = first_id
        self._on_way: dict[int, Entry] = {}  # by id, oldest first
        self._passed: deque[int] = deque()  # log positions read since `low`, in order
        self._settled: set[int] = set()  # those of them that are settled

    def __len__(self) -> int:
        return len(self._on_way)

    def has_room(self) -> bool:
        """Whether one more frame may be sent."""
        return len(self._on_way) < self._limit and len(self._passed) < self._limit * _SPREAD

    def take_id(self) -> int:
        """An id for a frame; used up even when it cannot be sent."""
        self.next_id += 1
        return self.next_id - 1

    def sent(self, frame_id: int, entry: Entry) -> None:
        """A frame is on its way."""
        self._on_way[frame_id] = entry
        self._passed.append(entry.lsn)

    def is_settled(self, lsn: int) -> bool:
        """Whether this record, met again in a replay, needs no sending."""
        return lsn in self._settled

    def skip(self, lsn: int) -> None:
        """A record was passed that needs no sending."""
        self._passed.append(lsn)
        self._settled.add(lsn)
        self._trim()

    def settle(self, frame_id: int) -> Entry | None:
        """A frame was acknowledged or refused for good; None when it is not (or no longer) on its way."""
        entry = self._on_way.pop(frame_id, None)
        if entry is not None:
            self._settled.add(entry.lsn)
            self._trim()
        return entry

    def low(self, cursor: int) -> int:
        """The log position below which everything is settled; `cursor` is where reading goes on."""
        return self._passed[0] if self._passed else cursor

    def overdue(self, now_s: float) -> bool:
        """Whether the oldest frame has waited too long."""
        oldest = next(iter(self._on_way.values()), None)
        return oldest is not None and now_s - oldest.sent_at_s >= self._timeout_s

    def replay(self, cursor: int) -> int:
        """Nothing is on its way any more; the log position from which to read again."""
        low = self.low(cursor)
        self._on_way.clear()
        self._passed.clear()
        return low

    def _trim(self) -> None:
        while self._passed and self._passed[0] in self._settled:
            self._settled.discard(self._passed.popleft())
