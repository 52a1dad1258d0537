"""What is known of one job in one epoch, and whether a batch follows. Pure data; only `positions` changes it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cronium.common.messages import Batch, Position
from cronium.supervisor.streamer.windows import Bucket

Key = tuple[str, int]  # job id, epoch


class Verdict(StrEnum):
    """What becomes of a batch."""

    TAKE = "take"
    UNKNOWN = "unknown"  # not announced
    STALE = "stale"  # of another worker, generation or run
    REJECTED = "rejected"  # does not follow


@dataclass(slots=True)
class Track:
    """One job in one epoch.

    `waiting_bytes`: encoded bytes that are not acknowledged; `held_bytes`: what they take in the spool. `syncing`: what was
    written when the sync began that is under way. `said_…`: what its reader was told last, and how often since a change.
    """

    job_id: str
    epoch: int
    first_sequence: int
    written: Position
    synced: Position
    bucket: Bucket
    worker: str = ""
    generation: int = 0
    run: int = 0
    forgotten: bool = False
    waiting_batches: int = 0
    waiting_bytes: int = 0
    held_bytes: int = 0
    heard_at_s: float = 0.0
    syncing: Position | None = None
    rejected: bool = False
    said_lines: int = 0
    said_bytes: int = 0
    said_at_s: float = 0.0
    repeats: int = 0

    @property
    def key(self) -> Key:
        """What it is kept under."""
        return (self.job_id, self.epoch)


def follows(batch: Batch, written: Position) -> bool:
    """Whether a batch begins where the position is, and only adds to it."""
    after = batch.after
    return (
        batch.first_sequence == written.next_sequence
        and after.next_sequence == batch.first_sequence + batch.lines
        and batch.lines >= 0
        and after.stdout.bytes >= written.stdout.bytes
        and after.stderr.bytes >= written.stderr.bytes
    )
