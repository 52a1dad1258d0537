"""Appending to the audit log, by several processes at once. See the package for what is promised."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from cronium.common.audit.chain import (
    BROKEN_EVENT,
    EMPTY,
    FILE_EVENT,
    HEAD,
    LOST_EVENT,
    MAX_ENTRY_BYTES,
    TORN_EVENT,
    Head,
    files_of,
    path_of,
    read_entry,
    read_head,
    sealed,
)
from cronium.common.files import give_to_folders_owner
from cronium.common.locks import lock, write_whole
from cronium.common.logging import get_logger, masked

MAX_FILE_BYTES: Final = 64 * 1024 * 1024
MAX_FILES: Final = 16
"""Older ones are removed, and the chain says so: copy them away in time if they must be kept for longer."""
LOCK_S: Final = 5.0
_AGAIN_S: Final = 0.1  # after an entry was lost: a process that was stopped holds the lock, and must not make others look hung
_TAIL_BYTES: Final = 4 * MAX_ENTRY_BYTES
_CLOSED: Final = -1
_log = get_logger()


class AuditLog:
    """The log in `folder`, which is made when it is missing. One object serves several threads, and survives a fork."""

    def __init__(self, folder: Path, *, max_file_bytes: int = MAX_FILE_BYTES, max_files: int = MAX_FILES) -> None:
        self._folder = folder
        self._max_file_bytes = max_file_bytes
        self._max_files = max_files
        self._lost = 0

    def append(self, event: str, **fields: object) -> None:
        """Add an entry; never raises. `fields` are masked as in our own log; `seq`, `time` and `hash` are not for them.

        One that cannot be written is told in our own log, and counted by an `audit.lost` entry before the next one that can.
        """
        try:
            with self._locked() as head:
                turn = _Turn(self._folder, head, self._max_file_bytes, self._max_files)
                try:
                    turn.find_end()
                    if self._lost:
                        turn.add(LOST_EVENT, {"entries": self._lost})
                        self._lost = 0
                    turn.add(event, masked(fields))
                finally:
                    turn.close()
        except OSError as error:
            self._lost += 1
            _log.error(
                "an entry of the audit log is lost: make room, or let us write there",
                folder=str(self._folder),
                entry=event,
                error=error,
            )

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The head's descriptor, for us alone. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        path = self._folder / HEAD
        try:
            head = os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._make_folder()
            head = os.open(path, flags, 0o600)
        try:
            lock(head, _AGAIN_S if self._lost else LOCK_S)
            if not os.fstat(head).st_size:
                give_to_folders_owner(head, path)
            yield head
        finally:
            os.close(head)

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            give_to_folders_owner(descriptor, self._folder)
        finally:
            os.close(descriptor)


class _Turn:
    """One turn at the log, under its lock. Each method raises OSError."""

    def __init__(self, folder: Path, descriptor: int, max_file_bytes: int, max_files: int) -> None:
        self._folder = folder
        self._descriptor = descriptor
        self._max_file_bytes = max_file_bytes
        self._max_files = max_files
        self._file = _CLOSED
        self._head = EMPTY

    def find_end(self) -> None:
        """Where the chain goes on. What does not fit is told in it."""
        head = read_head(self._descriptor)
        fits = head is not None and head.file and self._open(head.file) == head.size
        if head is not None and fits and not path_of(self._folder, head.file + 1).exists():
            self._head = head
        else:
            self._find_end_by_files(head)

    def add(self, event: str, fields: Mapping[str, object]) -> None:
        """Write an entry, and the head that counts it; in a new file if this one is full."""
        if self._file == _CLOSED or self._head.size >= self._max_file_bytes:
            self._next_file()
        self._write(event, fields)

    def close(self) -> None:
        """Let go of the file."""
        if self._file != _CLOSED:
            os.close(self._file)
            self._file = _CLOSED

    def _write(self, event: str, fields: Mapping[str, object]) -> None:
        line, digest = sealed(self._head.hash, self._head.count + 1, event, fields)
        write_whole(self._file, line)
        self._say(Head(self._head.count + 1, digest, self._head.file, self._head.size + len(line)))

    def _say(self, head: Head) -> None:
        self._head = head
        os.pwrite(self._descriptor, head.packed(), 0)

    def _open(self, number: int, *, new: bool = False) -> int | None:
        """Open a file for appending; its size, None when it is not there."""
        self.close()
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if new else 0)
        try:
            self._file = os.open(path_of(self._folder, number), flags, 0o600)
        except FileNotFoundError:
            return None
        if new:
            give_to_folders_owner(self._file, path_of(self._folder, number))
        return os.fstat(self._file).st_size

    def _next_file(self) -> None:
        """Go on in a new file. The oldest ones go only when the new one says so."""
        if self._file != _CLOSED:
            os.fsync(self._file)
        elif not self._head.file:
            self._say(EMPTY)  # from now on a head that is missing means that somebody took it
        number = self._head.file + 1
        oldest = max(1, number - self._max_files + 1)
        self._head = replace(self._head, file=number, size=self._open(number, new=True) or 0)
        self._write(FILE_EVENT, {"number": number, "oldest": oldest, "previous": self._head.hash})
        for old, path in files_of(self._folder).items():
            if old < oldest:
                path.unlink(missing_ok=True)

    def _find_end_by_files(self, head: Head | None) -> None:
        """There is no log yet; or a crash came between an entry and its head; or somebody was here."""
        self.close()
        number = max((number for number, path in files_of(self._folder).items() if path.stat().st_size), default=0)
        size = (self._open(number) or 0) if number else 0
        count, digest, torn = self._last_entry(size)
        problem = ""
        if head is None and number:
            problem = f"the head was gone, {count} entries were there"
        elif head is not None and count < head.count:
            problem = f"the end was gone: {head.count} entries had been written, {count} were there"
        missing = 0 if head is None else max(0, head.file - number)
        self._head = Head(max(count, head.count if head else 0), digest, number + missing, size)
        if missing:
            self.close()  # its number is not used again: the next file says that one is missing
        elif torn:
            self._tell_torn(torn)
        if problem:
            self.add(BROKEN_EVENT, {"problem": problem})

    def _last_entry(self, size: int) -> tuple[int, str, bytes]:
        """Of the last whole entry in the open file its number and hash; and what stands after it without an end."""
        if self._file == _CLOSED:
            return EMPTY.count, EMPTY.hash, b""
        tail = os.pread(self._file, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        whole, _, torn = tail.rpartition(b"\n")
        for line in reversed(whole.split(b"\n")):
            if (entry := read_entry(line)) is not None:
                return entry.seq, entry.hash, torn
        return EMPTY.count, EMPTY.hash, torn

    def _tell_torn(self, torn: bytes) -> None:
        write_whole(self._file, b"\n")
        self._head = replace(self._head, size=self._head.size + 1)
        self._write(TORN_EVENT, {"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()})
