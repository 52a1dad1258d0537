"""The WebSocket that takes log lines: authenticate, frames in, acknowledgements out in the order of the frames. Event loop only.

Reading goes on while earlier frames are being committed; a bounded queue of what is to be sent holds the reader back. A frame
that is refused for good is acknowledged with `success: false`; a failure of ours closes the connection, so that it comes again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from cronium.supervisor.standalone import operations
from cronium.supervisor.standalone.errors import ApiError, Refusal, invalid, too_large, unauthorized
from cronium.supervisor.standalone.frames import Batch, batch_of, gunzip, parse
from cronium.supervisor.standalone.log_store import GZIP, PLAIN
from cronium.supervisor.standalone.operations import iso
from cronium.supervisor.standalone.rules import Sender
from cronium.supervisor.standalone.services import Services, now_ms

_log = structlog.get_logger()
_AUTHENTICATE_TIMEOUT_S = 10.0
_MAX_UNSENT = 64
_MAX_UNSTORED_BYTES = 32 * 1024 * 1024
_IN_A_THREAD_FROM_BYTES = 256 * 1024  # smaller frames are parsed within a millisecond or two
_MAX_GARBAGE = 10
_POLICY_VIOLATION, _TRY_AGAIN_LATER, _SERVICE_RESTART = 1008, 1013, 1012  # RFC 6455, 7.4, and its registry


@dataclass(frozen=True, slots=True)
class _Storing:
    """A frame on its way into the database."""

    number: int
    outcome: asyncio.Future[Refusal | None]


async def serve(websocket: WebSocket, services: Services) -> None:
    """One connection from its handshake to its end."""
    header = websocket.headers.get("Authorization")
    if header is not None and not services.authentic(header.removeprefix("Bearer ").strip()):
        await websocket.close(_POLICY_VIOLATION)  # before the handshake: HTTP 403
        return
    await websocket.accept()
    try:
        async with asyncio.timeout(_AUTHENTICATE_TIMEOUT_S):
            orchestrator = _authenticated(await _received(websocket), services)
    except (ApiError, TimeoutError) as error:
        await _refused(websocket, error if isinstance(error, ApiError) else unauthorized())
        return
    except WebSocketDisconnect:
        return
    await _Connection(websocket, services, orchestrator).run()


class _Connection:
    """An authenticated connection: one task reads, one sends."""

    def __init__(self, websocket: WebSocket, services: Services, orchestrator: str) -> None:
        self._websocket = websocket
        self._services = services
        self._orchestrator = orchestrator
        self._outgoing: asyncio.Queue[dict[str, Any] | _Storing] = asyncio.Queue(_MAX_UNSENT)
        self._unstored_bytes = 0
        self._room = asyncio.Event()
        self._garbage = 0

    async def run(self) -> None:
        listeners = self._services.sockets[self._orchestrator]
        listeners.add(self._tell)
        reader = asyncio.create_task(self._read())
        sender = asyncio.create_task(self._send())
        try:
            await self._tell_what_is_cancelled()
            done, _ = await asyncio.wait({reader, sender}, return_when=asyncio.FIRST_COMPLETED)
            await self._closed([task.exception() for task in done])
        finally:
            listeners.discard(self._tell)
            if not listeners:
                self._services.sockets.pop(self._orchestrator, None)
            for task in (reader, sender):
                task.cancel()
            await asyncio.gather(reader, sender, return_exceptions=True)

    def _tell(self, frame: dict[str, Any]) -> None:
        if not self._outgoing.full():  # one that reads nothing is told by its next poll
            self._outgoing.put_nowait(frame)

    async def _tell_what_is_cancelled(self) -> None:
        jobs = await self._services.database.submit(lambda store: store.cancelled_of(self._orchestrator))
        for job in jobs:
            self._tell(cancel_frame(job.id))

    async def _closed(self, errors: list[BaseException | None]) -> None:
        for error in errors:
            match error:
                case None | WebSocketDisconnect():
                    pass
                case ApiError():
                    await _refused(self._websocket, error)
                case _:
                    _log.error("a connection failed", orchestrator=self._orchestrator, exc_info=error)
                    await _refused(self._websocket, ApiError(500, "INTERNAL_ERROR", "the queue failed; see its log"))

    async def _send(self) -> None:
        while True:
            item = await self._outgoing.get()
            frame = _ack(item.number, await item.outcome) if isinstance(item, _Storing) else item
            await self._websocket.send_text(orjson.dumps(frame).decode())

    async def _read(self) -> None:
        while True:
            message = await _received(self._websocket)
            try:
                await self._take(message)
            except ApiError as error:  # without an id there is nothing to acknowledge
                self._garbage += 1
                if self._garbage > _MAX_GARBAGE:
                    raise
                await self._outgoing.put(_error_frame(error))

    async def _take(self, message: bytes | str) -> None:
        raw = message if isinstance(message, bytes) else message.encode()
        limit_bytes = self._services.settings.max_frame_bytes
        encoding = GZIP if isinstance(message, bytes) else PLAIN
        text = gunzip(raw, limit_bytes) if encoding == GZIP else raw
        if len(text) > limit_bytes:
            raise too_large("the frame", limit_bytes)
        large = len(text) > _IN_A_THREAD_FROM_BYTES
        frame = await asyncio.to_thread(parse, text) if large else parse(text)
        kind, number = frame.get("type"), frame.get("id")
        if kind == "ping":
            await self._outgoing.put({"type": "pong", "payload": {"timestamp": iso(now_ms())}})
            return
        if type(number) is not int:
            raise invalid([("id", f"a frame of type {str(kind)[:40]!r} needs an integer")])
        await self._outgoing.put(await self._outcome(kind, number, frame, raw, encoding, large))
        while self._unstored_bytes > _MAX_UNSTORED_BYTES:
            self._room.clear()
            await self._room.wait()

    async def _outcome(
        self, kind: Any, number: int, frame: dict[str, Any], raw: bytes, encoding: int, large: bool
    ) -> dict[str, Any] | _Storing:
        match kind:
            case "log":

                def again() -> list[dict[str, Any]]:
                    text = gunzip(raw, self._services.settings.max_frame_bytes) if encoding == GZIP else raw
                    entries: list[dict[str, Any]] = parse(text)["payload"]
                    return entries

                arguments = (frame.get("payload"), raw, encoding, again)
                try:
                    epoch = _epoch(frame)
                    batch = await asyncio.to_thread(batch_of, *arguments) if large else batch_of(*arguments)
                except ApiError as error:
                    return _ack(number, error)
                return self._stored(number, len(raw), batch, Sender(self._orchestrator, epoch))
            case "status" | "error":  # for eyes: what counts comes by HTTP
                return _ack(number, None)
            case _:
                return _ack(number, invalid([("type", f"{str(kind)[:40]!r} is not log, status, error or ping")]))

    def _stored(self, number: int, size_bytes: int, batch: Batch, sender: Sender) -> _Storing:
        """Have a batch stored; its acknowledgement is sent when that is done."""
        limit_bytes = self._services.settings.max_job_log_bytes
        future = self._services.database.submit(lambda store: operations.take_lines(store, batch, sender, limit_bytes))
        self._unstored_bytes += size_bytes

        def done(_: asyncio.Future[Refusal | None]) -> None:
            self._unstored_bytes -= size_bytes
            self._room.set()
            self._services.bells.ring(batch.job_id)  # also when this connection is gone by now

        future.add_done_callback(done)
        return _Storing(number, future)


def cancel_frame(job_id: str) -> dict[str, Any]:
    """What an orchestrator is told when a job is to end."""
    return {"type": "cancel", "payload": {"jobId": job_id}}


def _authenticated(message: bytes | str, services: Services) -> str:
    frame = parse(message)
    payload = frame.get("payload")
    if frame.get("type") != "authenticate" or not isinstance(payload, dict):
        raise invalid([("type", "the first frame must be authenticate")])
    token, orchestrator = payload.get("token"), payload.get("orchestratorId")
    if not services.authentic(token if isinstance(token, str) else None):
        raise unauthorized()
    if not isinstance(orchestrator, str) or not orchestrator:
        raise invalid([("payload.orchestratorId", "is missing")], missing=True)
    return orchestrator


def _epoch(frame: dict[str, Any]) -> int | None:
    epoch = frame.get("epoch")
    if epoch is not None and type(epoch) is not int:
        raise invalid([("epoch", "must be an integer")])
    return epoch or None


def _ack(number: int, refusal: Refusal | ApiError | None) -> dict[str, Any]:
    payload: dict[str, Any] = {"messageId": number, "success": refusal is None}
    if refusal is not None:
        payload["error"] = f"{refusal.code}: {refusal.message}"
    return {"type": "ack", "payload": payload}


def _error_frame(error: ApiError) -> dict[str, Any]:
    return {"type": "error", "payload": {"code": error.code, "message": error.message}}


async def _received(websocket: WebSocket) -> bytes | str:
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    text: str | None = message.get("text")
    return text if text is not None else bytes(message["bytes"])


async def _refused(websocket: WebSocket, error: ApiError) -> None:
    """Say why, and close."""
    if websocket.application_state is not WebSocketState.CONNECTED:
        return
    try:
        await websocket.send_text(orjson.dumps(_error_frame(error)).decode())
        await websocket.close(_TRY_AGAIN_LATER if error.status >= 500 else _POLICY_VIOLATION)
    except (WebSocketDisconnect, RuntimeError):  # it has gone meanwhile
        _log.debug("a refused connection was gone before it was told")
