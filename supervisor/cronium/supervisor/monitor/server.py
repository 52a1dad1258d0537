"""uvicorn for a few small pages: bounded in connections, and in the time that each may take.

Loaded late, only in the monitor. uvicorn has no limit for a client that connects and says nothing, or never reads its answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

_MOST = 32  # connections at once to one port
_LONGEST_S = 10.0  # from a connection's first moment to its last: an answer takes milliseconds
_ROUND_S = 5.0  # uvicorn's own round every 0.1 s would be a tenth of what all of us use when idle


class PageServer(uvicorn.Server):
    """Serves until its thread ends with the process."""

    def __init__(self, pages: Starlette) -> None:
        self._open: dict[Any, None] = {}  # connections, the oldest first
        super().__init__(
            uvicorn.Config(
                pages,
                http=self._connection,  # type: ignore[arg-type] # it is only ever called
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                backlog=_MOST,  # uvicorn's own limit is a 503, which here would say that the supervisor is not well
                timeout_keep_alive=1,
            )
        )

    async def main_loop(self) -> None:
        """Nothing is done in it: there is no date in the answers, and no limit to their number."""
        while not self.should_exit:
            await asyncio.sleep(_ROUND_S)

    def _connection(self, *arguments: Any, **named: Any) -> H11Protocol:
        return _Connection(self._open, *arguments, **named)


class _Connection(H11Protocol):
    """One client. Where there are too many, the oldest makes room: it has had the longest time."""

    def __init__(self, others: dict[_Connection, None], *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._others = others
        self._limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._limit = asyncio.get_running_loop().call_later(_LONGEST_S, transport.abort)
        if len(self._others) >= _MOST:
            oldest = next(iter(self._others))
            del self._others[oldest]
            oldest.transport.abort()
        self._others[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._limit is not None:
            self._limit.cancel()
        self._others.pop(self, None)
        super().connection_lost(exc)
