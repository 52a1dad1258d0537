"""The streamer's loop: one zmq poller, single-threaded. It moves messages between those who decide and those who do.

Nothing here waits: not for the WebSocket, not for a worker, and not for the disk's fsync, but for the one that ends a segment
(`Spool.append`), of which the thread has done the most. Each round takes what is there (a bounded number of each), writes,
starts a sync when something new is not yet safe, sends what is, and says positions once a job.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import structlog
import zmq

from cronium.common.addresses import OUTPUT, POSITIONS, STREAMER_IDENTITY, SUPERVISOR, WELCOME, endpoint
from cronium.common.messages import (
    Announce,
    AskSummary,
    Batch,
    CancelHeard,
    Forget,
    Message,
    Notice,
    Open,
    StillWanted,
    StopStreamer,
    StreamerBeat,
    StreamerReady,
)
from cronium.common.wire import WireError, pack, unpack
from cronium.supervisor.streamer.ledger import Ledger
from cronium.supervisor.streamer.outlet import Outlet
from cronium.supervisor.streamer.segment import SpoolError
from cronium.supervisor.streamer.settings import StreamerSettings
from cronium.supervisor.streamer.spool import Spool, SyncError
from cronium.supervisor.streamer.syncer import Syncer
from cronium.supervisor.streamer.transport import Answered, Cancelled, Down, Synced, Up, event_of, events_socket

_log = structlog.get_logger()

_OUTPUT_HIGH_WATER_MARK = 16  # batches; what is not here yet is kept by the workers
_POSITIONS_HIGH_WATER_MARK = 256
_SUPERVISOR_HIGH_WATER_MARK = 10_000
_MOST_A_ROUND = 32  # messages of one socket
_TICK_S = 0.05
_BETWEEN_SYNCS_S = 0.004
_TELL_FULL_S = 300.0
_SLOW_TICK_S = 1.0
_STOP_S = 0.6
_CLOSE_S = 0.2


class Loop:
    """Owns the sockets and the timers."""

    def __init__(self, settings: StreamerSettings, spool: Spool, ledger: Ledger) -> None:
        self._settings, self._spool, self._ledger, self._positions = settings, spool, ledger, ledger.positions
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._events = events_socket(self._context)
        self._output = self._bound(zmq.PULL, OUTPUT, _OUTPUT_HIGH_WATER_MARK)
        self._said = self._bound(zmq.XPUB, POSITIONS, _POSITIONS_HIGH_WATER_MARK)
        self._supervisor = self._context.socket(zmq.DEALER)
        self._supervisor.setsockopt(zmq.IDENTITY, STREAMER_IDENTITY)
        self._supervisor.setsockopt(zmq.SNDHWM, _SUPERVISOR_HIGH_WATER_MARK)
        self._supervisor.setsockopt(zmq.RCVHWM, _SUPERVISOR_HIGH_WATER_MARK)
        self._supervisor.setsockopt(zmq.RECONNECT_IVL, 10)
        self._supervisor.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
        self._supervisor.connect(endpoint(settings.runtime_path, SUPERVISOR))
        self._wake, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        now_s = time.monotonic()
        first_id = time.time_ns() // 1000  # microseconds: rises over restarts, stays below 2^53
        self._outlet = Outlet(self._context, settings, spool, ledger, first_id, now_s)
        self._syncer = Syncer(self._context)
        self._syncing = False
        self._synced_at_s = self._ticked_at_s = self._slow_at_s = self._beat_at_s = 0.0
        self._heard = False
        self._stop_at_s = 0.0  # 0: go on
        self._progress = 0
        self._full = False
        self._told_full_at_s = -_TELL_FULL_S
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def request_stop(self) -> None:
        """End as soon as what can be sent at once has gone; may be called by a signal handler."""
        self._stop_at_s = self._stop_at_s or time.monotonic() + _STOP_S

    def run(self) -> None:
        """Work until told to stop."""
        poller = zmq.Poller()
        for source in (self._output, self._said, self._supervisor, self._events, self._wake):
            poller.register(source, zmq.POLLIN)
        self._tell(StreamerReady(os.getpid()))  # also if the supervisor speaks first: it does not know us yet
        _log.info("streamer listens", runtime_dir=self._settings.runtime_dir, spool_bytes=self._spool.disk_bytes)
        try:
            while not self._stop_at_s or (time.monotonic() < self._stop_at_s and not self._outlet.is_quiet()):
                ready = dict(poller.poll(self._pause_ms()))
                self._round(ready, time.monotonic())
        finally:
            self._close()

    def _pause_ms(self) -> int:
        """Short while something waits for a moment (a sync, a window, an acknowledgement), long otherwise."""
        if self._ledger.wants_sync() and not self._syncing:
            return int(_BETWEEN_SYNCS_S * 1000)
        busy = self._positions.is_watching() or self._ledger.has_unmarked()
        until_beat_s = self._beat_at_s - time.monotonic()
        return max(1, int(min(_TICK_S if busy else _SLOW_TICK_S, until_beat_s) * 1000))

    def _round(self, ready: dict[object, int], now_s: float) -> None:
        self._progress += 1
        if self._wake in ready:
            os.read(self._wake, 512)
        if self._supervisor in ready:
            self._from_supervisor(now_s)
        if self._events in ready:
            self._from_threads(now_s)
        if self._said in ready:
            self._from_subscribers()
        if self._output in ready:
            self._from_workers(now_s)
        self._sync(now_s)
        self._outlet.pump(now_s)
        if now_s - self._ticked_at_s >= _TICK_S:
            self._tick(now_s)
        self._say(now_s)

    # --- what comes in ----------------------------------------------------------------------------------------------

    def _from_workers(self, now_s: float) -> None:
        for frame in _taken(self._output):
            match _message(frame):
                case Batch() as batch:
                    self._ledger.batch(batch, now_s)
                case Open() as said:
                    self._positions.open(said, now_s)
                case None:
                    pass
                case other:
                    _log.warning("a message that is not for this socket", kind=type(other).__name__)

    def _from_supervisor(self, now_s: float) -> None:
        for frame in _taken(self._supervisor):
            self._heard = True
            match _message(frame):
                case Announce() as said:
                    self._ledger.announce(said, now_s)
                case AskSummary(job_id=job_id, epoch=epoch):
                    self._tell(self._ledger.summary(job_id, epoch))
                case Forget() as said:
                    self._ledger.forget(said)
                case StillWanted() as said:
                    self._ledger.forget_others(said)
                case Notice() as notice:
                    self._outlet.notice(notice)
                case StopStreamer():
                    self.request_stop()
                case None:
                    pass
                case other:
                    _log.warning("a message that is not for the streamer", kind=type(other).__name__)

    def _from_subscribers(self) -> None:
        for frame in _taken(self._said):
            topic = frame[1:]
            if frame[:1] == b"\x01" and topic != WELCOME:
                self._positions.heard(topic.decode("utf-8", "replace"))

    def _from_threads(self, now_s: float) -> None:
        for frame in _taken(self._events, _MOST_A_ROUND * 8):
            match event_of(frame):
                case Answered() as event:
                    self._outlet.answered(event, now_s)
                case Synced(lsn=lsn, error=error):
                    self._synced(lsn, error)
                case Up() as event:
                    self._outlet.up(event, now_s)
                case Down() as event:
                    self._outlet.down(event, now_s)
                case Cancelled(job_id=job_id):
                    self._tell(CancelHeard(job_id))

    # --- what goes out ----------------------------------------------------------------------------------------------

    def _say(self, now_s: float) -> None:
        for said in self._positions.due(now_s):
            self._said.send_multipart((said.worker.encode(), pack(said)), zmq.DONTWAIT)

    def _tell(self, message: Message) -> None:
        try:
            self._supervisor.send(pack(message), zmq.DONTWAIT)
        except zmq.Again:
            _log.warning("the supervisor does not read", kind=type(message).__name__)

    def _sync(self, now_s: float) -> None:
        if self._syncing or now_s - self._synced_at_s < _BETWEEN_SYNCS_S or not self._ledger.wants_sync():
            return
        self._positions.sync_begins()
        descriptor, lsn = self._spool.sync()
        if self._settings.fsync:
            self._syncing = True
            self._syncer.begin(descriptor, lsn)
        else:
            os.close(descriptor)
            self._synced(lsn, "")

    def _synced(self, lsn: int, error: str) -> None:
        self._syncing, self._synced_at_s = False, time.monotonic()
        if error:  # and the next sync would succeed without these pages: only a new start makes them safe
            raise SyncError(self._spool.folder, error)
        self._positions.sync_done()
        self._ledger.is_safe_up_to(lsn)

    # --- time -------------------------------------------------------------------------------------------------------

    def _tick(self, now_s: float) -> None:
        self._ticked_at_s = now_s
        self._positions.tick(now_s)
        self._ledger.grow_older(now_s)
        self._ledger.mark()
        self._outlet.tick(now_s)
        if now_s >= self._beat_at_s:
            self._beat_at_s = now_s + self._settings.heartbeat_s
            self._tell(self._beat())
        if now_s - self._slow_at_s >= _SLOW_TICK_S:
            self._slow_at_s = now_s
            self._positions.count_writers(now_s)
            self._ledger.try_again(now_s)
            self._see_to_full(now_s)
            if not self._heard:
                self._tell(StreamerReady(os.getpid()))

    def _beat(self) -> StreamerBeat:
        resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        outlet = self._outlet
        return StreamerBeat(
            self._progress,
            resident_pages * self._page_bytes,
            outlet.connected,
            outlet.frames_sent,
            outlet.frames_acknowledged,
            outlet.lines_refused,
            self._spool.disk_bytes,
            outlet.reconnects,
            self._full,
            self._settings.max_spool_bytes,
            outlet.lines_given_up,
        )

    def _see_to_full(self, now_s: float) -> None:
        """Tell people that jobs wait for room in the spool, again and again while they do."""
        was_full, self._full = self._full, self._spool.is_full or self._positions.held_by_spool(now_s)
        if self._full and now_s >= self._told_full_at_s + _TELL_FULL_S:
            self._told_full_at_s = now_s
            _log.error(
                "the spool is full, jobs that print wait: see why the backend takes no lines, or raise logging.spool.maxSize",
                folder=self._settings.spool_dir,
                spool_bytes=self._spool.disk_bytes,
                max_bytes=self._settings.max_spool_bytes,
                connected=self._outlet.connected,
            )
        elif was_full and not self._full:
            _log.info("the spool is no longer full")

    # --- the end ----------------------------------------------------------------------------------------------------

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        with contextlib.suppress(SpoolError):  # then the reason of this end is told already, and a restart needs no mark
            self._ledger.mark()
        if self._outlet.stop(_CLOSE_S) and self._syncer.stop(_CLOSE_S):
            self._context.destroy(linger=100)  # not while a thread uses it; the process ends anyway
        self._spool.close()
        _log.info("streamer ends")

    def _bound(self, kind: int, name: str, high_water_mark: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.SNDHWM, high_water_mark)
        socket.setsockopt(zmq.RCVHWM, high_water_mark)
        if kind == zmq.XPUB:
            socket.setsockopt(zmq.XPUB_WELCOME_MSG, WELCOME)
        socket.bind(endpoint(self._settings.runtime_path, name))
        return socket


def _taken(socket: zmq.Socket[bytes], most: int = _MOST_A_ROUND) -> list[bytes]:
    """What is there now, at most so many messages; of one in parts the last part."""
    found: list[bytes] = []
    try:
        while len(found) < most:
            found.append(socket.recv_multipart(zmq.DONTWAIT)[-1])
    except zmq.Again:
        pass
    return found


def _message(frame: bytes) -> Message | None:
    try:
        return unpack(frame)
    except WireError as error:
        _log.warning("message refused", error=str(error))
        return None
