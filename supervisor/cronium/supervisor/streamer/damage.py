"""What damage of the spool costs whom, found out while a restart reads it. Pure: the log's records in order in, what to tell out.

A record that follows tells of what came before it: a batch of a job where that job was, `Heads` where all jobs were. Only of
what was damaged behind the last `Heads` it is not known whose it was: then each job that has nothing behind the damage may have
lost lines there, and goes on behind all numbers that so many bytes can have held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cronium.common.messages import Batch
from cronium.supervisor.streamer.positions import Positions
from cronium.supervisor.streamer.records import Heads
from cronium.supervisor.streamer.segment import Damage
from cronium.supervisor.streamer.track import Key, Track

_LINES_A_BYTE = 32  # more than a byte of the spool can hold: 256 KiB of empty lines in one compressed batch


@dataclass(frozen=True, slots=True)
class Loss:
    """What a job is to be told in a `system` line; `skipped` numbers before that line may have been used."""

    key: Key
    text: str
    skipped: int


class Losses:
    """Fed with what a restart reads. `low`: everything below this log position is acknowledged, and lost to nobody."""

    def __init__(self, low: int) -> None:
        self._low = low
        self._unsure: list[Damage] = []  # not followed by `Heads`
        self._waited = False  # whether anything of the last damage was not acknowledged
        self._newest: dict[Key, int] = {}  # where each job's newest record is
        self._lost: dict[Key, tuple[int, int]] = {}  # lines that were not acknowledged: the first and the last

    def damaged(self, damage: Damage) -> None:
        """Something cannot be read."""
        self._unsure.append(damage)
        self._waited = damage.end > self._low

    def seen(self, key: Key, lsn: int) -> None:
        """A record of this job."""
        self._newest[key] = lsn

    def batch(self, batch: Batch, track: Track | None) -> None:
        """A batch, and its job as it was known before: what is between them is lost. Those that were told are told."""
        key = (batch.job_id, batch.epoch)
        if not batch.worker:
            self._lost.pop(key, None)
        elif self._waited and track is not None:
            self._missing(key, track.written.next_sequence, batch.first_sequence)

    def heads(self, heads: Heads, positions: Positions, now_s: float) -> None:
        """Where all jobs were: behind damage, those who had something in it are put there."""
        if not self._unsure:
            return
        waited = any(damage.end > self._low for damage in self._unsure)
        self._unsure.clear()
        for head in heads.jobs:
            key = (head.job_id, head.epoch)
            track = positions.get(*key)
            if waited and head.waits:
                self._missing(key, track.written.next_sequence if track else head.first_sequence, head.position.next_sequence)
            positions.restore(*key, head.position, head.first_sequence, now_s)

    def told(self, positions: Positions) -> Iterator[Loss]:
        """When all was read: what is to be told, to each job once."""
        for key in list(dict.fromkeys((*self._newest, *self._lost))):
            unread = sum(damage.end - damage.lsn for damage in self._unsure if damage.lsn > self._newest.get(key, 0))
            track = positions.get(*key)
            if track is None or track.forgotten or not (unread or key in self._lost):
                continue
            if key in self._lost:
                first, last = self._lost[key]
                text = f"lines {first} to {last} of this job are lost: the spool was damaged"
            else:
                text = f"lines of this job from {track.written.next_sequence} on may be lost: the spool was damaged"
            yield Loss(key, text, unread * _LINES_A_BYTE)

    def _missing(self, key: Key, expected: int, found: int) -> None:
        if found > expected:
            first = self._lost[key][0] if key in self._lost else expected
            self._lost[key] = (first, found - 1)
