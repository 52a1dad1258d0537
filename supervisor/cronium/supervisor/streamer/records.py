"""What lies in the spool: its kinds of records, and their bytes. Pure; nobody else knows the format.

The format on disk is a matter of its own: messages between processes may change with every release, a spool must still be
readable after an upgrade. A changed body means a new kind, and the old one goes on being read.

| kind | body |
|---|---|
| BATCH | a `Batch` as the worker sent it |
| STATE | an `Announce`, a `Forget`, or a `Summary`: the job's whole state up to here, so that older records are not needed; |
| | or `Heads` |
| MARK | a `Mark`; older ones have its first two values only |
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgpack

from cronium.common.errors import CroniumError
from cronium.common.messages import Announce, Batch, FileMark, Forget, Position, StreamTotals, Summary


class Kind(IntEnum):
    """The kind of a record, a byte of its header. Numbers are never used twice."""

    BATCH = 1
    STATE = 2
    MARK = 3


@dataclass(frozen=True, slots=True)
class Mark:
    """Everything below the log position `low` is acknowledged; no frame id below `next_id` may be used again.

    Everything below `synced` survived a sync before this was written. `lived_s`: for how long streamers had run by then.
    """

    low: int
    next_id: int
    synced: int = 0
    lived_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Head:
    """How far one job was; `waits`: some of it was not acknowledged."""

    job_id: str
    epoch: int
    first_sequence: int
    position: Position
    waits: bool


@dataclass(frozen=True, slots=True)
class Heads:
    """How far all jobs were: so damage before this cannot hide whose records it hit."""

    jobs: tuple[Head, ...]


Record = Batch | Announce | Forget | Summary | Mark | Heads


class RecordError(CroniumError):
    """A record's body is none of this version."""


def encode(record: Record) -> tuple[Kind, bytes]:
    """Kind and body of a record."""
    match record:
        case Batch():
            return Kind.BATCH, msgpack.packb(
                (
                    record.job_id,
                    record.worker,
                    record.epoch,
                    record.generation,
                    record.run,
                    record.first_sequence,
                    record.lines,
                    record.payload,
                    record.compressed,
                    record.size,
                    _plain(record.after),
                )
            )
        case Mark():
            return Kind.MARK, msgpack.packb((record.low, record.next_id, record.synced, record.lived_s))
        case Announce():
            parts: tuple[Any, ...] = (
                "announce",
                record.job_id,
                record.worker,
                record.epoch,
                record.generation,
                record.next_sequence,
            )
        case Forget():
            parts = ("forget", record.job_id, record.epoch)
        case Heads():
            heads = [(h.job_id, h.epoch, h.first_sequence, _plain(h.position), h.waits) for h in record.jobs]
            parts = ("heads", heads)
        case Summary():
            parts = (
                "summary",
                record.job_id,
                record.epoch,
                _plain(record.position),
                record.first_sequence,
                record.stdout,
                record.stderr,
                record.truncated,
            )
    return Kind.STATE, zlib.compress(msgpack.packb(parts), 1)


def decode(kind: int, body: bytes) -> Record:
    """The record of a body. Raises RecordError when it is none."""
    try:
        if kind == Kind.BATCH:
            fields = msgpack.unpackb(body, use_list=False)
            job_id, worker, epoch, generation, run, first, lines, payload, compressed, size, after = fields
            return Batch(job_id, worker, epoch, generation, run, first, lines, payload, compressed, size, _position(after))
        if kind == Kind.MARK:
            return Mark(*msgpack.unpackb(body))
        name, *fields = msgpack.unpackb(zlib.decompress(body), use_list=False)
        match name:
            case "announce":
                return Announce(*fields)
            case "forget":
                return Forget(*fields)
            case "heads":
                jobs = (Head(job, epoch, first, _position(at), waits) for job, epoch, first, at, waits in fields[0])
                return Heads(tuple(jobs))
            case "summary":
                job_id, epoch, position, *rest = fields
                return Summary(job_id, epoch, _position(position), *rest)
    except Exception as error:  # msgpack and zlib raise many unrelated types on bad input
        raise RecordError(f"a record of kind {kind} cannot be read: {type(error).__name__}: {error}") from error
    raise RecordError(f"a record of an unknown kind {kind} ({name}): it was written by a newer version, use that one")


def _plain(position: Position) -> tuple[Any, ...]:
    out, err = position.stdout, position.stderr
    files = tuple((mark.place, mark.stream, mark.offset, mark.inside) for mark in position.files)
    return (position.next_sequence, (out.lines, out.bytes, out.crc32), (err.lines, err.bytes, err.crc32), files)


def _position(plain: tuple[Any, ...]) -> Position:
    sequence, out, err, files = plain
    return Position(sequence, StreamTotals(*out), StreamTotals(*err), tuple(FileMark(*mark) for mark in files))
