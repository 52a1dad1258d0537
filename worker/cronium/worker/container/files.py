"""The files of a place as the follower sees them, whichever way leads to them.

Two ways: `HostFiles` (ours, bind-mounted into the container) and `EngineFiles` (on a volume, read through `exec`). Which one is
found out by `probe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from cronium.worker.executor import Gap, Log
from cronium.worker.results import Readable

STREAMS = ("stdout", "stderr")
WRITABLE = (*STREAMS, "events", "results", "state")
CREDIT = "credit"
READ_BYTES = 256 * 1024
# A place may hold as much as its bounds say, and this: what is reserved, what is not yet given back, a pump's last read.
SLACK_BYTES = 8 * 1024 * 1024
MAX_STATE_BYTES = 1024 * 1024


class Files(Protocol):
    """What a follower needs."""

    kind: str

    def descriptors(self) -> tuple[int, ...]:
        """Readable when something has changed; empty where one has to look."""

    def look_after_s(self) -> float:
        """How long one may wait at most before looking again."""

    def take(self, limit: int) -> Log | Gap | None:
        """The next piece of output of at most `limit` bytes, streams in the order in which they spoke; None: nothing now."""

    def news(self, name: str) -> bytes:
        """What has been added to `state` or `events` since the last time, up to their caps."""

    def give_back(self, durable: Mapping[str, int]) -> None:
        """Up to these offsets all is safe on our disk: tell the pumps, free the space."""

    def overfull(self) -> str | None:
        """What holds more than it may, in words; None when all is well."""

    def leave_out(self, stream: str) -> Gap | None:
        """After a flood: pass over what a stream still holds, if that is more than its bound."""

    @property
    def drained(self) -> bool:
        """After the container's end: whether `take` has brought what was on its way."""

    def fetch(self) -> None:
        """After the container's end: get what is left (blocks). Raises ExecutionError."""

    def results(self) -> Readable | None:
        """The tar of the output directory, to be read once; None when there is none."""

    def close(self) -> None:
        """Let go of everything; the place stays as it is."""
