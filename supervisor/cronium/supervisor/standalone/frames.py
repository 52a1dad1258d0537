"""Log lines as they arrive: bytes in, a checked batch out. Pure; bounded in memory whatever is sent.

A frame is JSON, plain or gzip (of one or several members: senders put a frame together from parts they compressed before).
Everything is checked with whole-list operations, so that a line costs no Python of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from cronium.supervisor.standalone.coverage import Extent, Totals
from cronium.supervisor.standalone.errors import invalid, too_large
from cronium.supervisor.standalone.log_store import GZIP, PLAIN, FrameRow

STREAMS = frozenset({"stdout", "stderr", "system"})
MAX_SEQUENCE = 2**53  # what every JSON reader keeps exactly
_MAX_MEMBERS = 1024
_SLICE_BYTES = 64 * 1024
_COMPRESS_FROM_BYTES = 512

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """Checked lines of one job, numbered without a hole: what they cover, and their text as it came.

    `entries` gives the lines anew; they are not kept, only needed when part of them is here already.
    """

    job_id: str
    extent: Extent
    row: FrameRow
    entries: Callable[[], list[Entry]]

    def piece(self, first: int, last: int) -> tuple[Extent, FrameRow]:
        """A part of it, as a batch of its own would be."""
        if (first, last) == (self.extent.first, self.extent.last):
            return self.extent, self.row
        start = self.extent.first
        part = self.entries()[first - start : last - start + 1]
        return _extent(part), packed(part)


def gunzip(data: bytes, limit_bytes: int) -> bytes:
    """The text of all gzip members. Raises ApiError: damaged, too many members, or more than `limit_bytes`."""
    parts: list[bytes] = []
    room = limit_bytes
    members = 0
    unpacker: Any = None
    for start in range(0, len(data), _SLICE_BYTES):
        piece = data[start : start + _SLICE_BYTES]
        while piece:
            if unpacker is None:
                members += 1
                if members > _MAX_MEMBERS:
                    raise invalid([("frame", f"more than {_MAX_MEMBERS} gzip members")])
                unpacker = zlib.decompressobj(wbits=31)
            try:
                text = unpacker.decompress(piece, room + 1)
            except zlib.error as error:
                raise invalid([("frame", f"not gzip: {error}")]) from error
            room -= len(text)
            if room < 0:
                raise too_large("the decompressed frame", limit_bytes)
            parts.append(text)
            piece = unpacker.unconsumed_tail or unpacker.unused_data
            if unpacker.eof:
                unpacker = None
    if unpacker is not None or not parts:
        raise invalid([("frame", "the gzip data is cut short")])
    return b"".join(parts)


def parse(text: bytes | str) -> dict[str, Any]:
    """The JSON object of a frame. Raises ApiError."""
    try:
        frame = orjson.loads(text)
    except ValueError as error:
        raise invalid([("frame", f"not JSON: {error}")]) from error
    if not isinstance(frame, dict):
        raise invalid([("frame", "not a JSON object")])
    return frame


def batch_of(entries: Any, raw: bytes, encoding: int, entries_again: Callable[[], list[Entry]]) -> Batch:
    """A checked batch of a frame's entries; `raw` is the frame they came in. Raises ApiError with what is wrong."""
    _check(entries)
    extent = _extent(entries)
    if encoding == PLAIN and len(raw) >= _COMPRESS_FROM_BYTES:
        raw, encoding = _compressed(raw), GZIP
    return Batch(entries[0]["jobId"], extent, FrameRow(extent.first, extent.last, encoding, raw), entries_again)


def packed(entries: Sequence[Entry]) -> FrameRow:
    """Entries as a row of their own."""
    raw = orjson.dumps({"payload": entries})
    encoding = GZIP if len(raw) >= _COMPRESS_FROM_BYTES else PLAIN
    return FrameRow(entries[0]["sequence"], entries[-1]["sequence"], encoding, _compressed(raw) if encoding == GZIP else raw)


def unpacked(row: FrameRow, first: int, last: int, limit_bytes: int) -> list[Entry]:
    """The stored entries of first..last that a row has."""
    text = gunzip(row.body, limit_bytes) if row.encoding == GZIP else row.body
    frame = orjson.loads(text)
    entries: list[Entry] = frame["payload"] if "payload" in frame else frame["entries"]
    return entries[max(0, first - row.first) : last - row.first + 1]


def _compressed(raw: bytes) -> bytes:
    return zlib.compress(raw, 1, wbits=31)


def _check(entries: Any) -> None:
    if not isinstance(entries, list) or not entries:
        raise invalid([("payload", "must be a list of log lines, not empty")])
    if set(map(type, entries)) != {dict}:
        raise invalid([("payload", "each log line must be an object")])
    try:
        jobs = {entry["jobId"] for entry in entries}
        streams = {entry["stream"] for entry in entries}
        sequences = [entry["sequence"] for entry in entries]
        line_types = {type(entry["line"]) for entry in entries}
        time_types = {type(entry["timestamp"]) for entry in entries}
    except KeyError as error:
        raise invalid([(f"payload.{error.args[0]}", "is missing in a log line")], missing=True) from error
    except TypeError as error:  # a list or an object where a word belongs
        raise invalid([("payload", "jobId and stream of a log line must be text")]) from error
    problems = []
    if len(jobs) != 1 or not isinstance(entries[0]["jobId"], str):
        problems.append(("payload.jobId", "a frame has lines of one job only"))
    if not streams <= STREAMS:
        problems.append(("payload.stream", "must be stdout, stderr or system"))
    if line_types != {str}:
        problems.append(("payload.line", "must be text"))
    if time_types != {int}:
        problems.append(("payload.timestamp", "must be Unix milliseconds, an integer"))
    first = sequences[0]
    if set(map(type, sequences)) != {int} or not 1 <= first <= MAX_SEQUENCE:
        problems.append(("payload.sequence", "must be an integer from 1"))
    elif sequences != list(range(first, first + len(sequences))):
        problems.append(("payload.sequence", f"the numbers after {first} must rise by one"))
    if problems:
        raise invalid(problems)


def _extent(entries: Sequence[Entry]) -> Extent:
    streams = {entry["stream"] for entry in entries}
    pieces = any("continued" in entry for entry in entries)
    totals = {
        stream: _totals(entries if len(streams) == 1 else [e for e in entries if e["stream"] == stream], pieces=pieces)
        for stream in streams
    }
    nothing = Totals()
    return Extent(entries[0]["sequence"], entries[-1]["sequence"], totals.get("stdout", nothing), totals.get("stderr", nothing))


def _totals(entries: Sequence[Entry], *, pieces: bool) -> Totals:
    """Sums of one stream. A piece of a line (`continued: true`) has no newline, and the line counts when it ends."""
    lines = [entry["line"] for entry in entries]
    if pieces:
        ends = ["" if entry.get("continued") is True else "\n" for entry in entries]
        text = "".join([part for both in zip(lines, ends, strict=True) for part in both]).encode()
        return Totals(ends.count("\n"), len(text), zlib.crc32(text))
    text = "\n".join([*lines, ""]).encode()
    return Totals(len(lines), len(text), zlib.crc32(text))
