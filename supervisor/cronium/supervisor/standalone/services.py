"""What all requests share: settings, the database, the bells that wake who waits, the open sockets. Event loop only."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cronium.supervisor.standalone.database import Database
from cronium.supervisor.standalone.limits import RateLimits
from cronium.supervisor.standalone.settings import StandaloneSettings

QUEUE = "queue"  # the bell of the queue itself; each job's is its id


class Bells:
    """Wakes whoever waits for news of something. Listen first, look afterwards: then nothing is missed."""

    def __init__(self) -> None:
        self._listeners: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.stopping = False

    @contextmanager
    def listen(self, name: str) -> Iterator[asyncio.Event]:
        """An event that is set at each ring; clear it before looking."""
        event = asyncio.Event()
        self._listeners[name].add(event)
        try:
            yield event
        finally:
            self._listeners[name].discard(event)
            if not self._listeners[name]:
                del self._listeners[name]

    def ring(self, name: str) -> None:
        """There is news."""
        for event in self._listeners.get(name, ()):
            event.set()

    def stop(self) -> None:
        """The process ends: everybody who waits is to answer now."""
        self.stopping = True
        for name in list(self._listeners):
            self.ring(name)


@dataclass(slots=True)
class Services:
    """Everything a request may need."""

    settings: StandaloneSettings
    token: str
    database: Database
    limits: RateLimits
    bells: Bells = field(default_factory=Bells)
    sockets: defaultdict[str, set[Callable[[dict[str, Any]], None]]] = field(default_factory=lambda: defaultdict(set))

    def authentic(self, token: str | None) -> bool:
        """Whether that is the service token."""
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    def tell(self, orchestrator: str | None, frame: dict[str, Any]) -> None:
        """Send a frame on every open socket of an orchestrator."""
        for send in self.sockets.get(orchestrator or "", ()):
            send(frame)


def now_ms() -> int:
    """Unix milliseconds. Leases outlive the process, so they are kept by the wall clock."""
    return time.time_ns() // 1_000_000


async def wait(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, at most that long."""
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            await event.wait()
    except TimeoutError:
        pass
