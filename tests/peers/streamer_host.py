"""Starts the real streamer process, and is the supervisor it talks to: a ROUTER that announces and hears."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, TypeVar

import psutil
import zmq

from cronium.common.addresses import STREAMER_IDENTITY, SUPERVISOR, endpoint
from cronium.common.messages import Announce, AskSummary, Message, StreamerBeat, StreamerReady, Summary
from cronium.common.wire import pack, unpack
from cronium.supervisor.streamer.settings import StreamerSettings

M = TypeVar("M")


@dataclass
class StreamerHost:
    """One streamer at a time. Everything that was announced is announced again to a new one."""

    settings: StreamerSettings
    heard: list[Message] = field(default_factory=list)
    prefix: ClassVar[list[str]] = []  # a program that starts the streamer by its arguments
    process: subprocess.Popen[bytes] | None = None
    cpu_s: float = 0.0
    most_memory_bytes: int = 0

    def __post_init__(self) -> None:
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._router.setsockopt(zmq.LINGER, 0)
        self._router.bind(endpoint(Path(self.settings.runtime_dir), SUPERVISOR))
        self._announced: dict[tuple[str, int], Announce] = {}
        self._lock = threading.Lock()
        self._outbox: list[Message] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def start(self) -> StreamerHost:
        settings = replace(self.settings, parent_pid=os.getpid())
        self.process = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "cronium.supervisor.streamer"], stdin=subprocess.PIPE, stderr=self._log()
        )
        assert self.process.stdin is not None
        self.process.stdin.write(settings.pack())
        self.process.stdin.close()
        return self

    def _log(self) -> int:
        path = Path(self.settings.runtime_dir) / "streamer.log"
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def log(self) -> str:
        return (Path(self.settings.runtime_dir) / "streamer.log").read_text()

    def kill(self) -> None:
        """SIGKILL, as if it had crashed."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(10)

    def used_cpu_s(self) -> float:
        assert self.process is not None
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def memory_bytes(self) -> int:
        assert self.process is not None
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def tell(self, message: Message) -> None:
        with self._lock:
            if isinstance(message, Announce):
                self._announced[message.job_id, message.epoch] = message
            self._outbox.append(message)

    def announce(self, worker: object) -> None:
        """Announce a `LineWorker`."""
        w = worker
        self.tell(Announce(w.job_id, w.name, w.epoch, w.generation, 1))  # type: ignore[attr-defined]

    def summary(self, job_id: str, epoch: int = 1, timeout_s: float = 20.0) -> Summary:
        count = len(self.heard)
        self.tell(AskSummary(job_id, epoch))
        return self.wait_for(
            lambda: next((m for m in self.heard[count:] if isinstance(m, Summary) and m.job_id == job_id), None), timeout_s
        )

    def last_beat(self) -> StreamerBeat | None:
        return next((m for m in reversed(self.heard) if isinstance(m, StreamerBeat)), None)

    def wait_for(self, get: Callable[[], M | None], timeout_s: float = 20.0) -> M:
        until = time.monotonic() + timeout_s
        while True:
            found = get()
            if found:
                return found
            if time.monotonic() > until:
                raise TimeoutError(f"what the test waits for did not come; the streamer's log:\n{self.log()[-3000:]}")
            time.sleep(0.01)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self._stop.set()
        self._thread.join(5)
        self._context.destroy(linger=0)

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                outbox, self._outbox = self._outbox, []
            for message in outbox:
                self._router.send_multipart((STREAMER_IDENTITY, pack(message)))
            if not self._router.poll(10):
                continue
            message = unpack(self._router.recv_multipart()[-1])
            self.heard.append(message)
            if isinstance(message, StreamerReady):
                with self._lock:
                    self._outbox.extend(self._announced.values())
