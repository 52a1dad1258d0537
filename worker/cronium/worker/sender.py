"""Worker to streamer is go-back-N: this is the worker's half of it. Pure: said positions and times in, messages out.

The rules (DESIGN.md, 'A batch of log lines on its way'):
- a reader says `Open` until it hears the position (after 10 ms, doubling, at most a second) and goes on from there; only the
  very first reader of a job does not wait;
- batches follow each other without holes; what is not yet confirmed is kept and sent again under a new `run` when the
  streamer says `rejected`, is a new one, or has been silent for a second while it owes us something: a confirmation, a sync,
  a window;
- within one run the position only rises: a Said that is behind what was heard is an old one and says nothing;
- a position that is neither the last one heard nor where a batch of ours ends was not made by us: the streamer lost something
  and went on (a damaged spool), so this reader's batches follow nothing any more and it ends;
- never more is on its way than the last said window allows.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cronium.common.errors import CroniumError
from cronium.common.messages import Batch, Open, Position, Said
from cronium.worker.lines import EncodedBatch

_FIRST_RETRY_S = 0.010
_LAST_RETRY_S = 1.0
_FULL_PAUSE_S = 0.005
FIRST_WINDOW_BYTES = 64 * 1024  # what the first reader of a job may send before it has heard anything
_FIRST_WINDOW_LINES = 1000


class PositionLostError(CroniumError):
    """The streamer is behind what it had confirmed, or beyond what was sent: this reader cannot go on, a new one can."""


@dataclass(slots=True)
class Sender:
    """What one reader of one job has on its way.

    `position`: where reading starts; None until it is known.
    """

    job_id: str
    worker: str
    epoch: int
    generation: int
    compress_threshold: int
    position: Position | None = None
    run: int = 0
    written: Position | None = None
    synced: Position | None = None
    _unconfirmed: deque[Batch] = field(default_factory=deque)
    _to_send: deque[Batch] = field(default_factory=deque)
    _window_bytes: int = 0
    _window_lines: int = 0
    _on_way_bytes: int = 0
    _on_way_lines: int = 0
    _opening: bool = False
    _retry_s: float = _FIRST_RETRY_S
    _retry_at_s: float = 0.0
    _heard_at_s: float = 0.0
    _full_until_s: float = 0.0

    def start(self, now_s: float, *, fresh: bool) -> None:
        """Take the job; a `fresh` one has no position to wait for."""
        if fresh:
            self.position = self.written = self.synced = Position()
            self.run = 1
            self._window_bytes, self._window_lines = FIRST_WINDOW_BYTES, _FIRST_WINDOW_LINES
            self._heard_at_s = now_s
        else:
            self._reopen(now_s)

    def take(self, batch: EncodedBatch) -> None:
        """One more batch to be sent; its payload is compressed here when that is worth it."""
        payload, size = batch.payload, len(batch.payload)
        compressed = size >= self.compress_threshold
        if compressed:
            payload = zlib.compress(payload, 1, 31)  # one gzip member; level 1: twelve times smaller, and the cheapest
        self._to_send.append(
            Batch(
                self.job_id,
                self.worker,
                self.epoch,
                self.generation,
                self.run,
                batch.first_sequence,
                batch.lines,
                payload,
                compressed,
                size,
                batch.after,
            )
        )

    def hear(self, said: Said, now_s: float) -> None:
        """Take what the streamer says. Raises PositionLostError when it has lost what it had confirmed, or went on without us."""
        if (said.job_id, said.epoch, said.generation) != (self.job_id, self.epoch, self.generation) or said.run != self.run:
            return
        if self.written is not None and said.written.next_sequence < self.written.next_sequence:
            if not self._opening:
                return
            raise PositionLostError(
                f"job {self.job_id}: the streamer is at line {said.written.next_sequence}, "
                f"it had said {self.written.next_sequence}"
            )
        if self.position is not None and not self._may_be_at(said.written):
            raise PositionLostError(
                f"job {self.job_id}: the streamer is at line {said.written.next_sequence}, "
                "and nothing that this reader sent ends there"
            )
        self._heard_at_s = now_s
        if self.position is None:
            self.position = said.written
        self.written = said.written
        if self.synced is None or said.synced.next_sequence >= self.synced.next_sequence:
            self.synced = said.synced  # what survives a power cut goes on doing so
        while self._unconfirmed and self._unconfirmed[0].first_sequence < said.written.next_sequence:
            batch = self._unconfirmed.popleft()
            self._on_way_bytes -= batch.size
            self._on_way_lines -= batch.lines
        while self._to_send and self._to_send[0].first_sequence < said.written.next_sequence:
            self._to_send.popleft()  # sent under an older run
        self._window_bytes, self._window_lines = said.window_bytes, said.window_lines
        if self._opening:
            self._opening, self._retry_s = False, _FIRST_RETRY_S
            self._send_again()
        elif said.rejected:
            self._reopen(now_s)

    def streamer_is_new(self, now_s: float) -> None:
        """A streamer has just begun to listen to us: what was on its way to the old one is gone."""
        if not self._opening:
            self._reopen(now_s)
        self._retry_at_s = now_s

    def due(self, now_s: float) -> list[Open | Batch]:
        """What is to be sent now."""
        if not self._opening and self._is_owed() and now_s - self._heard_at_s >= _LAST_RETRY_S:
            self._reopen(now_s)
        if self._opening:
            if now_s < self._retry_at_s:
                return []
            self._retry_at_s, self._retry_s = now_s + self._retry_s, min(self._retry_s * 2, _LAST_RETRY_S)
            return [Open(self.job_id, self.worker, self.epoch, self.generation, self.run)]
        out: list[Open | Batch] = []
        if now_s < self._full_until_s:
            return out
        self._full_until_s = 0.0
        while self._to_send and self._fits(self._to_send[0]):
            batch = self._to_send.popleft()
            if not self._is_owed():
                self._heard_at_s = now_s  # the second of silence counts from the first batch that waits for an answer
            self._unconfirmed.append(batch)
            self._on_way_bytes += batch.size
            self._on_way_lines += batch.lines
            out.append(batch)
        return out

    def not_taken(self, messages: Sequence[Open | Batch], now_s: float) -> None:
        """The last of what was due found no room in the queue to the streamer: it stays due, a little later."""
        self._full_until_s = now_s + _FULL_PAUSE_S
        for batch in reversed(messages):
            if isinstance(batch, Batch):
                self._unconfirmed.pop()
                self._on_way_bytes -= batch.size
                self._on_way_lines -= batch.lines
                self._to_send.appendleft(batch)

    def wake_at_s(self) -> float | None:
        """When `due` may have something without anything having been heard; None: never."""
        if self._opening:
            return self._retry_at_s
        waits = self._heard_at_s + _LAST_RETRY_S if self._is_owed() else None
        if self._to_send and self._full_until_s:
            return self._full_until_s if waits is None else min(waits, self._full_until_s)
        return waits

    def room_bytes(self) -> int:
        """How many more encoded bytes could be sent at once; 0 when something already waits for the window."""
        if self._opening or self._to_send or self._on_way_lines >= self._window_lines:
            return 0
        return max(0, self._window_bytes - self._on_way_bytes)

    def lines_blocked(self) -> bool:
        """Whether a rate limit, not the backlog, is what holds this job back."""
        return not self._opening and self._on_way_lines >= self._window_lines

    def idle(self) -> bool:
        """Nothing waits and nothing is on its way."""
        return not self._to_send and not self._unconfirmed

    def durable_offset(self, place: str, stream: str) -> int:
        """Up to where this file is safe on disk."""
        return 0 if self.synced is None else self.synced.mark(place, stream).offset

    def safe(self, position: Position) -> bool:
        """Whether everything up to this position survives a power cut."""
        return self.synced is not None and self.synced.next_sequence >= position.next_sequence

    def _is_owed(self) -> bool:
        """Whether the streamer has still to say something: no single message is trusted to arrive."""
        if self._unconfirmed or self._window_bytes <= 0 or self._window_lines <= 0:
            return True
        return self.written is not None and self.synced is not None and self.synced.next_sequence < self.written.next_sequence

    def _may_be_at(self, position: Position) -> bool:
        """Whether a streamer that lost nothing can be here: where it was, or at the end of a batch that waits."""
        return position == self.written or any(batch.after == position for batch in (*self._unconfirmed, *self._to_send))

    def _fits(self, batch: Batch) -> bool:
        if not self._unconfirmed and self._window_bytes > 0 and self._window_lines > 0:
            return True  # alone on its way, a batch may be larger than the window
        return self._on_way_bytes + batch.size <= self._window_bytes and self._on_way_lines + batch.lines <= self._window_lines

    def _reopen(self, now_s: float) -> None:
        self.run += 1
        self._opening = True
        self._retry_s, self._retry_at_s = _FIRST_RETRY_S, now_s

    def _send_again(self) -> None:
        """Everything that is not confirmed goes once more, in order, under the new run."""
        waiting = [*self._unconfirmed, *self._to_send]
        self._unconfirmed.clear()
        self._to_send.clear()
        self._on_way_bytes = self._on_way_lines = 0
        self._to_send.extend(replace(batch, run=self.run) for batch in waiting)
