"""The SSH executor driven without a worker: one attempt after the other, everything that it says kept."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cronium.common.config.model import Config
from cronium.common.job import Job, parse_job
from cronium.common.messages import FileMark, Message, Position
from cronium.supervisor.pool.settings import worker_settings
from cronium.worker.executor import Attempt, Log
from cronium.worker.settings import WorkerSettings
from cronium.worker.ssh.executor import SshExecutor
from peers.container_world import LoopControl, Told
from peers.ssh_world import Servers


class SshWorld:
    """One installation with one executor; `told` is what it said to the supervisor."""

    def __init__(self, servers: Servers, folder: Path, *, number: int = 1, **ssh: Any) -> None:
        self.servers = servers
        self.installation = f"t{secrets.token_hex(4)}"
        config = Config.model_validate(
            {
                "state_dir": folder / "state",
                "runtime_dir": folder / "run",
                "jobs": {"cancel_grace": 2},
                "ssh": {
                    "known_hosts_file": servers.known_hosts,
                    "execution": {"temp_dir": str(servers.folder / "jobs")},
                    **ssh,
                },
            }
        )
        (folder / "state").mkdir(exist_ok=True)
        (folder / "run").mkdir(exist_ok=True)
        self.settings = WorkerSettings(**worker_settings(config, self.installation), name="worker-1", number=number)
        self.told: list[Message] = []
        self.executor = SshExecutor(self.settings, self.told.append)

    def another(self) -> SshExecutor:
        """As if the worker had been killed: another executor of the same installation, which knows nothing."""
        self.executor = SshExecutor(self.settings, self.told.append)
        return self.executor

    def place(self) -> str:
        return f"cronium-{self.installation}-{secrets.token_hex(12)}"

    def job(self, script: str, kind: str = "bash", *servers: int, **execution: Any) -> Job:
        """A script for a server, the first one unless others are named."""
        numbers = servers or (0,)
        raw: dict[str, Any] = {
            "id": f"job-{secrets.token_hex(3)}",
            "execution": {
                "target": self.servers.target(numbers[0]),
                "timeout": 60,
                **execution,
                "script": {"type": kind, "content": script},
            },
        }
        if len(numbers) > 1:
            raw["metadata"] = self.servers.several(*numbers)
        return parse_job(raw)

    def run(self, job: Job, **options: Any) -> Told:
        """A whole attempt, its place removed."""
        place = self.place()
        told = self.attempt(job, place, **options)
        self.executor.cleanup(place, job)
        return told

    def attempt(
        self,
        job: Job,
        place: str,
        *,
        adopt: bool = False,
        begun: bool = False,
        offsets: Mapping[str, int] | None = None,
        control: LoopControl | None = None,
        until: Callable[[Told], bool] | None = None,
        told: Told | None = None,
        placed_ms: int = 0,
    ) -> Told:
        """Run, or go on with, an attempt; `until`: leave it where it is once that is so."""
        control, told = control or LoopControl(), told or Told()
        marks = tuple(FileMark(place, stream, offset) for stream, offset in (offsets or {}).items())
        control.offsets.update(offsets or {})
        attempt = Attempt(job, 1, place, adopt, Position(files=marks), begun, placed_ms=placed_ms)
        updates = self.executor.execute(attempt, control)
        for update in updates:
            told.take(update)
            if isinstance(update, Log):
                control.offsets[f"{update.place}/{update.stream}" if update.place else update.stream] = update.offset
            if until is not None and until(told):
                updates.close()  # type: ignore[attr-defined]  # it is a generator
                break
        return told

    def tend(self, until: Callable[[], bool], within_s: float = 10.0) -> None:
        """Let the executor look after its connections until something is so."""
        deadline_s = time.monotonic() + within_s
        while not until():
            assert time.monotonic() < deadline_s, "not in time"
            self.executor.tend(time.monotonic())
            time.sleep(0.005)

    def close(self) -> None:
        self.executor.close()


def later(delay_s: float, function: Callable[[], object]) -> threading.Timer:
    """Do something in a while."""
    timer = threading.Timer(delay_s, function)
    timer.daemon = True
    timer.start()
    return timer


def ssh_world(servers: Servers, folder: Path, **options: Any) -> Iterator[SshWorld]:
    """For a fixture."""
    world = SshWorld(servers, folder, **options)
    yield world
    world.close()
