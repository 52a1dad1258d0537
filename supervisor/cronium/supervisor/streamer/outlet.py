"""From the spool to the backend: which batch goes next, by which way, and what becomes of it. Only what is synced goes.

Runs in the streamer's loop. The WebSocket goes before; when it has been away for `fallbackAfter` the same batches go by HTTP
from the same cursor, until it is back. What was on its way when a way ended is read from the spool again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import zmq

from cronium.common.messages import Batch, Notice
from cronium.supervisor.streamer.ackwindow import AckWindow, Entry
from cronium.supervisor.streamer.frames import log_frame
from cronium.supervisor.streamer.ledger import Ledger
from cronium.supervisor.streamer.settings import StreamerSettings
from cronium.supervisor.streamer.spool import Spool
from cronium.supervisor.streamer.transport import Answered, Down, Up
from cronium.supervisor.streamer.websocket import WebSocketLink

if TYPE_CHECKING:
    from cronium.supervisor.streamer.fallback import HttpFallback

_log = structlog.get_logger()

_MOST_REMEMBERED = 10_000  # jobs whose refusal was logged


class Outlet:
    """Owns the ways to the backend and the window of frames on their way."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        settings: StreamerSettings,
        spool: Spool,
        ledger: Ledger,
        first_id: int,
        now_s: float,
    ) -> None:
        self._context, self._settings, self._spool, self._ledger = context, settings, spool, ledger
        self._window = AckWindow(settings.max_unacked, settings.ack_timeout_s, max(first_id, ledger.next_id))
        self._link = WebSocketLink(context, settings) if settings.websocket_url else None
        self._fallback: HttpFallback | None = None
        self._connection: int | None = None
        self._away_since_s = self._up_at_s = now_s
        self._proven = False  # whether this connection has acknowledged anything
        self._refused_jobs: dict[str, None] = {}
        self._given_up_jobs: dict[str, None] = {}
        self.frames_sent = self.frames_acknowledged = self.lines_refused = self.lines_given_up = self.reconnects = 0
        ledger.positions.answers = self._link is None

    @property
    def connected(self) -> bool:
        """Whether the WebSocket is up."""
        return self._connection is not None

    def pump(self, now_s: float) -> None:
        """Send what can be sent."""
        while self._window.has_room() and (spooled := self._spool.peek()) is not None:
            batch = spooled.record
            assert isinstance(batch, Batch)  # noqa: S101 - what peek gives; for the type checker
            key = (batch.job_id, batch.epoch)
            if self._window.is_settled(spooled.lsn):
                self._window.skip(spooled.lsn)
            elif spooled.lsn < self._ledger.too_old_below and self._link is not None:
                self._give_up(batch)
                self._window.skip(spooled.lsn)
                self._ledger.settled(key, batch.size, spooled.disk_bytes, now_s)
            elif self._link is None or not batch.lines:
                self._window.skip(spooled.lsn)
                self._ledger.settled(key, batch.size, spooled.disk_bytes, now_s)
            elif spooled.lsn >= self._ledger.safe:
                break  # a power cut might take it back, and its numbers would come again for other lines
            else:
                frame_id = self._window.take_id()
                if not self._send(frame_id, batch):
                    break
                self.frames_sent += 1
                entry = Entry(spooled.lsn, *key, batch.lines, batch.size, spooled.disk_bytes, now_s)
                self._window.sent(frame_id, entry)
            self._spool.advance()
        self._remember_low()

    def answered(self, event: Answered, now_s: float) -> None:
        """A frame was acknowledged or refused."""
        entry = self._window.settle(event.frame_id)
        if entry is None:
            return
        self.frames_acknowledged += 1
        self._proven = True
        if not event.success:
            self._set_aside(entry, event.error)
        self._ledger.settled((entry.job_id, entry.epoch), entry.size, entry.disk_bytes, now_s)
        if self._fallback is not None:
            self._ledger.positions.answers = True

    def up(self, event: Up, now_s: float) -> None:
        """The WebSocket is there (again): everything that is not acknowledged goes over it."""
        self._connection, self._up_at_s, self._proven = event.connection, now_s, False
        self.reconnects += event.connection > 1
        _log.info("websocket connected", unacknowledged=len(self._window))
        if self._fallback is not None:
            self._fallback.end()
            self._fallback = None
        self._replay()
        self._ledger.positions.answers = True

    def down(self, event: Down, now_s: float) -> None:
        """The WebSocket is gone, or could not be had."""
        if self._connection is not None:
            self._connection = None
            if self._proven or now_s - self._up_at_s >= self._settings.fallback_after_s:
                self._away_since_s = now_s  # one that only let us in and out again was never there
            self._replay()
            self._ledger.positions.answers = False
        _log.warning("websocket away", error=event.reason, waiting_bytes=self._spool.end - self._ledger.low)

    def tick(self, now_s: float) -> None:
        """See to what depends on time."""
        if self.connected:
            if self._window.overdue(now_s) and self._link is not None:
                self._link.drop(f"no acknowledgement for {self._settings.ack_timeout_s:g} s")
        elif self._fallback is not None and self._window.low(self._spool.cursor) < self._ledger.too_old_below:
            self._fallback.end()  # what it has not delivered is read again, to be given up; a new one gets the rest
            self._fallback = None
            self._ledger.positions.answers = False
            self._replay()
        elif self._fallback is None and self._may_fall_back(now_s):
            _log.warning("log lines go by HTTP, the websocket stays away", away_s=round(now_s - self._away_since_s))
            # Imported when it is needed, which is hardly ever: it would take half of the time of a restart.
            from cronium.supervisor.streamer.fallback import HttpFallback  # noqa: PLC0415

            self._fallback = HttpFallback(self._context, self._settings)

    def notice(self, notice: Notice) -> None:
        """A frame for people who watch: sent now or never."""
        if self._link is not None and self._connection is not None:
            start = b'{"type":"%b","id":%d,"payload":' % (notice.type.encode(), self._window.take_id())
            self._link.send(self._connection, start + notice.payload + b"}", binary=False)

    def is_quiet(self) -> bool:
        """Whether nothing can be sent or acknowledged now."""
        return not self.connected or (not len(self._window) and self._spool.peek() is None)

    def stop(self, timeout_s: float) -> bool:
        """Close the ways; False when a thread could not be ended in time."""
        if self._fallback is not None:
            self._fallback.end()
        return (self._link is None or self._link.stop(timeout_s)) and (self._fallback is None or self._fallback.join(timeout_s))

    def _send(self, frame_id: int, batch: Batch) -> bool:
        if self._link is not None and self._connection is not None:
            binary, data = log_frame(frame_id, batch)
            return self._link.send(self._connection, data, binary=binary)
        return self._fallback is not None and self._fallback.send(frame_id, batch)

    def _may_fall_back(self, now_s: float) -> bool:
        away_s = now_s - self._away_since_s
        return self._link is not None and bool(self._settings.http_url) and away_s >= self._settings.fallback_after_s

    def _replay(self) -> None:
        self._spool.seek(self._window.replay(self._spool.cursor))

    def _remember_low(self) -> None:
        self._ledger.low = self._window.low(self._spool.cursor)
        self._ledger.next_id = self._window.next_id

    def _set_aside(self, entry: Entry, reason: str) -> None:
        self.lines_refused += entry.lines
        if _is_first(entry.job_id, self._refused_jobs):
            _log.error("the backend refuses log lines of this job for good", job_id=entry.job_id, error=reason, lines=entry.lines)

    def _give_up(self, batch: Batch) -> None:
        self.lines_given_up += batch.lines
        if _is_first(batch.job_id, self._given_up_jobs):
            _log.error(
                "log lines of this job are given up: the backend has not taken them for longer than logging.spool.maxAge; "
                "see why it does not answer, or raise maxAge",
                job_id=batch.job_id,
                first_sequence=batch.first_sequence,
                max_age_s=self._settings.max_spool_age_s,
            )


def _is_first(job_id: str, told: dict[str, None]) -> bool:
    """Whether this job has not been told yet; from now on it has."""
    if job_id in told:
        return False
    told[job_id] = None
    if len(told) > _MOST_REMEMBERED:
        told.pop(next(iter(told)))
    return True
