"""What a monitor is told when it is forked. It holds no service token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cronium.common.logging import LogFormat


@dataclass(frozen=True, slots=True)
class Page:
    """What is served on a port (0: any free one) under a path. `key`: the configuration's key of the port."""

    name: str
    port: int
    path: str
    key: str


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """`hung_after_s`: after so long without progress the supervisor is ended. `level` and `log_format`: of our own log.

    `host`: the address on which `pages` are served.
    """

    supervisor_pid: int
    runtime_dir: Path
    heartbeat_s: float
    hung_after_s: float
    level: str
    log_format: LogFormat
    host: str
    pages: tuple[Page, ...]
