"""A small world for tests of the container executor: a real engine, a worker's settings, and a Control without a worker."""

from __future__ import annotations

import secrets
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cronium.common.config.model import Config
from cronium.common.errors import ExecutionError
from cronium.common.ids import place_name
from cronium.common.job import Job, parse_job
from cronium.common.messages import FileMark, Outcome, Position
from cronium.supervisor.pool.settings import worker_settings
from cronium.worker.container.engine import Engine
from cronium.worker.container.executor import ContainerExecutor
from cronium.worker.container.networks import remove_network
from cronium.worker.container.settings import settings_of
from cronium.worker.executor import Attempt, Complete, Gap, Log, Progress, Status, Update
from cronium.worker.settings import WorkerSettings

T = TypeVar("T")
BASH = "cronium/runner:bash-debian"


@dataclass
class LoopControl:
    """What a worker offers to an executor, without its sockets: everything handed over counts as durable at once."""

    room_bytes: int = 1 << 30
    lag: Callable[[str, int], int] = lambda stream, offset: offset
    cancels: int = 0
    offsets: dict[str, int] = field(default_factory=lambda: {"stdout": 0, "stderr": 0})
    calls: int = 0
    patience: float = 10.0
    engine_patience: float = 0.0

    def wait(self, descriptors: tuple[int, ...], timeout_s: float) -> frozenset[int]:
        poller = select.poll()
        for descriptor in descriptors:
            poller.register(descriptor, select.POLLIN)
        return frozenset(descriptor for descriptor, _ in poller.poll(timeout_s * 1000))

    def call(self, function: Callable[[], T], timeout_s: float) -> T:
        self.calls += 1
        box: list[Any] = []

        def run() -> None:
            try:
                box.append((function(), None))
            except BaseException as error:  # noqa: BLE001 - it is raised again where it was asked for
                box.append((None, error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(timeout_s)
        if not box:
            raise TimeoutError
        result, error = box[0]
        if error is not None:
            raise error
        return result

    def room(self) -> int:
        return self.room_bytes

    def durable(self, stream: str, place: str = "") -> int:
        return self.lag(stream, self.offsets.get(f"{place}/{stream}" if place else stream, 0))

    def cancelled(self) -> int:
        return self.cancels

    def patience_s(self) -> float:
        return self.patience

    def engine_patience_s(self) -> float:
        return self.engine_patience


@dataclass
class Told:
    """Everything that one run of an attempt said."""

    updates: list[Update] = field(default_factory=list)
    output: dict[str, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})

    def take(self, update: Update) -> None:
        if isinstance(update, Log):
            self.output[update.stream] += update.data
        else:
            self.updates.append(update)

    @property
    def stdout(self) -> bytes:
        return bytes(self.output["stdout"])

    @property
    def stderr(self) -> bytes:
        return bytes(self.output["stderr"])

    @property
    def outcome(self) -> Outcome:
        assert isinstance(self.updates[-1], Complete), self.updates
        return self.updates[-1].outcome

    @property
    def reason(self) -> str | None:
        return self.outcome.error.reason if self.outcome.error else None

    @property
    def statuses(self) -> list[str]:
        return [update.status for update in self.updates if isinstance(update, Status)]

    @property
    def gaps(self) -> list[Gap]:
        return [update for update in self.updates if isinstance(update, Gap)]

    @property
    def progress(self) -> list[Progress]:
        return [update for update in self.updates if isinstance(update, Progress)]


class World:
    """One installation: a state folder, settings, an executor."""

    def __init__(
        self,
        endpoint: str,
        installation: str,
        state_dir: Path,
        container: Mapping[str, Any] | None = None,
        **sections: Mapping[str, Any],
    ) -> None:
        images = {"bash": BASH, "python": "cronium/runner:python-debian", "node": "cronium/runner:node-debian"}
        given = {"images": images, **(container or {}), "docker": {"endpoint": endpoint}}
        config = Config.model_validate(
            {
                "state_dir": state_dir,
                "runtime_dir": state_dir / "run",
                "container": given,
                "jobs": {"cancel_grace": 2},
                **sections,
            }
        )
        self.installation = installation
        self.settings = WorkerSettings(**worker_settings(config, self.installation), name="w1", number=1)
        self.executor = ContainerExecutor(self.settings)
        self.places: set[str] = set()

    def job(self, text: str, kind: str = "bash", **execution: Any) -> Job:
        body = {"script": {"type": kind, "content": text, **execution.pop("script", {})}, **execution}
        return parse_job({"id": f"job-{secrets.token_hex(4)}", "execution": {"network": "none", **body}})

    def attempt(self, job: Job, *, adopt: bool = False, offsets: Mapping[str, int] | None = None, placed_ms: int = 0) -> Attempt:
        place = place_name(self.installation, job.id, 1)
        self.places.add(place)
        marks = tuple(FileMark(place, stream, offset) for stream, offset in (offsets or {}).items())
        return Attempt(job, 1, place, adopt, Position(files=marks), placed_ms=placed_ms)

    def updates(self, attempt: Attempt, control: LoopControl) -> Iterator[Update]:
        for update in self.executor.execute(attempt, control):
            if isinstance(update, Log | Gap):
                control.offsets[update.stream] = update.offset
            yield update

    def run(self, text: str, control: LoopControl | None = None, **execution: Any) -> Told:
        attempt = self.attempt(self.job(text, **execution))
        told = self.follow(attempt, control)
        self.executor.cleanup(attempt.place)
        return told

    def follow(self, attempt: Attempt, control: LoopControl | None = None) -> Told:
        told = Told()
        for update in self.updates(attempt, control or LoopControl()):
            told.take(update)
        return told

    def files_of(self, attempt: Attempt) -> Path:
        return self.settings.state_dir / "places" / attempt.place

    def close(self) -> None:
        """Leave nothing of this installation behind."""
        for place in self.places:
            self.executor.cleanup(place)
        settings = settings_of(self.settings)
        remove_network(Engine(settings.container.docker), settings)


def until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    """Wait for a condition of the real world."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come about"
        time.sleep(0.02)


__all__ = ["BASH", "ExecutionError", "LoopControl", "Told", "World", "until"]
