"""From bytes of a place's files to numbered log entries, encoded for the backend. Pure: bytes and times in, batches out.

Runs in the worker. Rules it keeps:
- a line ends at `\\n`; a piece of one that is too long, or that stays unfinished, is an entry marked `continued`;
- bytes that are no UTF-8 become U+FFFD; a character is never cut in two by us;
- a position covers exactly what was numbered: what is held back (an unfinished line) is read again by whoever takes over.
"""

from __future__ import annotations

import math
import zlib
from collections import deque
from dataclasses import dataclass, field, replace

import orjson

from cronium.common.messages import FileMark, Position, StreamTotals

MAX_ENTRY_BYTES = 16 * 1024  # a longer line goes in pieces of this size
MAX_BATCH_BYTES = 256 * 1024  # of encoded entries; more only where JSON must escape what the script printed
_ENTRY_BYTES = 90  # of an encoded entry beside its line, the job's id and the server's name: short lines grow a hundredfold
SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """A JSON array of `lines` consecutive entries from `first_sequence` on; `after` is the position behind them."""

    first_sequence: int
    lines: int
    payload: bytes
    after: Position


@dataclass(slots=True)
class _Tail:
    """The unfinished end of one file: bytes not yet numbered, since when (monotonic), and whether its start was sent."""

    place: str
    stream: str
    offset: int = 0
    held: bytes = b""
    since_s: float = 0.0
    inside: bool = False


