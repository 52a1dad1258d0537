"""The thread of the monitor that serves its pages. It takes its ports when it can get them, and holds nobody up.

The monitor's own loop knows nothing of it but that it was started. What it needs is loaded some seconds after the start: until
then the supervisor and its workers have better use for the processor. A port that is taken is tried again every half minute.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
import time
from collections.abc import Sequence
from itertools import groupby

import structlog

from cronium.supervisor.monitor.latest import Latest
from cronium.supervisor.monitor.settings import Page

_AFTER_S = 3.0
_AGAIN_S = 30.0
_log = structlog.get_logger()


def start(host: str, pages: Sequence[Page], latest: Latest) -> None:
    """Start the thread; it ends with the process."""
    if pages:
        threading.Thread(target=_run, args=(host, pages, latest), name="pages", daemon=True).start()


def by_port(pages: Sequence[Page]) -> list[tuple[Page, ...]]:
    """Those of the same port together. With 0, any free one, each has its own."""
    together = [
        tuple(group) for port, group in groupby(sorted(pages, key=lambda page: page.port), lambda page: page.port) if port
    ]
    return [*together, *((page,) for page in pages if not page.port)]


def _run(host: str, pages: Sequence[Page], latest: Latest) -> None:
    time.sleep(_AFTER_S)
    try:
        asyncio.run(_serve(host, pages, latest))
    except Exception:  # noqa: BLE001 - the monitor has to go on watching, whatever became of its pages
        _log.exception("health and metrics are not served any more: restart the supervisor, and report this")


async def _serve(host: str, pages: Sequence[Page], latest: Latest) -> None:
    await asyncio.gather(*(_serve_port(host, group, latest) for group in by_port(pages)))


async def _serve_port(host: str, pages: tuple[Page, ...], latest: Latest) -> None:
    from cronium.supervisor.monitor.server import PageServer  # noqa: PLC0415 - loaded late, as this module says
    from cronium.supervisor.monitor.web import application  # noqa: PLC0415

    told = ""
    while True:
        try:
            listener = _listener(host, pages[0].port)
        except OSError as error:
            text = _advice(host, pages, error)
            if text != told:
                _log.warning(text, error=error.strerror or str(error))
            told = text
            await asyncio.sleep(_AGAIN_S)
            continue
        with listener:
            address = _shown(listener)
            _log.info("serving", **{page.name: f"http://{address}{page.path}" for page in pages})
            await PageServer(application(pages, latest)).serve(sockets=[listener])
        return


def _listener(host: str, port: int) -> socket.socket:
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    # Named, because asyncio turns Nagle off only where it sees the protocol.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def _advice(host: str, pages: tuple[Page, ...], error: OSError) -> str:
    what, port, keys = " and ".join(page.name for page in pages), pages[0].port, " and ".join(page.key for page in pages)
    again = f"it is tried again every {_AGAIN_S:.0f} s"
    match error.errno:
        case errno.EADDRINUSE:
            return f"{what} cannot be served, port {port} is taken: set {keys} to another one, 0 for any; {again}"
        case errno.EACCES:
            return f"{what} cannot be served, port {port} is not for user {os.geteuid()}: set {keys} to one from 1024 on; {again}"
        case _:
            return f"{what} cannot be served on {host}, port {port}: see monitoring.host and {keys}; {again}"


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
