"""What the container executor needs to know of the configuration, in one value.

Runs in a worker. The places' files lie under `<stateDir>/places/<place>/`; what was found out about engines and images by
trying is kept under `<stateDir>/engines/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cronium.common.config.model import Container
from cronium.worker.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class Settings:
    """The section `container` and the few keys of other sections that belong to it. Seconds and bytes."""

    container: Container
    installation: str
    state_dir: Path
    default_timeout_s: float
    max_timeout_s: float
    grace_s: float
    max_unread_bytes: int

    @property
    def places(self) -> Path:
        """The folder of all places' folders."""
        return self.state_dir / "places"

    @property
    def findings(self) -> Path:
        """The folder of what was found out by trying."""
        return self.state_dir / "engines"

    @property
    def bridge(self) -> str:
        """The name of this installation's own network."""
        return f"cronium-{self.installation}"

    @property
    def owner(self) -> tuple[int, int]:
        """User and group of every job."""
        user, _, group = self.container.security.user.partition(":")
        return int(user), int(group or user)


def settings_of(worker: WorkerSettings) -> Settings:
    """The part of a worker's settings that matters here."""
    return Settings(
        container=worker.container,
        installation=worker.installation,
        state_dir=worker.state_dir,
        default_timeout_s=worker.jobs.default_timeout,
        max_timeout_s=worker.jobs.max_timeout,
        grace_s=worker.jobs.cancel_grace,
        max_unread_bytes=worker.logging.max_unread,
    )
