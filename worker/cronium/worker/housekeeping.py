"""The reaper: what crashed workers left behind is found and removed by an idle one. Runs in a worker, between two jobs.

First everything is listed, then the supervisor is asked what of it is unknown; only that goes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import structlog

from cronium.common.errors import ExecutionError
from cronium.common.messages import Housekeep, HousekeepingDone, Message, PlacesSeen, PlacesUnknown, Said
from cronium.worker.executor import Executor
from cronium.worker.registry import Executors
from cronium.worker.sockets import Sockets

T = TypeVar("T")
_ANSWER_S = 10.0
_CALL_S = 60.0
_READY_S = 6 * 3600.0  # images may be pulled; each pull has its own bound
_log = structlog.get_logger()


class Housekeeping:
    """One round."""

    def __init__(self, worker: str, sockets: Sockets, executors: Executors) -> None:
        self._worker = worker
        self._sockets = sockets
        self._executors = executors
        self._unknown: frozenset[str] | None = None
        self._leaving = False

    def run(self, *, starting: bool, leaving: bool) -> None:
        """Look, ask, remove; what cannot be done now is left to the next round."""
        self._sockets.listener = self
        removed = 0
        seen = {place: executor for executor in self._executors.all() for place in self._tried(executor.places) or ()}
        if seen:
            self._sockets.tell_supervisor(PlacesSeen(self._worker, tuple(seen)))
            self._sockets.wait((), _ANSWER_S, lambda: self._unknown is not None)
            for place in sorted(self._unknown or ()):
                removed += self._remove(seen.get(place), place)
        if starting:
            for executor in self._executors.all():
                self._tried(partial(executor.make_ready, lambda: self._leaving), _READY_S)
        if leaving or self._leaving:
            for executor in self._executors.all():
                self._tried(executor.leave)
        if removed:
            _log.info("leftover places removed", count=removed)
        self._sockets.tell_supervisor(HousekeepingDone(self._worker, removed))

    def _remove(self, executor: Executor | None, place: str) -> bool:
        if executor is None:
            return False

        def clean() -> bool:
            executor.cleanup(place)
            return True

        return self._tried(clean) is True

    def _tried(self, function: Callable[[], T], timeout_s: float = _CALL_S) -> T | None:
        try:
            return self._sockets.call(function, timeout_s)
        except (ExecutionError, TimeoutError) as error:
            _log.warning("housekeeping could not be done", error=str(error))
            return None

    def on_supervisor(self, message: Message) -> None:
        """The answer; or the supervisor leaves while we make ready."""
        match message:
            case PlacesUnknown(places):
                self._unknown = frozenset(places)
            case Housekeep(leaving=True):
                self._leaving = True
            case _:
                pass

    def on_said(self, said: Said) -> None:
        """Of no concern here."""

    def on_new_streamer(self) -> None:
        """Of no concern here."""

    def on_time(self, now_s: float) -> float | None:  # noqa: ARG002 - the listener's signature
        """Nothing is due."""
        return None
