"""One attempt on its way through the phases: what they hand on to each other.

Runs in a worker. No decisions here; `phases` says what happens when.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.container.engine import ContainerState, Engine
from cronium.worker.container.engine_files import EngineFiles
from cronium.worker.container.files import STREAMS, Files
from cronium.worker.container.host_files import HostFiles
from cronium.worker.container.limits import Plan
from cronium.worker.container.probe import Finding
from cronium.worker.container.settings import Settings
from cronium.worker.container.stream import Stream
from cronium.worker.events import Events
from cronium.worker.executor import Attempt, Control, Update
from cronium.worker.story import Story

T = TypeVar("T")
CALL_SLACK_S = 5.0  # a call's own deadline is the engine's; this is for the thread around it


@dataclass(slots=True)
class Execution:
    """Filled in phase by phase. `container` is empty until there is one that runs this attempt; `touched` before anything of the
    place is asked for; `unstarted` while all that can be there of the place is what we have asked for ourselves, and that was not
    yet its start.
    """

    attempt: Attempt
    control: Control
    settings: Settings
    engine: Engine
    plan: Plan
    events: Events
    story: Story = field(default_factory=Story)
    image: str = ""
    found: Finding | None = None
    payload: bytes = b""
    touched: bool = False
    unstarted: bool = False
    container: str = ""
    adopted: bool = False
    files: Files | None = None
    stream: Stream | None = None
    said: bytes = b""
    verdict: ExecutionError | None = None
    overdue: bool = False
    engine_was_away: bool = False
    fate: ContainerState | None = None
    started_ms: int = 0
    ended_ms: int = 0
    began_s: float = 0.0
    peak_cpu_percent: float | None = None
    offsets: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        position, place = self.attempt.position, self.attempt.place
        self.offsets = {name: position.mark(place, name).offset for name in STREAMS}
        self.touched = self.attempt.adopt

    def deadline_s(self) -> float:
        """When (monotonic) the script's time is over; it has not begun to count before the script has."""
        return (self.began_s or time.monotonic()) + self.plan.limits.timeout_s

    @property
    def flooded(self) -> bool:
        """Whether it was ended because its files held too much."""
        return self.verdict is not None and self.verdict.reason is Reason.OUTPUT_FLOOD

    def begin(self, began_s: float, started_ms: int) -> None:
        """The script has begun (monotonic and Unix time); the first word on it counts."""
        self.began_s = self.began_s or began_s
        self.started_ms = self.started_ms or started_ms

    @property
    def folder(self) -> Path:
        """Where this place's files are, if they are on this host."""
        return self.settings.places / self.attempt.place

    def ask(self, function: Callable[[], T], timeout_s: float | None = None) -> T:
        """Let the engine do something, with the worker's sockets served meanwhile. Raises ExecutionError."""
        limit_s = timeout_s or 2 * self.settings.container.docker.timeout
        try:
            return self.control.call(function, limit_s + CALL_SLACK_S)
        except TimeoutError as error:
            raise ExecutionError(
                Reason.ENGINE_DOWN, f"the Docker engine did not answer within {limit_s:g} s: look at its log", retryable=True
            ) from error

    def open_files(self, kind: str) -> Files:
        """Open the place's files by the way that `kind` names. Raises FileNotFoundError, ExecutionError."""
        caps = {"events": self.settings.container.max_events, "results": self.settings.container.max_results}
        most = self.settings.max_unread_bytes
        if kind == HostFiles.kind:
            return HostFiles(self.folder, self.offsets, most, caps)
        return EngineFiles(self.engine, self.attempt.place, self.offsets, most, caps, self.settings.places)

    def forget(self) -> None:
        """Nothing of the place counts: it is to be made anew."""
        self.let_go()
        self.container, self.fate, self.story = "", None, Story()

    def go_back(self) -> None:
        """To the first phase: what the last round has asked for may be there, or come late."""
        self.forget()
        self.attempt = replace(self.attempt, adopt=self.touched)

    def let_go(self) -> None:
        """Close what is open; the place stays."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        if self.files is not None:
            self.files.close()
            self.files = None


Phase = Callable[[Execution], Iterator[Update]]


def now_ms() -> int:
    """Unix time."""
    return time.time_ns() // 1_000_000
