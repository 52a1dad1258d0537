"""WebSocket frames of log batches, built around payloads that the workers have encoded already. Pure.

A compressed frame is a gzip file of three members (RFC 1952, 2.2: members are simply concatenated): the beginning of the JSON
object, the payload's member as the worker made it, and the closing brace. So the streamer compresses nothing.
"""

from __future__ import annotations

import struct
import zlib

from cronium.common.errors import CroniumError
from cronium.common.messages import Batch

_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # RFC 1952, 2.3: deflate, no flags, no time, unknown system


class DamagedError(CroniumError):
    """A payload is not what its batch says."""


def log_frame(frame_id: int, batch: Batch) -> tuple[bool, bytes]:
    """Whether the frame is binary, and its bytes."""
    start = b'{"type":"log","id":%d,"epoch":%d,"payload":' % (frame_id, batch.epoch)
    if batch.compressed:
        return True, b"".join((_stored_member(start), batch.payload, _END_MEMBER))
    return False, b"".join((start, batch.payload, b"}"))


def entries_of(batch: Batch) -> bytes:
    """The JSON array of a batch. Raises DamagedError when a compressed one is no gzip member."""
    if not batch.compressed:
        return batch.payload
    try:
        return zlib.decompress(batch.payload, 31, batch.size)
    except zlib.error as error:
        raise DamagedError(f"lines {batch.first_sequence} and on of job {batch.job_id} are damaged: {error}") from error


def _stored_member(data: bytes) -> bytes:
    """`data` (below 64 KiB) as one gzip member with one stored block (RFC 1951, 3.2.4)."""
    block = struct.pack("<BHH", 1, len(data), len(data) ^ 0xFFFF)
    return b"".join((_GZIP_HEADER, block, data, struct.pack("<II", zlib.crc32(data), len(data))))


_END_MEMBER = _stored_member(b"}")
