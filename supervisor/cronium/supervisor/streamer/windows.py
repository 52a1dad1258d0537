"""How much a job may still send: rate limits as token buckets, and the backlog. Pure; times come in.

A bucket may be in debt: what came is counted, whatever had been allowed. So limits hold in the long run, exactly, however
batches fall.
"""

from __future__ import annotations

from dataclasses import dataclass

UNLIMITED_LINES = 1 << 31


@dataclass(frozen=True, slots=True)
class Limits:
    """`max_backlog_bytes`: encoded bytes of a job that may wait for a backend that answers. Rates in lines a second, 0: none."""

    max_backlog_bytes: int
    lines_per_second: int = 0
    global_lines_per_second: int = 0


@dataclass(slots=True)
class Bucket:
    """Tokens for lines: filled at `rate` a second, up to one second's worth."""

    rate: int
    tokens: float
    filled_at_s: float

    @classmethod
    def full(cls, rate: int, now_s: float) -> Bucket:
        """A bucket that lets a second's worth through at once."""
        return cls(rate, float(rate), now_s)

    def take(self, lines: int, now_s: float) -> None:
        """Count lines that came."""
        if self.rate:
            self._fill(now_s)
            self.tokens -= lines

    def allows(self, now_s: float) -> int:
        """How many lines may come now."""
        if not self.rate:
            return UNLIMITED_LINES
        self._fill(now_s)
        return max(0, int(self.tokens))

    def _fill(self, now_s: float) -> None:
        self.tokens = min(float(self.rate), self.tokens + (now_s - self.filled_at_s) * self.rate)
        self.filled_at_s = now_s


def window_bytes(limits: Limits, *, waiting_bytes: int, held_bytes: int, free_bytes: int, writers: int, answers: bool) -> int:
    """How many encoded bytes a job may send.

    `waiting_bytes`: encoded bytes of it that are not acknowledged; `held_bytes`: what they take in the spool; `free_bytes`:
    what is free there; `writers`: jobs that write. A job's share is one of as many parts as there are writers and one more, so
    the loudest one leaves room for a newcomer.
    """
    share = (free_bytes + held_bytes) // (writers + 1) - held_bytes
    window = min(share, limits.max_backlog_bytes - waiting_bytes) if answers else share
    return max(0, min(window, free_bytes))
