"""The form of the audit log: an entry as a line, the rule of the chain, the head, the files' names.

Used by whoever appends and by the check, so that both mean the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

MAX_ENTRY_BYTES: Final = 32 * 1024
FIRST_HASH: Final = "0" * 64
"""What stands for the hash before the first entry."""
FILE_EVENT: Final = "audit.file"
"""The first entry of each file: its `number`, the number of the `oldest` file that is kept, the `previous` entry's hash."""
TORN_EVENT: Final = "audit.torn"
"""The line before it is what a crash left of an entry: so many `bytes`, with that `sha256`."""
BROKEN_EVENT: Final = "audit.broken"
"""The log did not end as the head says: the `problem`."""
LOST_EVENT: Final = "audit.lost"
"""So many `entries` could not be written before this one."""
HEAD: Final = "head"

_HEAD_BYTES: Final = 256
_CUT_TEXTS_AT_CHARS: Final = 1000
_SEALED: Final = re.compile(rb'(.*),"hash":"([0-9a-f]{64})"}', re.DOTALL)
_NUMBERED: Final = re.compile(r"audit-(\d{6,})\.jsonl")


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log ends: entries ever written, the last one's hash, its file's number, that file's size in bytes."""

    count: int
    hash: str
    file: int
    size: int

    def packed(self) -> bytes:
        """Always of one length, so that it is rewritten in place by one write."""
        return f"{json.dumps([self.count, self.hash, self.file, self.size]):<{_HEAD_BYTES - 1}}\n".encode("ascii")


EMPTY: Final = Head(0, FIRST_HASH, 0, 0)


@dataclass(frozen=True, slots=True)
class Entry:
    """A line as it was read. `body` is what its hash is over, together with the hash before."""

    seq: int
    event: str
    fields: Mapping[str, object]
    body: bytes
    hash: str

    def follows(self, previous: str) -> bool:
        """Whether its hash is right after `previous`."""
        return _hash(previous, self.body) == self.hash


def sealed(previous: str, seq: int, event: str, fields: Mapping[str, object]) -> tuple[bytes, str]:
    """An entry as a line, and its hash. `fields` are what JSON can hold; of an entry that is too long, its texts are cut."""
    body = _body(seq, event, fields)
    if len(body) > MAX_ENTRY_BYTES:
        short = {name: _cut(value) for name, value in fields.items()}
        body = _body(seq, event, short)
    if len(body) > MAX_ENTRY_BYTES:
        body = _body(seq, event, {"omitted_bytes": len(body)})
    digest = _hash(previous, body)
    return body + f',"hash":"{digest}"}}\n'.encode("ascii"), digest


def read_entry(line: bytes) -> Entry | None:
    """A line without its newline; None when it is no entry."""
    match = _SEALED.fullmatch(line)
    if match is None:
        return None
    try:
        fields = orjson.loads(match[1] + b"}")
    except orjson.JSONDecodeError:
        return None
    match fields:
        case {"seq": int(seq), "event": str(event)}:
            return Entry(seq, event, fields, match[1], match[2].decode("ascii"))
        case _:
            return None


def read_head(descriptor: int) -> Head | None:
    """The head; None when it is empty or none of ours. Raises OSError."""
    try:
        match json.loads(os.pread(descriptor, _HEAD_BYTES, 0)):
            case [int(count), str(digest), int(file), int(size)]:
                return Head(count, digest, file, size)
            case _:
                return None
    except ValueError:
        return None


def files_of(folder: Path) -> dict[int, Path]:
    """The log's files by their number, in order. Raises OSError."""
    found = ((_NUMBERED.fullmatch(path.name), path) for path in folder.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def path_of(folder: Path, number: int) -> Path:
    """Where the file of a number is."""
    return folder / f"audit-{number:06}.jsonl"


def _hash(previous: str, body: bytes) -> str:
    return hashlib.sha256(previous.encode("ascii") + body).hexdigest()


def _body(seq: int, event: str, fields: Mapping[str, object]) -> bytes:
    """The line up to its hash. Ours come first, for whoever reads the file."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    own = {"seq": seq, "time": time, "event": event}
    entry = own | {name: value for name, value in fields.items() if name not in (*own, "hash")}
    try:
        return orjson.dumps(entry)[:-1]
    except orjson.JSONEncodeError:  # a text with half a surrogate in it
        return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")[:-1]


def _cut(value: object) -> object:
    if isinstance(value, dict | list):
        return "…"
    return f"{value[:_CUT_TEXTS_AT_CHARS]}…" if isinstance(value, str) and len(value) > _CUT_TEXTS_AT_CHARS else value
