"""What the SSH executor needs to know of the configuration, in one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cronium.common.config.model import Ssh
from cronium.worker.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class Settings:
    """The section `ssh` and the few keys of other sections that belong to it. Seconds and bytes."""

    worker: str
    ssh: Ssh
    installation: str
    state_dir: Path
    audit_dir: Path
    runtime_dir: Path
    default_timeout_s: float
    max_timeout_s: float
    grace_s: float
    max_unread_bytes: int
    max_results_bytes: int
    max_events_bytes: int

    @property
    def known_hosts(self) -> Path:
        """The file of the servers' keys."""
        return self.ssh.known_hosts_path(self.state_dir)

    @property
    def scratch(self) -> Path:
        """A folder of ours with space, for what comes from a server and is not yet read."""
        return self.state_dir / "fetched"


def settings_of(worker: WorkerSettings) -> Settings:
    """The part of a worker's settings that matters here."""
    return Settings(
        worker=worker.name,
        ssh=worker.ssh,
        installation=worker.installation,
        state_dir=worker.state_dir,
        audit_dir=worker.audit_dir,
        runtime_dir=worker.runtime_dir,
        default_timeout_s=worker.jobs.default_timeout,
        max_timeout_s=worker.jobs.max_timeout,
        grace_s=worker.jobs.cancel_grace,
        max_unread_bytes=worker.logging.max_unread,
        max_results_bytes=worker.container.max_results,
        max_events_bytes=worker.container.max_events,
    )
