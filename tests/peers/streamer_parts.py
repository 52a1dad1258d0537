"""What these tests build their batches and spools from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cronium.common.crypto import Seal
from cronium.common.messages import Announce, Batch, Position
from cronium.supervisor.streamer.ledger import Ledger
from cronium.supervisor.streamer.positions import Positions
from cronium.supervisor.streamer.spool import Spool
from cronium.supervisor.streamer.windows import Limits
from peers.line_worker import encode

MIB = 1024 * 1024
KEY = bytes(32)


def batch(
    before: Position = Position(),  # noqa: B008 - frozen
    texts: tuple[str, ...] = ("hi",),
    job: str = "job",
    *,
    worker: str = "w1",
    generation: int = 1,
    run: int = 1,
    stream: str = "stdout",
    epoch: int = 1,
) -> Batch:
    """A batch that follows a position."""
    encoded = encode(job, before, list(texts), stream)
    payload = encoded.payload
    return Batch(
        job, worker, epoch, generation, run, encoded.first_sequence, encoded.lines, payload, False, len(payload), encoded.after
    )


def announce(job: str = "job", worker: str = "w1", generation: int = 1, epoch: int = 1, next_sequence: int = 1) -> Announce:
    return Announce(job, worker, epoch, generation, next_sequence)


def spool(folder: Path, *, max_bytes: int = 64 * MIB, segment_bytes: int = MIB, key: bytes = KEY, fsync: bool = True) -> Spool:
    return Spool(folder, Seal(key), max_bytes, segment_bytes, fsync=fsync, ready=100)


def positions(limits: Limits | None = None) -> Positions:
    made = Positions(limits or Limits(4 * MIB), 0.0)
    made.free_bytes, made.answers = 1024 * MIB, True
    return made


def ledger(log: Spool, limits: Limits | None = None, *, max_age_s: float = 1e9) -> Ledger:
    made = Ledger(log, positions(limits), 0.0, max_age_s=max_age_s)
    made.positions.answers = True
    return made


def sized(some: Batch, size: int) -> Batch:
    """The same, as if it had been larger before compression."""
    return replace(some, size=size)