@dataclass(slots=True)
class LineEncoder:
    """Numbers the lines of one job, from a position on, and encodes them.

    `server_of` names the server that the lines of a place are labelled with (jobs on several servers); empty otherwise.
    """

    job_id: str
    position: Position
    server_of: dict[str, str] = field(default_factory=dict)
    _tails: dict[tuple[str, str], _Tail] = field(default_factory=dict)
    _ready: deque[EncodedBatch] = field(default_factory=deque)
    _parts: list[bytes] = field(default_factory=list)
    _parts_bytes: int = 0
    _parts_first: int = 0

    def feed(self, place: str, stream: str, data: bytes, offset: int, now_s: float, now_ms: int) -> None:
        """Take bytes of a file; `offset` is behind them. Times: monotonic seconds, Unix ms."""
        tail = self._tail(place, stream)
        if not tail.held or tail.since_s == math.inf:
            tail.since_s = now_s
        data = tail.held + data
        tail.offset = offset
        begin, start = offset - len(data), 0
        while start < len(data):
            stop = data.rfind(b"\n", start, start + MAX_ENTRY_BYTES) + 1
            if stop:
                self._add_lines(tail, data[start:stop], begin + start, now_ms)
            elif len(data) - start > MAX_ENTRY_BYTES:
                stop = _whole_characters(data, start, start + MAX_ENTRY_BYTES)
                self._add_piece(tail, data[start:stop], begin + stop, now_ms)
            else:
                break
            start, tail.since_s = stop, now_s
        tail.held = data[start:]

    def flush_unfinished(self, older_than_s: float, now_ms: int) -> None:
        """Number what has been held back since before `older_than_s` (monotonic): a prompt, a progress bar."""
        for tail in self._tails.values():
            if tail.held and tail.since_s <= older_than_s:
                stop = _whole_characters(tail.held, 0, len(tail.held))
                if stop:
                    held, tail.held = tail.held, tail.held[stop:]
                    self._add_piece(tail, held[:stop], tail.offset - len(held) + stop, now_ms)
                tail.since_s = math.inf  # what is left is half a character: wait for the rest of it

    def unfinished_since(self) -> float | None:
        """Since when (monotonic) the oldest unfinished line is held back; None if there is none."""
        return min((tail.since_s for tail in self._tails.values() if tail.held and tail.since_s < math.inf), default=None)

    def finish(self, place: str, stream: str, now_ms: int) -> None:
        """The file has ended: its last line, if it has no newline, ends here."""
        tail = self._tail(place, stream)
        if tail.held or tail.inside:
            text = tail.held.decode("utf-8", "replace")
            tail.held, tail.inside = b"", False
            self._emit(tail, [text], (text + "\n").encode(), tail.offset, now_ms, ends=1)

    def skip(self, place: str, stream: str, offset: int, now_ms: int) -> None:
        """Go on at `offset` without numbering what lies before it (told by a `system` line). What was begun ends here."""
        self.finish(place, stream, now_ms)
        tail = self._tail(place, stream)
        tail.offset = offset
        self._mark(tail, offset)

    def system(self, text: str, now_ms: int, place: str = "") -> None:
        """Number one line of our own about the job, or about what it does in one of its places."""
        tail = _Tail(place, SYSTEM)
        self._emit(tail, [text], b"", 0, now_ms, ends=0)

    def pending_bytes(self) -> int:
        """How much is encoded and not yet taken."""
        return self._parts_bytes + sum(len(batch.payload) for batch in self._ready)

    def pending_lines(self) -> int:
        """How many entries are encoded and not yet taken."""
        return self.position.next_sequence - (self._ready[0].first_sequence if self._ready else self._first())

    def take(self) -> EncodedBatch | None:
        """The next batch: a full one, or all that is there; None when there is nothing."""
        if not self._ready:
            self._close_batch()
        return self._ready.popleft() if self._ready else None

    # --- inside ------------------------------------------------------------------------------------------------------

    def _first(self) -> int:
        return self._parts_first if self._parts else self.position.next_sequence

    def _tail(self, place: str, stream: str) -> _Tail:
        tail = self._tails.get((place, stream))
        if tail is None:
            mark = self.position.mark(place, stream)
            tail = self._tails[place, stream] = _Tail(place, stream, mark.offset, inside=mark.inside)
        return tail

    def _add_lines(self, tail: _Tail, raw: bytes, begin: int, now_ms: int) -> None:
        """Number whole lines; `begin` is where they stand in the file."""
        entry_bytes = _ENTRY_BYTES + len(self.job_id.encode()) + len(self.server_of.get(tail.place, "").encode())
        most = (MAX_BATCH_BYTES - MAX_ENTRY_BYTES) // entry_bytes  # encoded in one go
        if raw.count(b"\n") > most:
            lines = raw.split(b"\n")
            for first in range(0, len(lines) - 1, most):
                some = b"\n".join(lines[first : min(first + most, len(lines) - 1)]) + b"\n"
                self._add_lines(tail, some, begin, now_ms)
                begin += len(some)
            return
        behind = begin + len(raw)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            text = raw.decode("utf-8", "replace")
            raw = text.encode()
        texts = text.split("\n")
        texts.pop()
        self._emit(tail, texts, raw, behind, now_ms, ends=len(texts))

    def _add_piece(self, tail: _Tail, raw: bytes, offset: int, now_ms: int) -> None:
        text = raw.decode("utf-8", "replace")
        self._emit(tail, [text], text.encode(), offset, now_ms, ends=0)

    def _emit(self, tail: _Tail, lines: list[str], sent: bytes, offset: int, now_ms: int, *, ends: int) -> None:
        """Number and encode entries of one stream; `sent` is what counts in the totals, `ends` how many lines end here."""
        before = self.position
        first = before.next_sequence
        job_id, stream = self.job_id, tail.stream
        entries: list[dict[str, object]] = [  # written out: a third quicker than copies of what all have in common
            {"jobId": job_id, "stream": stream, "line": line, "timestamp": now_ms, "sequence": number}
            for number, line in enumerate(lines, first)
        ]
        if server := self.server_of.get(tail.place):
            for entry in entries:
                entry["server"] = server
        if not ends and stream != SYSTEM:
            entries[0]["continued"] = True
        encoded = orjson.dumps(entries)[1:-1]
        if self._parts and self._parts_bytes + len(encoded) + 2 > MAX_BATCH_BYTES:
            self._close_batch()
        if not self._parts:
            self._parts_first = first
        self._parts.append(encoded)
        self._parts_bytes += len(encoded) + 1
        self.position = replace(before, next_sequence=first + len(lines))
        if tail.stream != SYSTEM:
            tail.inside = not ends
            self._count(tail.stream, sent, ends)
            self._mark(tail, offset)

    def _close_batch(self) -> None:
        if self._parts:
            lines = self.position.next_sequence - self._parts_first
            payload = b"[" + b",".join(self._parts) + b"]"
            self._ready.append(EncodedBatch(self._parts_first, lines, payload, self.position))
            self._parts, self._parts_bytes = [], 0

    def _count(self, stream: str, sent: bytes, ends: int) -> None:
        old = self.position.stdout if stream == "stdout" else self.position.stderr
        new = StreamTotals(old.lines + ends, old.bytes + len(sent), zlib.crc32(sent, old.crc32))
        self.position = replace(self.position, stdout=new) if stream == "stdout" else replace(self.position, stderr=new)

    def _mark(self, tail: _Tail, offset: int) -> None:
        others = tuple(m for m in self.position.files if (m.place, m.stream) != (tail.place, tail.stream))
        mark = FileMark(tail.place, tail.stream, offset, tail.inside)
        self.position = replace(self.position, files=(*others, mark))


def _whole_characters(data: bytes, start: int, stop: int) -> int:
    """The largest end up to `stop` that cuts no UTF-8 character in two (RFC 3629: at most four bytes each)."""
    for back in range(1, min(4, stop - start + 1)):
        byte = data[stop - back]
        if byte & 0xC0 == 0x80:
            continue
        needs = 2 if byte >> 5 == 0b110 else 3 if byte >> 4 == 0b1110 else 4 if byte >> 3 == 0b11110 else 1
        return stop - back if needs > back else stop
    return stop
