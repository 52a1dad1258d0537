"""The worker's sockets, and the one place where it waits. Implements `Control` for the executor.

Everything the worker waits for passes through `wait`: while an executor waits for its files or a slow engine, the supervisor
and the streamer are answered, batches leave, beats are sent. Single-threaded, but for what `call` runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import psutil
import structlog
import zmq

from cronium.common.addresses import OUTPUT, POSITIONS, SUPERVISOR, WELCOME, endpoint
from cronium.common.messages import Message, Said, WorkerBeat
from cronium.common.wire import WireError, pack, unpack
from cronium.worker.blocking import call_in_thread
from cronium.worker.settings import WorkerSettings

T = TypeVar("T")
_HIGH_WATER_MARK = 64  # messages; what must not be lost is kept by the sender, never by a queue
_MOST_FOR_SUPERVISOR = 1000
_log = structlog.get_logger()


class Listener(Protocol):
    """Who is told what comes in while the worker waits."""

    def on_supervisor(self, message: Message) -> None:
        """A message of the supervisor."""

    def on_said(self, said: Said) -> None:
        """A position of the streamer."""

    def on_new_streamer(self) -> None:
        """A streamer listens that did not before."""

    def on_time(self, now_s: float) -> float | None:
        """Do what is due; when (monotonic) the next is due."""


class Sockets:
    """Owns the zmq sockets of one worker."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.name = settings.name
        self._heartbeat_s = settings.heartbeat_s
        self._context = zmq.Context()
        self._supervisor = self._socket(zmq.DEALER)
        # While the supervisor waits for its disk it reads nothing, and what is said only once is not to be dropped for beats.
        self._supervisor.setsockopt(zmq.SNDHWM, _MOST_FOR_SUPERVISOR)
        self._supervisor.setsockopt(zmq.IDENTITY, settings.name.encode())
        self._output = self._socket(zmq.PUSH)
        # A batch must not be queued for a streamer that is dead: it would only arrive late, to be refused.
        self._output.setsockopt(zmq.IMMEDIATE, 1)
        self._positions = self._socket(zmq.SUB)
        self._positions.setsockopt(zmq.SUBSCRIBE, settings.name.encode())
        self._positions.setsockopt(zmq.SUBSCRIBE, WELCOME)
        for socket, name in ((self._supervisor, SUPERVISOR), (self._output, OUTPUT), (self._positions, POSITIONS)):
            socket.setsockopt(zmq.RECONNECT_IVL, 10)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 25)  # a socket in the file system: to look costs some 20 us
            socket.connect(endpoint(settings.runtime_dir, name))
        self._poller = zmq.Poller()
        self._poller.register(self._supervisor, zmq.POLLIN)
        self._poller.register(self._positions, zmq.POLLIN)
        self._process = psutil.Process()
        self._progress = 0
        self._next_beat_s = 0.0
        self.listener: Listener | None = None

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 200)
        socket.setsockopt(zmq.SNDHWM, _HIGH_WATER_MARK)
        socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MARK)
        return socket

    def tell_supervisor(self, message: Message) -> None:
        """Send to the supervisor; never blocks (a full queue drops: whoever needs an answer asks again)."""
        self.send_supervisor(pack(message))

    def send_supervisor(self, frame: bytes) -> bool:
        """The same with a message that is packed already; False when the queue is full."""
        return _send(self._supervisor, frame)

    def tell_streamer(self, message: Message) -> bool:
        """Send to the streamer; False when none takes it now."""
        return _send(self._output, pack(message))

    def memory_bytes(self) -> int:
        """This process's resident memory."""
        return int(self._process.memory_info().rss)

    def wait(self, descriptors: tuple[int, ...], timeout_s: float, changed: Callable[[], bool] = lambda: False) -> frozenset[int]:
        """Serve the sockets until a descriptor is readable, something `changed`, or time is up; which ones are readable."""
        until = time.monotonic() + timeout_s
        for descriptor in descriptors:
            self._poller.register(descriptor, zmq.POLLIN)
        try:
            while True:
                now = time.monotonic()
                due = self._on_time(now)
                pause_ms = max(0.0, min(until, due) - time.monotonic()) * 1000
                events = dict(self._poller.poll(int(pause_ms) + (pause_ms > int(pause_ms))))
                self._progress += 1
                self._receive()
                ready = frozenset(d for d in descriptors if events.get(d))
                if ready or changed() or time.monotonic() >= until:
                    self._on_time(time.monotonic())
                    return ready
        finally:
            for descriptor in descriptors:
                self._poller.unregister(descriptor)

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        """Run something that blocks in a thread, serving the sockets meanwhile. Raises TimeoutError when it takes longer."""

        def wait_for(done: int) -> None:
            if not self.wait((done,), timeout_s):
                raise TimeoutError(f"no answer within {timeout_s:g} s")

        return call_in_thread(function, wait_for)

    def close(self) -> None:
        """Close all; what was just sent still has a moment to leave."""
        self._context.destroy(linger=200)

    def _on_time(self, now_s: float) -> float:
        if now_s >= self._next_beat_s:
            self._next_beat_s = now_s + self._heartbeat_s
            self.tell_supervisor(WorkerBeat(self.name, self._progress, self.memory_bytes()))
        due = self.listener.on_time(now_s) if self.listener else None
        return self._next_beat_s if due is None else min(due, self._next_beat_s)

    def _receive(self) -> None:
        while (frames := _take(self._supervisor)) is not None:
            if (message := _message(frames[-1])) is not None and self.listener:
                self.listener.on_supervisor(message)
        while (frames := _take(self._positions)) is not None:
            if frames[0] == WELCOME:
                if self.listener:
                    self.listener.on_new_streamer()
            elif frames[0] == self.name.encode() and isinstance(message := _message(frames[-1]), Said) and self.listener:
                self.listener.on_said(message)


def _send(socket: zmq.Socket[bytes], frame: bytes) -> bool:
    try:
        socket.send(frame, zmq.DONTWAIT, copy=False)
    except zmq.Again:
        return False
    return True


def _take(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    try:
        return socket.recv_multipart(zmq.DONTWAIT)
    except zmq.Again:
        return None


def _message(frame: bytes) -> Message | None:
    try:
        return unpack(frame)
    except WireError as error:
        _log.warning("message refused", error=str(error))
        return None
