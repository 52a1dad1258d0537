"""One job's output on its way from an executor's updates to the streamer: encoder and sender put together.

Runs in the worker. Decides when a batch is due, how much the executor may read, and what happens above a rate limit. It does no
waiting of its own: `Sockets` calls it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from cronium.common.config.model import Logging
from cronium.worker.executor import Gap, Labels, Log, Told
from cronium.worker.lines import MAX_BATCH_BYTES, LineEncoder
from cronium.worker.sender import Sender
from cronium.worker.sockets import Sockets

_READ_AHEAD_BYTES = 512 * 1024  # encoded and not yet sent: two batches
_LOOKS = 2  # the two streams take turns


@dataclass(slots=True)
class _Skipped:
    lines: int = 0
    bytes: int = 0


@dataclass(slots=True)
class OutputReader:
    """The output of one attempt: take updates in, let batches out."""

    place: str
    encoder: LineEncoder
    sender: Sender
    sockets: Sockets
    logging: Logging
    _last_batch_s: float = 0.0
    _skipped: dict[str, _Skipped] = field(default_factory=dict)
    _places: set[str] = field(default_factory=set)  # those of several, as far as they spoke
    _looks: int = 0  # of the executor, since a line has been unfinished for too long

    def log(self, update: Log) -> None:
        """Number the lines of an update, or skip them when the job is above its limit and may drop."""
        place = self._seen(update.place)
        if self.logging.rate_limit.overflow == "drop" and self.sender.lines_blocked():
            skipped = self._skipped.setdefault(update.stream, _Skipped())
            skipped.lines += update.data.count(b"\n")
            skipped.bytes += len(update.data)
            self.encoder.skip(place, update.stream, update.offset, time.time_ns() // 1_000_000)
            return
        self._tell_skipped()
        self.encoder.feed(place, update.stream, update.data, update.offset, time.monotonic(), time.time_ns() // 1_000_000)
        self.send_due(time.monotonic())

    def gap(self, update: Gap) -> None:
        """Tell people what happened to a stream, and go on behind it."""
        place = self._seen(update.place)
        self.encoder.skip(place, update.stream, update.offset, time.time_ns() // 1_000_000)
        self.encoder.system(update.message, time.time_ns() // 1_000_000, place)

    def told(self, update: Told) -> None:
        """A line of our own."""
        self.encoder.system(update.message, time.time_ns() // 1_000_000, update.place)

    def label(self, update: Labels) -> None:
        """Whose lines are whose."""
        self.encoder.server_of = dict(update.by_place)

    def finish(self) -> None:
        """The place has said all it will ever say."""
        self._tell_skipped()
        self.pause((self.place, *self._places))

    def pause(self, over: Iterable[str] = ()) -> None:
        """Nothing more will come for now: let out what is whole; an unfinished line is read again by whoever goes on.

        `over`: places that nobody reads again, for they have said all; what is unfinished there ends.
        """
        now_ms = time.time_ns() // 1_000_000
        for place in over:
            for stream in ("stdout", "stderr"):
                self.encoder.finish(place, stream, now_ms)
        self._hand_over(time.monotonic())
        self._transmit(time.monotonic())

    def room(self) -> int:
        """How many bytes the executor may hand over now."""
        if self.logging.rate_limit.overflow == "drop" and self.sender.lines_blocked():
            self._looks += 1
            return _READ_AHEAD_BYTES
        if self.sender.room_bytes() == 0 or self.encoder.pending_bytes() >= _READ_AHEAD_BYTES:
            return 0
        self._looks += 1
        return min(_READ_AHEAD_BYTES, max(4096, self.sender.room_bytes()))

    def send_due(self, now_s: float) -> float | None:
        """Send what is due; when (monotonic) something will be next."""
        unfinished_due_s = self._show_unfinished(now_s)
        due_s = None
        if self.encoder.pending_bytes():
            due_s = self._last_batch_s + self.logging.buffer.flush_interval
            full = (
                self.encoder.pending_bytes() >= MAX_BATCH_BYTES or self.encoder.pending_lines() >= self.logging.buffer.batch_size
            )
            if full or now_s >= due_s:
                self._hand_over(now_s)
                due_s = None
        self._transmit(now_s)
        waits = (due_s, self.sender.wake_at_s(), unfinished_due_s)
        return min((w for w in waits if w is not None), default=None)

    def durable(self) -> bool:
        """Whether all that was numbered survives a power cut."""
        return not self.encoder.pending_bytes() and self.sender.idle() and self.sender.safe(self.encoder.position)

    def _seen(self, place: str) -> str:
        if not place:
            return self.place
        self._places.add(place)
        return place

    def _show_unfinished(self, now_s: float) -> float | None:
        """Number a line that stays unfinished, if that is not our doing; when (monotonic) to look again.

        Once it is old enough, the executor must have looked for more and found nothing: its rest may be there already, when we
        were stopped, or had no room.
        """
        unfinished_s = self.encoder.unfinished_since()
        if unfinished_s is None or now_s < unfinished_s + self.logging.partial_line_after:
            self._looks = 0
            return None if unfinished_s is None else unfinished_s + self.logging.partial_line_after
        if self._looks < _LOOKS:
            return None  # the executor comes round by itself
        self._looks = 0
        self.encoder.flush_unfinished(now_s - self.logging.partial_line_after, time.time_ns() // 1_000_000)
        unfinished_s = self.encoder.unfinished_since()
        return None if unfinished_s is None else unfinished_s + self.logging.partial_line_after

    def _hand_over(self, now_s: float) -> None:
        """All that is encoded goes to the sender."""
        while batch := self.encoder.take():
            self.sender.take(batch)
            self._last_batch_s = now_s

    def _transmit(self, now_s: float) -> None:
        due = self.sender.due(now_s)
        for number, message in enumerate(due):
            if not self.sockets.tell_streamer(message):  # it is away, or does not keep up
                self.sender.not_taken(due[number:], now_s)
                return

    def _tell_skipped(self) -> None:
        for stream, skipped in self._skipped.items():
            self.encoder.system(
                f"{skipped.lines} lines ({skipped.bytes} bytes) of {stream} were left out: more than "
                f"{self.logging.rate_limit.lines_per_second or self.logging.rate_limit.global_lines_per_second} lines a second",
                time.time_ns() // 1_000_000,
            )
        self._skipped.clear()
