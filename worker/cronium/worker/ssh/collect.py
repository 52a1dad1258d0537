"""Getting what a job left in its output directory, once all else is here: an errand, tried again as is right.

Runs in a worker; `fetch` does the work in a helper thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import IO, Final

import structlog

from cronium.common.errors import ExecutionError, Reason
from cronium.common.servers import Server
from cronium.worker.errand import Errand
from cronium.worker.executor import Control, Told
from cronium.worker.ssh.commands import RemotePlace
from cronium.worker.ssh.connection import Connection
from cronium.worker.ssh.fetch import fetch_results
from cronium.worker.ssh.settings import Settings
from cronium.worker.ssh.verdicts import unreachable

_FULL_PAUSE_S: Final = 2.0
_FETCH_S: Final = 600.0
_FETCHES: Final = 5
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Collected:
    """What came of it: the archive, if there is one, and why there is none where there should be."""

    archive: IO[bytes] | None = None
    problem: str = ""


class Collector:
    """Of one place. `audit` takes an event's fields."""

    def __init__(
        self, server: Server, place: RemotePlace, label: str, control: Control, settings: Settings, audit: Callable[..., None]
    ) -> None:
        self._server, self._place, self._label = server, place, label
        self._control, self._settings, self._audit = control, settings, audit
        self._errand: Errand[IO[bytes] | None] = Errand(lambda archive: archive and archive.close())
        self._enough = threading.Event()  # for the one who fetches
        self._cancels: int | None = None  # how often its end had been asked for when there was nothing but files to fetch
        self._tries = 0
        self._again_s = 0.0
        self._told_full = False

    @property
    def descriptor(self) -> int:
        """Readable when it is back."""
        return self._errand.descriptor

    def stop(self) -> None:
        """Nobody wants it any more."""
        self._enough.set()

    def close(self) -> None:
        """Let go of everything."""
        self.stop()
        self._errand.close()

    def step(
        self, connection: Connection | None, size_bytes: int, now_s: float
    ) -> Generator[Told, None, Collected | ExecutionError | None]:
        """What came of it; an error where the way there is lost: come back, and step again; None while it is on its way."""
        if self._cancels is None:
            self._cancels = self._control.cancelled()
        if (back := self._errand.take()) is not None:
            return (yield from self._fetched(*back, size_bytes, now_s))
        if self._control.cancelled() > self._cancels:
            return Collected(problem="the output files were not fetched, as the job was cancelled")
        if connection is None or not connection.alive:
            return unreachable(self._server, "the connection has ended")
        if not self._errand.out and now_s >= self._again_s:
            self._tries += 1
            place, most, scratch = self._place, self._settings.max_results_bytes + 1024, self._settings.scratch
            enough = self._enough.is_set
            self._errand.send(lambda: fetch_results(connection, place, size_bytes, most, scratch, _FETCH_S, enough))
        return None

    def _fetched(
        self, archive: IO[bytes] | None, error: ExecutionError | None, size_bytes: int, now_s: float
    ) -> Generator[Told, None, Collected | ExecutionError | None]:
        if error is None:
            self._audit("ssh.download", bytes=size_bytes, result="fetched" if archive is not None else "gone")
            return Collected(archive, "" if archive is not None else "the output files were not there any more")
        self._audit("ssh.download", result="failed", error=error.message)
        if error.reason is Reason.DISK_FULL and self._control.cancelled() < 2:  # ours: what is there is not given up for that
            self._tries -= 1
            self._again_s = now_s + _FULL_PAUSE_S
            if not self._told_full:
                self._told_full = True
                _log.warning("the output files wait", place=self._place.name, error=error.message)
                yield Told(f"the output files wait on {self._server.name}: {error.message}", self._label)
            return None
        if error.reason is Reason.INTERNAL or self._tries >= _FETCHES:
            return Collected(problem=f"the output files could not be fetched: {error.message}")
        return error
