"""A job's two streams on their way to file descriptors of this process, byte for byte and in the order they were read.

Used where a job runs in front of a person (`here`). It never waits: what a slow reader does not take is kept, up to a bound, and
whoever fills it asks for room first.
"""

from __future__ import annotations

import os
import select
import stat
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cronium.worker.executor import Log

_LIMIT_BYTES = 256 * 1024
# A pipe that poll calls writable takes so much without blocking: PIPE_BUF, pipe(7).
_PIECE_BYTES = 4096


@dataclass(slots=True)
class _Waiting:
    place: str
    stream: str
    data: memoryview
    offset: int


class Pipes:
    """`descriptors` by stream. `before(stream, data)` is called before anything is written.

    What is written counts as durable; so does what nobody can read any more.
    """

    def __init__(self, descriptors: Mapping[str, int], before: Callable[[str, bytes], None]) -> None:
        self._descriptors = descriptors
        self._before = before
        self._piece = {stream: _piece_bytes(descriptor) for stream, descriptor in descriptors.items()}
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._durable: dict[tuple[str, str], int] = {}
        self.broken: tuple[str, OSError] | None = None

    def put(self, log: Log) -> None:
        """Take a piece of output, and write what can be written."""
        self._waiting.append(_Waiting(log.place, log.stream, memoryview(log.data), log.offset))
        self._bytes += len(log.data)
        self.write()

    def skip(self, stream: str, offset: int, place: str = "") -> None:
        """The stream goes on at `offset`."""
        self._waiting.append(_Waiting(place, stream, memoryview(b""), offset))
        self.write()

    def room(self) -> int:
        """How many bytes may be put now."""
        return max(0, _LIMIT_BYTES - self._bytes)

    def durable(self, stream: str, place: str = "") -> int:
        """Up to which offset all is written."""
        return self._durable.get((place, stream), 0)

    def blocked(self) -> int | None:
        """The descriptor that must become writable before anything can go on."""
        return self._descriptors[self._waiting[0].stream] if self._waiting else None

    def write(self) -> None:
        """As much as can be written now; nothing any more once the reader of a stream has gone (`broken`)."""
        while self._waiting:
            first = self._waiting[0]
            if first.data and self.broken is None:
                try:
                    if not self._write(first):
                        return
                except OSError as error:
                    self.broken = (first.stream, error)
                    continue
                if first.data:
                    continue
            self._durable[first.place, first.stream] = first.offset
            self._bytes -= len(first.data)
            self._waiting.popleft()

    def drop(self) -> None:
        """Give up what is still waiting."""
        for one in self._waiting:
            self._durable[one.place, one.stream] = one.offset
        self._waiting.clear()
        self._bytes = 0

    def _write(self, first: _Waiting) -> bool:
        descriptor = self._descriptors[first.stream]
        poller = select.poll()
        poller.register(descriptor, select.POLLOUT)
        if not poller.poll(0):
            return False
        piece = first.data[: self._piece[first.stream]]
        self._before(first.stream, bytes(piece[-1:]))
        written = os.write(descriptor, piece)
        first.data = first.data[written:]
        self._bytes -= written
        return True


def _piece_bytes(descriptor: int) -> int:
    """How much may be written at once. Only a plain file takes any amount without waiting for a reader."""
    return _LIMIT_BYTES if stat.S_ISREG(os.fstat(descriptor).st_mode) else _PIECE_BYTES
