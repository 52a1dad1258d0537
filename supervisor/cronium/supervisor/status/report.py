"""The report on how the supervisor is: its shape, and its way through JSON. Pure.

Made by `observer` in the supervisor; read by the monitor (`/health`, `/metrics`) and by `cronium-supervisor status`. A reader may
be of another version than the supervisor that runs: what it does not know it passes over, what is missing has a default.
Names in JSON are camel case, as in the configuration. Whatever a server or a backend may name is bounded in number here.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

MOST_SERVERS: Final = 100  # named in each list of servers
MOST_SET_ASIDE: Final = 5
MOST_REASON: Final = 300  # characters of what others say

Status = Literal["healthy", "degraded", "unhealthy"]


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )


class SetAside(_Part):
    """A report that the backend refused for good."""

    job_id: str
    reason: str


class Backend(_Part):
    """Whether the backend answered last; `works` is None before it was heard at all. `error`: why not."""

    works: bool | None = None
    error: str | None = None


class Output(_Part):
    """The streamer's side. Counts are since that process started; sizes are bytes."""

    heard: bool = False
    connected: bool = False
    reconnects: int = 0
    lines_given_up: int = 0
    lines_refused: int = 0
    spool_bytes: int = 0
    spool_max_bytes: int = 0
    spool_full: bool = False


class Servers(_Part):
    """Servers, jobs that wait for them, and what was left there. At most MOST_SERVERS are named in each list."""

    active_servers: int = 0
    connections: dict[str, int] = {}
    open_breakers: tuple[str, ...] = ()
    half_open_breakers: tuple[str, ...] = ()
    open_breaker_count: int = 0
    half_open_breaker_count: int = 0
    parked_jobs: int = 0
    waiting_jobs: int = 0
    leftovers: int = 0


class Kind(_Part):
    """A kind of process: how often one was started again, and how often as it hung. `recently`: within the last half minute."""

    restarts: int = 0
    hung: int = 0
    recently: bool = False


class Report(_Part):
    """All of it. `status` is `unhealthy` only by the word of somebody who hears nothing from the supervisor any more.

    `jobs`: by state; `ended_jobs`: since the start, by how they ended. `set_aside`: the latest few of `set_aside_count`.
    """

    status: Status
    reasons: tuple[str, ...] = ()
    version: str = ""
    installation: str = ""
    pid: int = 0
    started_at: str = ""
    timestamp: str = ""
    uptime_s: float = 0.0
    draining: bool = False
    journal_waits_for_disk: bool = False
    jobs: dict[str, int] = {}
    ended_jobs: dict[str, int] = {}
    set_aside_count: int = 0
    set_aside: tuple[SetAside, ...] = ()
    backend: Backend = Backend()
    output: Output = Output()
    servers: Servers = Servers()
    processes: dict[str, Kind] = {}

    def to_json(self) -> bytes:
        """As bytes."""
        return self.__pydantic_serializer__.to_json(self, by_alias=True)

    @classmethod
    def from_json(cls, text: bytes) -> Report:
        """From what `to_json` gave, of whatever version. Raises ValueError."""
        return cls.model_validate_json(text)
