"""What a worker is told when it is forked. It holds no service token: a worker never talks to the backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cronium.common.config.model import Container, Jobs, Logging, Ssh
from cronium.common.logging import LogFormat


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """`name` is the worker's identity on every socket; `level` and `log_format` are those of its own logs."""

    name: str
    number: int
    installation: str
    runtime_dir: Path
    state_dir: Path
    audit_dir: Path
    container: Container
    ssh: Ssh
    jobs: Jobs
    logging: Logging
    heartbeat_s: float
    level: str
    log_format: LogFormat
