"""The streamer's beats while it reads its spool, when there is no loop yet that could send any.

Runs in the streamer's process, before `loop`. What is said to the streamer meanwhile is lost with the socket: `StreamerReady` has
everything said again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import zmq

from cronium.common.addresses import STREAMER_IDENTITY, SUPERVISOR, endpoint
from cronium.common.messages import StreamerBeat
from cronium.common.wire import pack
from cronium.supervisor.streamer.settings import StreamerSettings
from cronium.supervisor.streamer.spool import Spool


class Reading:
    """`goes_on` is called with each record; a beat goes out when it is due."""

    def __init__(self, socket: zmq.Socket[bytes], settings: StreamerSettings, spool: Spool) -> None:
        self._socket, self._settings, self._spool = socket, settings, spool
        self._process = psutil.Process()
        self._progress = 0
        self._beat_at_s = time.monotonic() + settings.heartbeat_s

    def goes_on(self) -> None:
        """One more record was read."""
        self._progress += 1
        if time.monotonic() < self._beat_at_s:
            return
        self._beat_at_s = time.monotonic() + self._settings.heartbeat_s
        beat = StreamerBeat(
            progress=self._progress,
            memory_bytes=int(self._process.memory_info().rss),
            connected=False,
            frames_sent=0,
            frames_acknowledged=0,
            lines_refused=0,
            spool_bytes=self._spool.disk_bytes,
            reconnects=0,
            spool_full=False,
            spool_max_bytes=self._settings.max_spool_bytes,
            given_up_lines=0,
        )
        try:
            self._socket.send(pack(beat), zmq.DONTWAIT)
        except zmq.Again:
            return  # nobody listens: the next one will do


@contextmanager
def reading(settings: StreamerSettings, spool: Spool) -> Iterator[Reading]:
    """Beats as long as this lasts."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, STREAMER_IDENTITY)
    socket.connect(endpoint(settings.runtime_path, SUPERVISOR))
    try:
        yield Reading(socket, settings, spool)
    finally:
        context.destroy(linger=0)
