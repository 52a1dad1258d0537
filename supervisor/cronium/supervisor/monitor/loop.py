"""The monitor's loop: hears the supervisor's beats and reports, says its own, and ends a supervisor that hangs.

Single-threaded, and small enough not to hang itself; if it does, the supervisor ends it. It judges by the same rules
(`core.vitals`): also that whoever was stopped itself must not take that time for the other's silence.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import structlog
import zmq

from cronium.common.addresses import MONITOR_IDENTITY, SUPERVISOR, VITALS, endpoint
from cronium.common.messages import MonitorBeat, StatusReport, SupervisorBeat
from cronium.common.wire import WireError, pack, unpack
from cronium.supervisor.core.vitals import Vitals
from cronium.supervisor.monitor.latest import Latest
from cronium.supervisor.monitor.overseen import Overseen
from cronium.supervisor.monitor.settings import MonitorSettings

_NAME = "supervisor"
_DUMP_S = 1.0
_HIGH_WATER_MARK = 64
_RECONNECT_MS, _RECONNECT_MAX_MS = 10, 100
_log = structlog.get_logger()


class Loop:
    """Owns the sockets."""

    def __init__(self, settings: MonitorSettings, overseen: Overseen, latest: Latest) -> None:
        self._overseen, self._latest = overseen, latest
        self._heartbeat_s = settings.heartbeat_s
        self._vitals = Vitals(settings.hung_after_s, _DUMP_S)
        self._vitals.begins(_NAME, time.monotonic())
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._supervisor = self._connected(zmq.DEALER, settings.runtime_dir, SUPERVISOR)
        self._beats = self._connected(zmq.SUB, settings.runtime_dir, VITALS)
        self._progress = 0
        self._beat_at_s = 0.0
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def run(self) -> None:
        """For ever: it ends by SIGTERM, or with the supervisor."""
        while True:
            due_s = min(self._beat_at_s, self._vitals.next_look_s())
            self._beats.poll(max(0, round((due_s - time.monotonic()) * 1000 + 0.5)) if due_s > 0 else 0)
            self._progress += 1
            self._hear()
            now_s = time.monotonic()
            if now_s >= self._vitals.next_look_s():
                self._look(now_s)
            if now_s >= self._beat_at_s:
                self._beat_at_s = now_s + self._heartbeat_s
                self._beat()

    def _hear(self) -> None:
        while True:
            try:
                message = unpack(self._beats.recv(zmq.DONTWAIT))
            except zmq.Again:
                return
            except WireError as error:
                _log.warning("message refused", error=str(error))
                continue
            if isinstance(message, StatusReport):
                self._latest.hears(message.report)
            elif isinstance(message, SupervisorBeat) and message.pid == self._overseen.pid:
                self._vitals.beats(_NAME, message.progress, time.monotonic())

    def _look(self, now_s: float) -> None:
        for hung in self._vitals.looked((), now_s):
            if not hung.over:
                _log.error("the supervisor makes no progress: it is asked where it hangs", pid=self._overseen.pid)
                self._overseen.dump()
                continue
            _log.error(
                "the supervisor hangs and is ended; supervisord starts it anew, jobs go on in their places (workers.hungAfter)",
                pid=self._overseen.pid,
                silent_s=round(hung.silent_s, 1),
            )
            self._overseen.kill()

    def _beat(self) -> None:
        resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        try:
            self._supervisor.send(pack(MonitorBeat(self._progress, resident_pages * self._page_bytes)), zmq.DONTWAIT)
        except zmq.Again:
            _log.debug("the supervisor does not read")

    def _connected(self, kind: int, runtime_dir: Path, name: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, _HIGH_WATER_MARK)
        socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MARK)
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
        if kind == zmq.SUB:
            socket.setsockopt(zmq.SUBSCRIBE, b"")
        else:
            socket.setsockopt(zmq.IDENTITY, MONITOR_IDENTITY)
        socket.connect(endpoint(runtime_dir, name))
        return socket
