"""The last text of each stream of a job, for `complete` and for backends that want text instead of lines. Pure.

Batches are kept as they came, compressed; only when one falls out that still holds text which its stream needs (the other one
floods) it is decoded. Bounded for a job: `LIMIT_BYTES` of text for each stream, a few MiB of undecoded batches.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import orjson
import structlog

from cronium.common.messages import Batch, Position, StreamTotals
from cronium.supervisor.streamer.frames import DamagedError, entries_of

LIMIT_BYTES = 1024 * 1024  # PROTOCOL.md: `complete` carries the last 1 MiB of each stream
_MOST_KEPT = 256  # batches not decoded; more of them are small ones
_MOST_KEPT_BYTES = 4 * 1024 * 1024  # enough for the limit of both streams at usual line lengths, were nothing compressed
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Kept:
    """A batch, and how many bytes of text each stream has in it."""

    batch: Batch
    stdout_bytes: int
    stderr_bytes: int


@dataclass(slots=True)
class Text:
    """The end of one stream's text, as far as it was decoded."""

    parts: deque[bytes] = field(default_factory=deque)
    length: int = 0

    def append(self, part: bytes) -> None:
        """Add text at the end; what is more than the limit falls out at the beginning."""
        if not part:
            return
        self.parts.append(part)
        self.length += len(part)
        while self.length - len(self.parts[0]) >= LIMIT_BYTES:
            self.length -= len(self.parts.popleft())
        if len(self.parts) > _MOST_KEPT:
            self.parts = deque([b"".join(self.parts)])

    def clear(self) -> None:
        """Forget it."""
        self.parts.clear()
        self.length = 0


class Tail:
    """The tails of one job in one epoch."""

    def __init__(self, stdout: bytes = b"", stderr: bytes = b"") -> None:
        self._kept: deque[_Kept] = deque()
        self._payload_bytes = self._stdout_bytes = self._stderr_bytes = 0
        self._stdout, self._stderr = Text(), Text()
        self._stdout.append(stdout)
        self._stderr.append(stderr)

    def push(self, batch: Batch, before: Position) -> None:
        """One more batch; `before` is the position it followed."""
        out, err = batch.after.stdout.bytes - before.stdout.bytes, batch.after.stderr.bytes - before.stderr.bytes
        if not out and not err:
            return
        self._kept.append(_Kept(batch, out, err))
        self._count(batch, out, err)
        if self._stdout_bytes >= LIMIT_BYTES:
            self._stdout.clear()
        if self._stderr_bytes >= LIMIT_BYTES:
            self._stderr.clear()
        self._drop_needless()
        if len(self._kept) > _MOST_KEPT or self._payload_bytes > _MOST_KEPT_BYTES or self._one_floods():
            while len(self._kept) > _MOST_KEPT // 2 or self._payload_bytes > _MOST_KEPT_BYTES // 2 or self._one_floods():
                self._decode_oldest()
                self._drop_needless()

    def texts(self) -> tuple[bytes, bytes]:
        """The end of stdout and stderr, UTF-8 and whole characters, at most `LIMIT_BYTES` each."""
        stdout, stderr = [*self._stdout.parts], [*self._stderr.parts]
        for kept in self._kept:
            out, err = _decoded(kept.batch)
            stdout.append(out)
            stderr.append(err)
        return _end_of(b"".join(stdout)), _end_of(b"".join(stderr))

    def _drop_needless(self) -> None:
        """Drop the oldest batches as far as no stream needs them."""
        while self._kept:
            out, err = self._kept[0].stdout_bytes, self._kept[0].stderr_bytes
            if (out and self._stdout_bytes - out < LIMIT_BYTES) or (err and self._stderr_bytes - err < LIMIT_BYTES):
                return
            self._take_oldest()

    def _one_floods(self) -> bool:
        """Whether the oldest batch holds text that its stream no longer needs; that of the other one is kept decoded."""
        if not self._kept:
            return False
        oldest = self._kept[0]
        return (oldest.stdout_bytes > 0 and self._stdout_bytes - oldest.stdout_bytes >= LIMIT_BYTES) or (
            oldest.stderr_bytes > 0 and self._stderr_bytes - oldest.stderr_bytes >= LIMIT_BYTES
        )

    def _decode_oldest(self) -> None:
        kept = self._take_oldest()
        out, err = _decoded(kept.batch)
        if self._stdout_bytes < LIMIT_BYTES:
            self._stdout.append(out)
        if self._stderr_bytes < LIMIT_BYTES:
            self._stderr.append(err)

    def _take_oldest(self) -> _Kept:
        kept = self._kept.popleft()
        self._count(kept.batch, kept.stdout_bytes, kept.stderr_bytes, sign=-1)
        return kept

    def _count(self, batch: Batch, stdout_bytes: int, stderr_bytes: int, sign: int = 1) -> None:
        self._payload_bytes += sign * len(batch.payload)
        self._stdout_bytes += sign * stdout_bytes
        self._stderr_bytes += sign * stderr_bytes


def is_truncated(position: Position, stdout: bytes, stderr: bytes) -> bool:
    """Whether the streams had more text than these tails."""
    return _more(position.stdout, stdout) or _more(position.stderr, stderr)


def _more(totals: StreamTotals, tail: bytes) -> bool:
    return totals.bytes > len(tail)


def _decoded(batch: Batch) -> tuple[bytes, bytes]:
    """The text of stdout and of stderr in a batch; a line that goes on in the next entry has no newline yet."""
    stdout: list[str] = []
    stderr: list[str] = []
    try:
        for entry in orjson.loads(entries_of(batch)):
            if entry["stream"] == "system":
                continue
            to = stdout if entry["stream"] == "stdout" else stderr
            to.append(entry["line"] if entry.get("continued") else entry["line"] + "\n")
    except (DamagedError, ValueError, KeyError, TypeError) as error:
        _log.warning("lines cannot be read for the tail", job_id=batch.job_id, error=str(error))
    return "".join(stdout).encode(), "".join(stderr).encode()


def _end_of(text: bytes) -> bytes:
    if len(text) <= LIMIT_BYTES:
        return text
    start = len(text) - LIMIT_BYTES
    while start < len(text) and text[start] & 0xC0 == 0x80:  # not in the middle of a character
        start += 1
    return text[start:]
