"""One file of the spool: a header, then records back to back, then zeros. Knows bytes and offsets, not what records mean.

A record is `header, body`; the header is magic, version, kind, length of the body, CRC-32. The CRC covers kind, length, body
and the record's position in the log, so neither a torn record nor an old one left behind by an overwritten write can pass.
A position in the log (`lsn`) is the segment's base plus the offset in its file; bases stand in the files' names.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cronium.common.errors import CroniumError

FILE_HEADER = b"CRONIUM-SPOOL-1\n"
RECORD_HEADER_BYTES = 12
_HEADER = struct.Struct("<2sBBII")
_MAGIC, _VERSION = b"\xc5\x90", 1
_KNOWN = _MAGIC + bytes((_VERSION,))
_NAME = re.compile(r"([0-9]{20})\.spool")
_READ_AHEAD_BYTES = 256 * 1024
_PAGE_BYTES = 4096  # what a bad sector costs: the kernel reads whole pages


class SpoolError(CroniumError):
    """The spool cannot be used; the text says which file and what to do."""


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record as it stands in a file; `disk_bytes` with its header."""

    lsn: int
    kind: int
    body: bytes
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class Damage:
    """From `lsn` up to `end` nothing can be read; whole records may follow."""

    lsn: int
    end: int


class Segment:
    """An open segment. `end` is the position behind its last whole record."""

    def __init__(self, path: Path, base: int, end: int, descriptor: int) -> None:
        self.path, self.base, self.end, self.descriptor = path, base, end, descriptor
        self._ahead, self._ahead_at = b"", 0

    @property
    def start(self) -> int:
        """The position of the first record."""
        return self.base + len(FILE_HEADER)

    def write(self, kind: int, body: bytes) -> int:
        """Append a record; its position. Raises OSError, and then nothing has changed."""
        lsn = self.end
        header = _HEADER.pack(_MAGIC, _VERSION, kind, len(body), _crc(lsn, kind, body))
        length = len(header) + len(body)
        written = os.pwritev(self.descriptor, (header, body), lsn - self.base)
        if written != length:  # the next record overwrites what came to be there
            raise OSError(28, f"only {written} of {length} bytes could be written", str(self.path))
        self.end += length
        return lsn

    def read(self, lsn: int) -> RawRecord | None:
        """The record at a position; None when there is no whole one."""
        header = self._bytes(lsn, RECORD_HEADER_BYTES)
        if len(header) < RECORD_HEADER_BYTES:
            return None
        magic, version, kind, length, crc = _HEADER.unpack(header)
        if magic != _MAGIC or version != _VERSION:
            return None
        body = self._bytes(lsn + RECORD_HEADER_BYTES, length)
        if len(body) < length or _crc(lsn, kind, body) != crc:
            return None
        return RawRecord(lsn, kind, body, RECORD_HEADER_BYTES + length)

    def scan(self) -> Iterator[RawRecord | Damage]:
        """Everything from the start on: whole records, and what cannot be read between and behind them."""
        lsn = self.start
        while lsn < self.end:
            if (record := self.read(lsn)) is not None:
                yield record
                lsn += record.disk_bytes
            else:
                following = self.next_whole(lsn + 1)
                yield Damage(lsn, following)
                lsn = following

    def next_whole(self, lsn: int) -> int:
        """The position of the next whole record, the end if there is none."""
        while lsn < self.end:
            try:  # what was reserved and never written need not be read
                lsn = self.base + os.lseek(self.descriptor, lsn - self.base, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing was written behind this
                return self.end
            page_end = self._page_end(lsn)
            window = self._read(lsn, _READ_AHEAD_BYTES) or self._read(lsn, page_end - lsn)
            if not window:
                lsn = page_end
                continue
            at = window.find(_KNOWN)
            while at >= 0:
                if self.read(lsn + at) is not None:
                    return lsn + at
                at = window.find(_KNOWN, at + 1)
            lsn += max(1, len(window) - len(_KNOWN) + 1)
        return self.end

    def cut(self, end: int, reserve_bytes: int) -> None:
        """Make `end` the end, with zeros behind it; what was there is gone."""
        self.end = end
        self._ahead = b""
        os.ftruncate(self.descriptor, end - self.base)
        if reserve_bytes > end - self.base:
            os.posix_fallocate(self.descriptor, 0, reserve_bytes)

    def rewrite(self, lsn: int) -> None:
        """Write what is from here on once more, as it reads. Raises OSError.

        After a sync that failed Linux takes those pages for clean: without this the next sync would leave them out, and succeed.
        """
        stop = min(self.end, self.base + os.fstat(self.descriptor).st_size)
        while lsn < stop:
            page_end = self._page_end(lsn)
            data = self._read(lsn, _READ_AHEAD_BYTES) or self._read(lsn, page_end - lsn)
            if data and os.pwrite(self.descriptor, data, lsn - self.base) != len(data):
                raise OSError(errno.EIO, "what was written before cannot be written again", str(self.path))
            lsn = lsn + len(data) if data else page_end

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def _bytes(self, lsn: int, count: int) -> bytes:
        count = min(count, self.end - lsn)
        at = lsn - self._ahead_at
        if at < 0 or at + count > len(self._ahead):
            self._ahead = self._read(lsn, max(count, _READ_AHEAD_BYTES)) or self._read(lsn, count)
            self._ahead_at, at = lsn, 0
        return self._ahead[at : at + count]

    def _page_end(self, lsn: int) -> int:
        return self.base + ((lsn - self.base) // _PAGE_BYTES + 1) * _PAGE_BYTES

    def _read(self, lsn: int, count: int) -> bytes:
        """At most so many bytes; none where the disk cannot read: that is damage as any other."""
        try:
            return os.pread(self.descriptor, min(count, self.end - lsn), lsn - self.base)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return b""


def create(folder: Path, base: int, reserve_bytes: int) -> Segment:
    """A new, empty segment whose space is reserved. Raises OSError when the disk has no room for it."""
    path = folder / f"{base:020d}.spool"
    temporary = folder / "new-segment"
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, reserve_bytes)
        os.pwrite(descriptor, FILE_HEADER, 0)
        temporary.rename(path)
        _sync_folder(folder)
    except OSError:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
        path.unlink(missing_ok=True)  # left behind, it would cut off what the one before it takes meanwhile
        raise
    return Segment(path, base, base + len(FILE_HEADER), descriptor)


def open_all(folder: Path) -> list[Segment]:
    """The segments of a folder in order, `end` at their files' end. Raises SpoolError for a file that is not ours."""
    found = sorted((int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))
    segments: list[Segment] = []
    for base, path in found:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        header = _file_header(descriptor)
        if header != FILE_HEADER:
            os.close(descriptor)
            if header.strip(b"\0") or base != found[-1][0]:
                raise SpoolError(f"{path} is not a file of this spool: move it out of {folder}, and start again")
            path.unlink()  # made in the moment of a power cut; nothing was in it
            continue
        segments.append(Segment(path, base, base + os.fstat(descriptor).st_size, descriptor))
    return segments


def _file_header(descriptor: int) -> bytes:
    """What a file begins with. Where the disk cannot read it, its name must do, and what follows is looked at."""
    try:
        return os.pread(descriptor, len(FILE_HEADER), 0)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return FILE_HEADER


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _crc(lsn: int, kind: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(b"%d %d %d" % (lsn, kind, len(body))))
