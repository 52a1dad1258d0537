"""The process role: binds the port, opens the database, serves until SIGTERM. One process, one event loop, one database thread.

It says that it is ready with one JSON line on the descriptor it was given: `{"ready", "pid", "host", "port", "apiUrl",
"wsUrl", "clientUrl"}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import orjson
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from cronium.common.crypto import load_seal
from cronium.common.errors import CroniumError
from cronium.supervisor.standalone import api, client_api, openapi
from cronium.supervisor.standalone.database import Database
from cronium.supervisor.standalone.limits import RateLimits
from cronium.supervisor.standalone.log_socket import serve as serve_socket
from cronium.supervisor.standalone.maintenance import keep_time
from cronium.supervisor.standalone.operations import Answer
from cronium.supervisor.standalone.route import Call, Route, unknown_route
from cronium.supervisor.standalone.services import Services
from cronium.supervisor.standalone.settings import StandaloneSettings

_log = structlog.get_logger()
_GRACE_S = 1  # whole seconds, as uvicorn wants it
_KEEP_ALIVE_S = 75  # longer than any pause between polls, so that a supervisor keeps its connections
_MAX_CONNECTIONS = 1000
SOCKET_PATH = "/api/socket"


class StartError(CroniumError):
    """The queue cannot be started; the text says what to do."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are ours: `run` handles them."""
        yield


async def run(settings: StandaloneSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartError, SettingsError and other CroniumErrors when it cannot start."""
    settings.database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(settings.database), _listening(settings) as listener:
        token = load_token(settings.token_file)
        seal = load_seal(settings.database.parent, os.environ)
        database = Database(settings.database, seal, durable=settings.durable, max_bytes=settings.max_database_bytes)
        try:
            services = Services(settings, token, database, RateLimits(settings.rate_factor))
            await _serve(services, listener)
        finally:
            await asyncio.to_thread(database.close)


def application(services: Services) -> Starlette:
    """All routes, as an ASGI application."""
    routes = (*api.ROUTES, *client_api.ROUTES)
    described = openapi.document(routes, metadata.version("cronium-supervisor"))

    async def describe(_: Call) -> Answer | Response:
        return Answer(200, described)

    async def sockets(websocket: WebSocket) -> None:
        await serve_socket(websocket, services)

    mounted: list[BaseRoute] = [route.mounted(services) for route in routes]
    mounted.append(Route("GET", "/openapi.json", describe, "This document", public=True).mounted(services))
    mounted.append(WebSocketRoute(SOCKET_PATH, sockets))
    return Starlette(routes=mounted, exception_handlers={404: unknown_route, 405: unknown_route})


def load_token(path: Path) -> str:
    """The service token, made at first use. Raises StartError when others can read it or it is empty."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    if path.stat().st_mode & 0o077:
        raise StartError(f"the token file {path} can be read by others: run 'chmod 600 {path}'")
    token = path.read_text(encoding="utf-8").strip()
    if not token:
        raise StartError(f"the token file {path} is empty: remove it, and a new one is made at the next start")
    return token


async def _serve(services: Services, listener: socket.socket) -> None:
    settings = services.settings
    server = _Server(
        uvicorn.Config(
            application(services),
            http="auto",
            ws="websockets-sansio",
            ws_max_size=settings.max_frame_bytes,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )

    def stop() -> None:
        services.bells.stop()
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    async with _running(keep_time(services)):
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.002)
        if not serving.done():
            _say_ready(settings, listener)
        await serving


@contextlib.asynccontextmanager
async def _running(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    task.add_done_callback(_log_failure)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("the queue's timekeeper failed; restart the queue", exc_info=error)


def _say_ready(settings: StandaloneSettings, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    line = {
        "ready": True,
        "pid": os.getpid(),
        "host": host,
        "port": port,
        "apiUrl": f"http://{shown}{api.BASE}",
        "wsUrl": f"ws://{shown}{SOCKET_PATH}",
        "clientUrl": f"http://{shown}",
    }
    try:
        os.write(settings.ready_fd, orjson.dumps(line) + b"\n")
    except OSError as error:
        _log.warning("nobody heard that the queue is ready", error=str(error))


@contextlib.contextmanager
def _only_one(database: Path) -> Iterator[None]:
    """Hold the lock of a database. Raises StartError when another process has it."""
    path = database.with_name(database.name + ".lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StartError(f"another standalone queue uses {database}: stop it, or choose another state folder") from error
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _listening(settings: StandaloneSettings) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named, because asyncio turns Nagle off only where it sees the protocol (else 40 ms more an answer).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise StartError(
            f"the standalone queue cannot listen on {settings.host}:{settings.port} ({error.strerror}): choose another port, or 0"
        ) from error
    with listener:
        yield listener
