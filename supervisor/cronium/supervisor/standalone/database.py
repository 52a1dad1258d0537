"""The one thread that owns the SQLite connection. Operations of all requests that wait are done in one commit (one fsync).

An operation is a function of the store. It runs in a savepoint: one that raises leaves nothing behind and harms no other in
the same commit. Its result is handed over only when the commit is done, so an answer never promises what a crash could undo.
When the disk is full, or a group fails for another reason of the database, each operation is tried once more by itself.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import structlog

from cronium.common.crypto import Seal
from cronium.supervisor.standalone.errors import ApiError
from cronium.supervisor.standalone.schema import connect
from cronium.supervisor.standalone.store import Store

_log = structlog.get_logger()
_MAX_GROUP = 256
_JOIN_TIMEOUT_S = 10.0

T = TypeVar("T")
Operation = Callable[[Store], Any]
_Outcome = tuple[asyncio.Future[Any], Any, BaseException | None]


class Database:
    """Runs operations for the event loop it was made in."""

    def __init__(self, path: Path, seal: Seal, *, durable: bool, max_bytes: int) -> None:
        self._sql = connect(path, durable=durable, max_bytes=max_bytes)
        self._store = Store(self._sql, seal)
        self._loop = asyncio.get_running_loop()
        self._waiting: SimpleQueue[tuple[Operation, asyncio.Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="database", daemon=True)
        self._thread.start()

    def submit(self, operation: Callable[[Store], T]) -> asyncio.Future[T]:
        """Have an operation done; operations are done in the order given.

        The future raises what the operation raised, or ApiError 503 (disk full), 500 (damaged database).
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.put((operation, future))
        return future

    def close(self) -> None:
        """Do what waits, and close the file. Blocks; nothing may be submitted afterwards."""
        self._waiting.put(None)
        self._thread.join(_JOIN_TIMEOUT_S)

    def _work(self) -> None:
        going_on = True
        while going_on:
            group = []
            item = self._waiting.get()
            while item is not None:
                group.append(item)
                if len(group) == _MAX_GROUP or self._waiting.empty():
                    break
                item = self._waiting.get()
            going_on = item is not None
            if group:
                outcomes = self._done(group)
                self._loop.call_soon_threadsafe(_hand_over, outcomes)
        self._sql.close()

    def _done(self, group: list[tuple[Operation, asyncio.Future[Any]]]) -> list[_Outcome]:
        try:
            return self._commit(group)
        except sqlite3.Error as error:
            self._roll_back()
            if len(group) > 1:
                return [outcome for item in group for outcome in self._done([item])]
            _log.error("the database refused an operation", error=str(error))
            return [(group[0][1], None, _as_api_error(error))]

    def _commit(self, group: list[tuple[Operation, asyncio.Future[Any]]]) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        self._sql.execute("BEGIN IMMEDIATE")
        for operation, future in group:
            if future.cancelled():  # whoever asked has gone
                continue
            self._sql.execute("SAVEPOINT one")
            try:
                outcomes.append((future, operation(self._store), None))
            except sqlite3.Error:
                raise
            except Exception as error:  # noqa: BLE001  # handed to whoever asked
                self._sql.execute("ROLLBACK TO one")
                outcomes.append((future, None, error))
            self._sql.execute("RELEASE one")
        self._sql.execute("COMMIT")
        return outcomes

    def _roll_back(self) -> None:
        if self._sql.in_transaction:
            self._sql.execute("ROLLBACK")


def _hand_over(outcomes: list[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():  # whoever asked has gone
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _as_api_error(error: sqlite3.Error) -> ApiError:
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return ApiError(
            503,
            "SERVICE_UNAVAILABLE",
            f"the queue cannot write its database ({error}): free space on its disk; nothing was changed, try again",
            headers={"Retry-After": "5"},
        )
    return ApiError(500, "DATABASE_ERROR", f"the queue's database failed: {error}; see the queue's log")
