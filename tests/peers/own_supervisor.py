"""`cronium-supervisor run --standalone` in folders of its own, and the command line that belongs to it.

For acceptance tests: nothing is known of the supervisor but what a person sees.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from cronium.supervisor.standalone.client import StandaloneClient, StandaloneError

PATIENCE_S = 60.0  # on a machine that does other things too


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something to come about."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.02)


class CommandLine:
    """`cronium-supervisor` with a state folder, sockets and an engine of its own; `environ` adds to its environment.

    Whatever it starts has `folder` as its working directory: that is how `processes` knows them.
    """

    def __init__(self, folder: Path, engine: str, environ: Mapping[str, str] | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.state_dir = folder / "state"
        self.runtime_dir = folder / "run"
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CRONIUM_")},
            "CRONIUM_STATE_DIR": str(self.state_dir),
            "CRONIUM_RUNTIME_DIR": str(self.runtime_dir),
            "CRONIUM_DOCKER_HOST": engine,
            "CRONIUM_STANDALONE_PORT": "0",
            "CRONIUM_MONITORING_HEALTH_PORT": "0",
            "CRONIUM_MONITORING_METRICS_PORT": "0",
            "COLUMNS": "160",
            **(environ or {}),
        }

    def run(self, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[bytes]:
        """A command to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def start(self, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """A command that goes on."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def installations(self) -> list[str]:
        """The ids that its containers carry: the supervisor's own, and that of `exec`."""
        own = self.state_dir / "installation-id"
        of_exec = self.state_dir / "exec/installation-id"
        names = [self.environ.get("CRONIUM_ID") or (own.read_text().strip() if own.exists() else "")]
        names += [f"exec-{of_exec.read_text().strip()}"] if of_exec.exists() else []
        return [name for name in names if name]

    def processes(self) -> list[psutil.Process]:
        """All that it has started and that is still there."""
        return [process for process in psutil.process_iter() if _works_in(process, self.folder)]

    @staticmethod
    def command(*arguments: str | Path) -> list[str]:
        """What is started for these arguments."""
        return [sys.executable, "-m", "cronium.supervisor", *map(str, arguments)]


class Supervisor(CommandLine):
    """One that runs. `start_up` and `stop` may be called again; its log is kept in `log`."""

    def __init__(self, folder: Path, engine: str, environ: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, engine, environ)
        self.log = folder / "supervisor.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start_up(self) -> None:
        """Start it, and wait until its queue has heard of it."""
        (self.state_dir / "standalone/address.json").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("run", "--standalone"),
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._is_ready, "the supervisor is ready")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it, if it is still there; its exit code."""
        assert self.process is not None, "it was never started"
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        """End it at once, if it is still there: all its processes die with it."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)

    def client(self) -> StandaloneClient:
        """To talk to its queue. Use as a context manager."""
        address = json.loads((self.state_dir / "standalone/address.json").read_bytes())
        return StandaloneClient(address["clientUrl"], Path(address["tokenFile"]).read_text().strip())

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            with self.client() as client:
                return bool(client.orchestrators())
        except (FileNotFoundError, ValueError, StandaloneError):
            return False  # not yet


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        # One that has ended, and that nobody has asked about yet, still has a folder: it waits for init, not for us.
        return process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
