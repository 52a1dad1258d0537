"""The spool: one append-only log for all jobs, in segments, encrypted, bounded.

What an end costs: the kill of a process nothing that was written; a power cut what was not yet synced, which nobody has
relied on: the place still has it (credit waits for the sync) and the backend does not (frames wait for it too), so it is read
and numbered again as if for the first time. With `fsync: false` nothing is ever synced while we run, so nothing waits for it:
what a power cut takes back may have been relied on, and numbers may come twice, for other text. A damaged record costs itself,
a missing file what was in it; what can be read is read. A sync that fails ends the process (`SyncError`).

Batches are refused (`SpoolFullError`) at the bound and on a full disk, with some room left for the small records that let old
segments go. One cursor reads the batches in order, to be sent; recently written ones are still in memory, anything else
comes from the file: there is no index. Runs in the streamer's loop; the one slow call (`sync`) is made by `syncer`'s thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import structlog

from cronium.common.crypto import Seal
from cronium.supervisor.streamer.records import Kind, Mark, Record, decode, encode
from cronium.supervisor.streamer.segment import (
    FILE_HEADER,
    RECORD_HEADER_BYTES,
    Damage,
    RawRecord,
    Segment,
    SpoolError,
    create,
    open_all,
)

_log = structlog.get_logger()

_LOCK_WAIT_S = 5.0  # a killed predecessor's lock is gone at once; one that only just ends is waited for
_READY_BYTES = 4 * 1024 * 1024
_LARGEST_BATCH_BYTES = 256 * 1024  # worker/lines.py
_MOST_OF_MAX = 8  # a segment is at most this part of the whole, so that there is something to let go
_CONTROL_PART = 4  # of each segment this part is only for records that are no batches
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SyncError(SpoolError):
    """The disk did not keep what was written; a new start writes all that was not yet safe once more, and syncs it."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"the spool in {folder} cannot be synced, jobs keep their output until it can: see to this disk ({reason})"
        )


