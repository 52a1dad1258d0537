"""The check of the audit log: is every entry there that was written, in its order, as it was written?

Runs in the command line's process, beside those that append: it holds their lock only while it opens the files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from cronium.common.audit.chain import (
    BROKEN_EVENT,
    EMPTY,
    FILE_EVENT,
    HEAD,
    LOST_EVENT,
    MAX_ENTRY_BYTES,
    TORN_EVENT,
    Entry,
    Head,
    files_of,
    path_of,
    read_entry,
    read_head,
)
from cronium.common.locks import lock

_LOCK_S: Final = 30.0
_MAX_LINE_BYTES: Final = 2 * MAX_ENTRY_BYTES


@dataclass(frozen=True, slots=True)
class Verified:
    """All is as it was written: entries number `first` to `last`, in so many files.

    `torn`: entries that a crash has cut short; `lost`: those that the disk did not take. `hash` is the last entry's.
    """

    first: int
    last: int
    files: int
    torn: int
    lost: int
    hash: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Where the log is not as it was written; `line` counts from 1 (0: the file as such)."""

    file: Path
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.file}{f' line {self.line}' if self.line else ''}: {self.problem}"


class _FaultError(Exception):
    def __init__(self, file: Path, line: int, problem: str) -> None:
        self.fault = Fault(file, line, problem)


def verify(folder: Path) -> Verified | Fault:
    """Read the whole log; the first fault, if there is one. A log of which there is nothing yet is right. Raises OSError."""
    with ExitStack() as stack:
        try:
            head, files = _opened(folder, stack)
            return _Check(folder, head).run(files)
        except FileNotFoundError:
            return Verified(0, 0, 0, 0, 0, EMPTY.hash)
        except _FaultError as error:
            return error.fault


def _opened(folder: Path, stack: ExitStack) -> tuple[Head | None, dict[int, tuple[BinaryIO, int]]]:
    """The head, and the files with their sizes, all of one moment."""
    paths = files_of(folder)
    with ExitStack() as held:
        head = None
        try:
            descriptor = os.open(folder / HEAD, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if not paths:
                raise
        else:
            held.callback(os.close, descriptor)
            lock(descriptor, _LOCK_S)
            head = read_head(descriptor)
        opened = {number: stack.enter_context(path.open("rb")) for number, path in files_of(folder).items()}
        sizes = {number: os.fstat(file.fileno()).st_size for number, file in opened.items()}
    return head, {number: (file, sizes[number]) for number, file in opened.items() if sizes[number]}


class _Check:
    """The state of one reading. `_fail` raises; the rest only goes on."""

    def __init__(self, folder: Path, head: Head | None) -> None:
        self._folder = folder
        self._head = head
        self._path = folder
        self._line = 0
        self._hash = EMPTY.hash
        self._seq = EMPTY.count
        self._first = 0
        self._oldest = 1
        self._torn_line: bytes | None = None
        self._torn = 0
        self._lost = 0

    def run(self, files: dict[int, tuple[BinaryIO, int]]) -> Verified:
        """Read them all."""
        for number, (file, size) in files.items():
            self._file(number, file, size, last=number == max(files))
        if files and min(files) > self._oldest:
            self._path, self._line = path_of(self._folder, min(files) - 1), 0
            self._fail("the file is missing")
        self._compare_with_head()
        return Verified(self._first, self._seq, len(files), self._torn, self._lost, self._hash)

    def _file(self, number: int, file: BinaryIO, size: int, *, last: bool) -> None:
        before = path_of(self._folder, number - 1)
        if self._line and self._path != before:
            self._path, self._line = before, 0
            self._fail("the file is missing")
        self._path, self._line = path_of(self._folder, number), 0
        for line in _lines(file, size):
            self._line += 1
            entry = read_entry(line[:-1]) if line.endswith(b"\n") else None
            if entry is None:
                self._no_entry(line)
            else:
                self._entry(number, entry)
        if self._torn_line is not None:
            if not last or self._torn_line.endswith(b"\n"):
                self._fail("it is no entry: the line was edited or added")
            self._torn += 1  # of a crash; the next entry will say so

    def _no_entry(self, line: bytes) -> None:
        if self._torn_line is not None:
            self._line -= 1
            self._fail("it is no entry: the line was edited or added")
        self._torn_line = line

    def _entry(self, number: int, entry: Entry) -> None:
        if self._torn_line is not None:
            self._told_torn(entry)
        if self._line == 1:
            self._begin(number, entry)
        if not entry.follows(self._hash):
            self._fail("it was edited, or stands where it was not written (its hash does not follow from the entry before)")
        if entry.event == BROKEN_EVENT:
            self._fail(f"when this entry was written, {entry.fields.get('problem')}")
        if entry.seq != self._seq + 1:
            self._fail(f"it is entry {entry.seq}, and {self._seq + 1} is due: entries were removed or moved")
        if entry.event == LOST_EVENT and isinstance(lost := entry.fields.get("entries"), int):
            self._lost += lost
        self._hash, self._seq = entry.hash, entry.seq
        self._first = self._first or entry.seq
        if self._head is not None and self._head.count == entry.seq and self._head.hash != entry.hash:
            self._fail(f"{HEAD} has another hash for this entry: either of them was edited")

    def _told_torn(self, entry: Entry) -> None:
        torn = (self._torn_line or b"").removesuffix(b"\n")
        told = (entry.fields.get("bytes"), entry.fields.get("sha256"))
        if entry.event != TORN_EVENT or told != (len(torn), hashlib.sha256(torn).hexdigest()):
            self._line -= 1
            self._fail("it is no entry: the line was edited or added")
        self._torn_line = None
        self._torn += 1

    def _begin(self, number: int, entry: Entry) -> None:
        """The first entry of a file says which one it is; that of the first one we have, also what came before."""
        match entry.fields:
            case {"event": event, "number": int(said), "oldest": int(oldest), "previous": str(previous)} if (
                event == FILE_EVENT and said == number
            ):
                self._oldest = oldest
                if not self._first and number > 1:
                    self._hash, self._seq = previous, entry.seq - 1
            case _:
                self._fail("it does not begin this file: lines were removed, or files exchanged")

    def _compare_with_head(self) -> None:
        head = self._head
        if head is None:
            if self._seq:
                self._path, self._line = self._folder / HEAD, 0
                self._fail("the file is missing or edited: nobody can say whether the log's end was cut off")
        elif self._seq < head.count:
            self._fail(
                f"the end was cut off after this line: {head.count} entries were written, {self._seq} are there"
                " (a power cut can do that with those of its last half minute)"
            )
        elif self._seq > head.count + 1:  # a crash leaves one entry that the head does not count yet
            self._path, self._line = self._folder / HEAD, 0
            self._fail(f"it counts {head.count} entries, and there are {self._seq}: it was put back")

    def _fail(self, problem: str) -> None:
        raise _FaultError(self._path, self._line, problem)


def _lines(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The lines of its first `size` bytes; one that is too long in pieces, which then are no entries."""
    while size > 0 and (line := file.readline(min(size, _MAX_LINE_BYTES))):
        size -= len(line)
        yield line
