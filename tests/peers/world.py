"""A whole supervisor with its backend, each process a real one, in folders of its own. For acceptance tests and measurements."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import psutil

from cronium.supervisor.standalone.client import StandaloneClient
from peers.standalone_queue import Queue


class World:
    """The standalone queue and a supervisor that takes its jobs. Use as a context manager.

    `websocket_url` sends the output elsewhere than to the queue. `environ` overrides configuration keys.
    """

    def __init__(self, engine: str, *, websocket_url: str | None = None, environ: Mapping[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="crw-", dir="/tmp"))
        self._engine = engine
        self._websocket_url = websocket_url
        self._environ = dict(environ or {})
        self.log = self.folder / "supervisor.log"
        self.queue = Queue(
            {"database": str(self.folder / "queue" / "queue.db"), "token_file": str(self.folder / "queue" / "token"), "rate_factor": 100}
        )
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> World:
        self.queue.start()
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self.queue.end()
        if kind is not None:
            print(self.log.read_text()[-20_000:])
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start the supervisor; it is ready when a worker is."""
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CRONIUM_")},
            "CRONIUM_API_URL": self.queue.ready["apiUrl"],
            "CRONIUM_WS_URL": self._websocket_url or self.queue.ready["wsUrl"],
            "CRONIUM_SERVICE_TOKEN": self.queue.token,
            "CRONIUM_STATE_DIR": str(self.folder / "state"),
            "CRONIUM_RUNTIME_DIR": str(self.folder / "run"),
            "CRONIUM_DOCKER_HOST": self._engine,
            **self._environ,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cronium.supervisor", "run"], env=environ, stderr=self.log.open("ab"), start_new_session=True
        )
        deadline = time.monotonic() + 60
        while not self.roles("worker"):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "no worker within a minute"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60) -> int:
        """Stop the supervisor; its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def client(self) -> StandaloneClient:
        """To submit jobs with."""
        return self.queue.client()

    def roles(self, prefix: str) -> list[psutil.Process]:
        """Our processes whose title begins so: `worker`, `streamer`, `forkserver`."""
        assert self.process is not None
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if process.cmdline()[0].startswith(f"cronium: {prefix}"):
                    found.append(process)
            except (psutil.Error, IndexError):
                continue
        return found

    def processes(self) -> list[psutil.Process]:
        """The supervisor and all its processes."""
        assert self.process is not None
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]