class SpoolFullError(SpoolError):
    """No room now, or the disk fails; nothing was written."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """A record of the log with its position and its weight on disk."""

    lsn: int
    record: Record
    disk_bytes: int


class Spool:
    """Owns the spool's folder."""

    def __init__(self, folder: Path, seal: Seal, max_bytes: int, segment_bytes: int, *, fsync: bool, ready: int) -> None:
        """Opens and repairs what is there. Raises SpoolError when it is not ours or in use, OSError when it cannot be read."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder, self._seal, self._fsync = folder, seal, fsync
        self._segment_bytes = min(segment_bytes, max_bytes // _MOST_OF_MAX)
        self._capacity = max_bytes - self._segment_bytes
        self._lock = _locked(folder)
        self._segments = open_all(folder)
        self._full = False
        self._ready: deque[Spooled] = deque()  # the records from the cursor on, as far as they are still in memory
        self._ready_most, self._ready_bytes, self._ready_end = ready, 0, 0
        self._damages: list[Damage] = []  # what `recover` has told
        self.mark = self._repair()
        self.cursor = self.first

    @property
    def folder(self) -> Path:
        """Where the log is."""
        return self._folder

    @property
    def fsync(self) -> bool:
        """Whether what is written is synced while we run."""
        return self._fsync

    @property
    def first(self) -> int:
        """The position of the oldest segment."""
        return self._segments[0].base

    @property
    def end(self) -> int:
        """The position behind the newest record."""
        return self._segments[-1].end

    @property
    def disk_bytes(self) -> int:
        """What the log takes."""
        return self.end - self.first

    @property
    def is_full(self) -> bool:
        """Whether nothing can be taken: at the bound, or on a disk that is full or fails."""
        return self.free_bytes() < _LARGEST_BATCH_BYTES

    def free_bytes(self) -> int:
        """How much more can be taken; 0 on a full disk."""
        return 0 if self._full else max(0, self._capacity - self.disk_bytes)

    def append(self, record: Record) -> Spooled:
        """Write a record. Raises SpoolFullError when there is no room or the disk fails; then nothing has changed. Raises
        SyncError when what was written before is not safe.
        """
        kind, clear = encode(record)
        body_bytes = len(clear) + 28  # nonce and tag of AES-GCM
        is_batch = kind == Kind.BATCH
        if is_batch and body_bytes > self.free_bytes():
            raise SpoolFullError("the spool is full")
        segment = self._room_for(RECORD_HEADER_BYTES + body_bytes, is_batch=is_batch)
        body = self._seal.close(clear, _context(segment.end))
        try:
            lsn = segment.write(kind, body)
        except OSError as error:
            raise self._refusal(error) from error
        spooled = Spooled(lsn, record, RECORD_HEADER_BYTES + len(body))
        if isinstance(record, Mark):
            self.mark = record
        self._keep_ready(spooled, is_batch=is_batch)
        return spooled

    def recover(self) -> Iterator[Spooled | Damage]:
        """Every record there is, oldest first. Raises RecordError or SealError for one that is whole but cannot be read."""
        self._damages.clear()
        for segment in self._segments:
            for found in segment.scan():
                if isinstance(found, Damage):
                    _tell_damage(segment, found)
                    self._damages.append(found)
                    yield found
                else:
                    yield Spooled(found.lsn, self._opened(found), found.disk_bytes)

    def peek(self) -> Spooled | None:
        """The batch at the cursor (moved over anything else, known damage too); None at the end.

        Raises SpoolError where something cannot be read that could at the start: a new start finds out whose it was.
        """
        if self._ready:
            self.cursor = self._ready[0].lsn
            return self._ready[0]
        while (segment := self._segment_at(self.cursor)) is not None:
            self.cursor = max(self.cursor, segment.start)
            if self.cursor >= segment.end:
                self.cursor = segment.end
                continue
            if (known := next((d for d in self._damages if d.lsn <= self.cursor < d.end), None)) is not None:
                self.cursor = known.end
                continue
            raw = segment.read(self.cursor)
            if raw is None:
                offset = self.cursor - segment.base
                raise SpoolError(f"{segment.path} cannot be read from offset {offset} on, as it could before: see to this disk")
            if raw.kind == Kind.BATCH:
                batch = self._opened(raw)
                self._ready.append(Spooled(raw.lsn, batch, raw.disk_bytes))
                self._ready_bytes, self._ready_end = raw.disk_bytes, raw.lsn + raw.disk_bytes
                return self._ready[0]
            self.cursor += raw.disk_bytes
        return None

    def advance(self) -> None:
        """Move the cursor over the batch that `peek` gave."""
        spooled = self._ready.popleft()
        self._ready_bytes -= spooled.disk_bytes
        self.cursor = spooled.lsn + spooled.disk_bytes

    def seek(self, lsn: int) -> None:
        """Put the cursor at a position."""
        self.cursor = max(lsn, self.first)
        self._ready.clear()
        self._ready_bytes = 0

    def segment_base(self, lsn: int) -> int:
        """The start of the segment that holds a position."""
        return max((segment.base for segment in self._segments if segment.base <= lsn), default=self.first)

    def drop_below(self, lsn: int) -> None:
        """Remove the segments that lie wholly below a position; the newest stays."""
        while len(self._segments) > 1 and self._segments[0].end <= lsn:
            segment = self._segments.pop(0)
            segment.close()
            segment.path.unlink(missing_ok=True)
        self._damages = [damage for damage in self._damages if damage.end > self.first]
        if self._full:
            self.try_again()

    def try_again(self) -> None:
        """After a full disk: see whether there is room for a segment by now."""
        if self._full:
            try:
                self._roll()
            except OSError:
                return
            self._full = False
            _log.info("spool has room again", folder=str(self._folder))

    def sync(self) -> tuple[int, int]:
        """What to sync: a descriptor of the caller's own, and the position that is safe once that is done."""
        return os.dup(self._segments[-1].descriptor), self.end

    def close(self) -> None:
        """Close all files."""
        for segment in self._segments:
            segment.close()
        os.close(self._lock)

    def _repair(self) -> Mark:
        """Cut a torn end off; the last mark there is."""
        if not self._segments:
            self._segments.append(self._first_segment())
        for segment, following in pairwise(self._segments):
            segment.end = following.base  # a segment is begun where the one before ends
        newest = self._segments[-1]
        end, mark = self._whole(newest)
        try:
            newest.cut(end, self._segment_bytes)
        except OSError as error:
            _log.warning("no room for a whole segment", file=str(newest.path), error=str(error))
        for segment in reversed(self._segments[:-1]):
            mark = mark or self._whole(segment)[1]
        mark = mark or Mark(0, 0)
        try:
            # The one before the newest may have been ended while the sync of it that failed was not heard of yet.
            for segment in self._segments[-2:] if self._fsync else ():
                segment.rewrite(max(mark.synced, segment.start))
            for segment in self._segments:
                os.fdatasync(segment.descriptor)
        except OSError as error:
            raise SyncError(self._folder, str(error)) from error
        return mark

    def _first_segment(self) -> Segment:
        """The first segment; on a disk without room one that takes nothing, until `try_again` finds some."""
        try:
            return create(self._folder, 0, self._segment_bytes)
        except OSError as error:
            self._refusal(error)
            stand_in = os.memfd_create("spool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.write(stand_in, FILE_HEADER)
            fcntl.fcntl(stand_in, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
            return Segment(self._folder / "no-segment", 0, len(FILE_HEADER), stand_in)

    def _whole(self, segment: Segment) -> tuple[int, Mark | None]:
        """Where a segment ends, and its last mark.

        What cannot be read is the torn end of a write, unless a later mark says that it was safe: then it is damage, and what
        follows is ours. (Behind a torn end a power cut may leave whole records; nobody has relied on those.)
        """
        end, mark, torn_at = segment.start, None, 0
        for found in segment.scan():
            if isinstance(found, Damage):
                torn_at = torn_at or found.lsn
                continue
            if found.kind == Kind.MARK and isinstance(opened := self._opened(found), Mark):
                if torn_at and opened.synced <= torn_at:
                    continue
                mark, torn_at = opened, 0
            if not torn_at:
                end = found.lsn + found.disk_bytes
        return end, mark

    def _opened(self, raw: RawRecord) -> Record:
        return decode(raw.kind, self._seal.open(raw.body, _context(raw.lsn)))

    def _room_for(self, length: int, *, is_batch: bool) -> Segment:
        segment = self._segments[-1]
        used = segment.end - segment.base
        limit = self._segment_bytes - (self._segment_bytes // _CONTROL_PART if is_batch else 0)
        if used + length > limit and segment.end > segment.start:
            try:
                self._roll()
            except OSError as error:
                if is_batch or used + length > self._segment_bytes:
                    raise self._refusal(error) from error
        return self._segments[-1]

    def _roll(self) -> None:
        """Begin a new segment; the old one is safe before that, so only the newest can ever be torn."""
        old = self._segments[-1]
        if self._fsync:
            try:
                os.fdatasync(old.descriptor)
            except OSError as error:
                raise SyncError(self._folder, str(error)) from error
        fresh = create(self._folder, old.end, self._segment_bytes)
        os.ftruncate(old.descriptor, old.end - old.base)
        self._segments.append(fresh)
        # A restart looks for the last mark from the newest segment backwards: it need not look far.
        kind, clear = encode(self.mark)
        fresh.write(kind, self._seal.close(clear, _context(fresh.end)))
        self.cursor = fresh.end if self.cursor == old.end else self.cursor
        self._ready_end = fresh.end if self._ready_end == old.end else self._ready_end

    def _refusal(self, error: OSError) -> SpoolFullError:
        """A full disk and one that fails are the same to a job: it waits, and we try again every second."""
        if not self._full:
            self._full = True
            advice = "free some space on this disk" if error.errno in _FULL else "see to this disk"
            _log.error(f"output cannot be written, jobs wait: {advice}", folder=str(self._folder), error=str(error))
        return SpoolFullError(f"cannot write to {self._folder}: {error}")

    def _keep_ready(self, spooled: Spooled, *, is_batch: bool) -> None:
        if spooled.lsn != (self._ready_end if self._ready else self.cursor):
            return
        if not is_batch:
            self._ready_end = spooled.lsn + spooled.disk_bytes
            if not self._ready:
                self.cursor = self._ready_end
        elif len(self._ready) < self._ready_most and self._ready_bytes < _READY_BYTES:
            self._ready.append(spooled)
            self._ready_bytes += spooled.disk_bytes
            self._ready_end = spooled.lsn + spooled.disk_bytes

    def _segment_at(self, lsn: int) -> Segment | None:
        return next((s for s in self._segments if s.base <= lsn < s.end), None)


def _tell_damage(segment: Segment, damage: Damage) -> None:
    what = f"{damage.end - damage.lsn} bytes from offset {damage.lsn - segment.base} on"
    if damage.end > segment.base + os.fstat(segment.descriptor).st_size:
        what += ", in this file or in one behind it that is gone,"
    _log.error(f"the spool is damaged: {what} cannot be read; see to this disk", file=str(segment.path))


def _context(lsn: int) -> str:
    return f"spool {lsn}"


def _locked(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                raise SpoolError(f"another streamer uses {folder}: end it first, or configure another stateDir") from None
            time.sleep(0.02)
        else:
            return descriptor
