"""Disks that fail: a sector that cannot be read, and a sync that fails, after which Linux takes the pages for clean.

What a disk says is put in place of `os` here, for the offsets concerned; everything else is the real file.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cronium.common.messages import Batch
from cronium.supervisor.streamer.records import Mark
from cronium.supervisor.streamer.segment import Damage, SpoolError
from cronium.supervisor.streamer.spool import Spool, Spooled, SpoolFullError, SyncError
from peers.streamer_parts import MIB, batch, spool

PAGE_BYTES = 4096


def fill(log: Spool, count: int) -> list[Spooled]:
    return [log.append(batch(texts=(f"{number} " + "x" * 500,))) for number in range(count)]


def bad_page(monkeypatch: pytest.MonkeyPatch, name: str, page: int) -> None:
    """The kernel reads whole pages."""
    real = os.pread

    def pread(descriptor: int, count: int, offset: int) -> bytes:
        if offset < (page + 1) * PAGE_BYTES and page * PAGE_BYTES < offset + count and _name(descriptor) == name:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", pread)


@pytest.mark.parametrize(("file", "page"), [(0, 0), (0, 7), (1, 100)])
def test_a_page_that_cannot_be_read_costs_what_is_in_it_and_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: int, page: int
) -> None:
    """Promise 5."""
    log = spool(tmp_path)
    written = fill(log, 3000)
    log.append(Mark(0, 1, log.end))
    base = sorted({log.segment_base(one.lsn) for one in written})[file]
    log.close()
    bad_page(monkeypatch, f"{base:020d}.spool", page)
    start, stop = base + page * PAGE_BYTES, base + (page + 1) * PAGE_BYTES
    whole = [one for one in written if one.lsn >= stop or one.lsn + one.disk_bytes <= start]
    log = spool(tmp_path)
    found = list(log.recover())
    assert [one for one in found if isinstance(one, Spooled) and isinstance(one.record, Batch)] == whole
    assert sum(isinstance(one, Damage) for one in found) == 1
    count = 0
    while log.peek() is not None:
        log.advance()
        count += 1
    assert count == len(whole) > 2980, "and the cursor goes over it"
    log.close()


def test_what_cannot_be_read_only_later_ends_the_streamer_and_is_found_by_the_next(tmp_path: Path) -> None:
    """Promise 3: passed over, its job would never be told, and would wait for its window for ever."""
    log = spool(tmp_path)
    written = fill(log, 1000)  # more than is read at once
    log.append(Mark(0, 1, log.end))
    list(log.recover())
    with (tmp_path / f"{0:020d}.spool").open("r+b") as file:
        file.seek(written[4].lsn + 100)
        file.write(b"damage")
    log.seek(0)
    for _ in range(4):
        assert log.peek() is not None
        log.advance()
    with pytest.raises(SpoolError, match="cannot be read from offset"):
        log.peek()
    log.close()
    log = spool(tmp_path)
    assert sum(isinstance(one, Damage) for one in log.recover()) == 1
    count = 0
    while log.peek() is not None:
        log.advance()
        count += 1
    assert count == 999
    log.close()


class Disk:
    """What reaches the disk: only what was written since the last sync, and what that failed for is taken for clean."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = False
        self.stored: dict[str, bytearray] = {}
        self._dirty: list[tuple[str, int, bytes]] = []
        self._pwritev, self._pwrite = os.pwritev, os.pwrite
        monkeypatch.setattr(os, "pwritev", self.pwritev)
        monkeypatch.setattr(os, "pwrite", self.pwrite)
        monkeypatch.setattr(os, "fdatasync", self.fdatasync)

    def pwritev(self, descriptor: int, parts: tuple[bytes, ...], at: int) -> int:
        self._dirty.append((_name(descriptor), at, b"".join(parts)))
        return self._pwritev(descriptor, parts, at)

    def pwrite(self, descriptor: int, data: bytes, at: int) -> int:
        self._dirty.append((_name(descriptor).replace("new-segment", f"{0:020d}.spool"), at, data))
        return self._pwrite(descriptor, data, at)

    def fdatasync(self, descriptor: int) -> None:
        name = _name(descriptor)
        concerned = [(at, data) for file, at, data in self._dirty if file == name]
        self._dirty = [(file, at, data) for file, at, data in self._dirty if file != name]
        if self.fails:
            raise OSError(errno.EIO, "Input/output error")
        stored = self.stored.setdefault(name, bytearray())
        for at, data in concerned:
            stored.extend(b"\0" * (at + len(data) - len(stored)))
            stored[at : at + len(data)] = data


def _name(descriptor: int) -> str:
    return Path(f"/proc/self/fd/{descriptor}").readlink().name


@pytest.mark.parametrize("a_new_file_was_begun", [False, True])
def test_after_a_sync_that_failed_a_new_start_writes_everything_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a_new_file_was_begun: bool
) -> None:
    """Promise 5: the next sync succeeds, and has nothing of what the failed one lost."""
    disk = Disk(monkeypatch)
    log = spool(tmp_path)
    fill(log, 10)
    descriptor, lsn = log.sync()
    os.fdatasync(descriptor)
    log.append(Mark(0, 1, lsn))
    fill(log, 10)
    disk.fails = True
    with pytest.raises(OSError, match="error"):
        os.fdatasync(descriptor)
    disk.fails = False
    if a_new_file_was_begun:
        while log.segment_base(log.end - 1) == 0:
            fill(log, 1)
    log.close()
    disk.fails = True
    with pytest.raises(SyncError, match="see to this disk"):
        spool(tmp_path)
    (tmp_path / "lock").unlink()  # held by what could not start, in this process
    disk.fails = False
    log = spool(tmp_path)
    path = tmp_path / f"{0:020d}.spool"
    end = min(log.end, path.stat().st_size)
    assert bytes(disk.stored[path.name])[:end] == path.read_bytes()[:end]
    os.close(descriptor)
    log.close()


def test_the_sync_that_ends_a_file_is_not_tried_again_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    log = spool(tmp_path, max_bytes=64 * MIB)
    disk.fails = True
    with pytest.raises(SyncError) as failure:
        fill(log, 5000)
    assert not isinstance(failure.value, SpoolFullError)
    log.close()
