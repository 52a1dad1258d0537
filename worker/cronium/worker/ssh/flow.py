"""What the pumps of a place are told of its output: how much of it is safe, and where to read on.

Pure. A pump goes on in a new segment only when credit says the very end of the full one, so that is said at once; elsewhere a
few words a second are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cronium.worker.launcher import READ_BYTES
from cronium.worker.ssh.commands import Words

STREAMS: Final = ("stdout", "stderr")
_CREDIT_S: Final = 0.2
_CREDIT_PARTS: Final = 8  # of the most unread: what grows by one of them is said at once
_MOST_SEGMENTS: Final = 1000  # `state` is open to the script, too


class Flow:
    """Of one place, over all sessions with it."""

    def __init__(self, max_unread_bytes: int) -> None:
        self._max_unread_bytes = max_unread_bytes
        self._said = dict.fromkeys(STREAMS, 0)
        self._said_s = 0.0
        self._base = dict.fromkeys(STREAMS, 0)
        self._segments: dict[str, set[int]] = {name: set() for name in STREAMS}

    def anew(self) -> None:
        """A session has ended: what was on its way may be lost, and the next one hears everything again."""
        self._said = dict.fromkeys(STREAMS, 0)
        for segments in self._segments.values():
            segments.clear()

    def segment(self, stream: str, offset: int) -> None:
        """The place says that a stream goes on in a file that begins there."""
        if len(self._segments[stream]) < _MOST_SEGMENTS:
            self._segments[stream].add(offset)

    def words(self, read: Mapping[str, int], durable: Mapping[str, int], now_s: float) -> list[bytes]:
        """What is to be said now. `read`, `durable`: up to which offset; times are monotonic."""
        words = []
        grown = max(durable[name] - self._said[name] for name in STREAMS)
        due = grown >= self._max_unread_bytes // _CREDIT_PARTS or now_s >= self._said_s + _CREDIT_S
        if grown > 0 and (due or any(self._waits(name, read[name], durable[name]) for name in STREAMS)):
            self._said, self._said_s = dict(durable), now_s
            words.append(Words.credit(durable["stdout"], durable["stderr"]))
        for name, segments in self._segments.items():
            for offset in sorted(offset for offset in segments if offset <= read[name]):
                segments.discard(offset)
                self._base[name] = max(self._base[name], offset)
                if offset == read[name]:
                    words.append(Words.next(name, offset))
        return words

    def _waits(self, name: str, read: int, durable: int) -> bool:
        """Whether its pump may wait for these last bytes to be safe (no whole read fits into its segment any more)."""
        return self._said[name] < durable == read and read - self._base[name] > self._max_unread_bytes - READ_BYTES
