"""The WebSocket to the backend: one thread connects and writes, one reads. The loop only queues frames and hears events.

Nobody waits for the other side: websocket-client's own `recv` answers a ping before it returns, and a peer that does not read
would stop everything; so frames are read raw here, and the pong is the writer's business. A connection counts as dead when
nothing at all came for a ping interval and a grace, or when a write has not gone through in `ack_timeout_s`.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import structlog
import websocket
import zmq

from cronium.supervisor.streamer.incoming import Turned, close_reason, heard_from
from cronium.supervisor.streamer.settings import StreamerSettings
from cronium.supervisor.streamer.transport import Down, Teller, Up
from cronium.supervisor.streamer.wire_socket import WireSocket

_log = structlog.get_logger()

_CONNECT_TIMEOUT_S = 10.0
_PING_GRACE_S = 10.0
_TELL_TIMEOUT_S = 5.0
_CLOSE_TIMEOUT_S = 0.3
_MAX_MESSAGE_BYTES = 1024 * 1024  # of the backend; an acknowledgement has a hundred
_FRAMES = "inproc://frames"
_ORDERS = "inproc://orders"  # of the reader to the writer: a pong to send, or that the connection is broken
_TO_WRITER_HIGH_WATER_MARK = 64
_PONG, _BROKEN = b"p", b"x"


@dataclass(slots=True)
class _Connection:
    """What both threads know of one connection."""

    number: int
    socket: websocket.WebSocket
    wire: WireSocket
    heard_at_s: float
    reason: str = ""

    def break_off(self, reason: str) -> None:
        """End it from any thread, without waiting."""
        self.reason = self.reason or reason
        self.wire.break_off()


class WebSocketLink:
    """The connection, kept up. `send` and `drop` belong to the loop's thread."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], settings: StreamerSettings) -> None:
        self._context, self._settings = context, settings
        self._stopping = threading.Event()
        self._frames = context.socket(zmq.PAIR)
        self._frames.setsockopt(zmq.SNDHWM, _TO_WRITER_HIGH_WATER_MARK)
        self._frames.setsockopt(zmq.LINGER, 0)
        self._frames.bind(_FRAMES)
        self._connection: _Connection | None = None
        self._thread = threading.Thread(target=self._run, name="websocket writer", daemon=True)
        self._thread.start()

    def send(self, connection: int, data: bytes, *, binary: bool) -> bool:
        """Queue a frame for a connection; False when no more can be queued now. On another connection it is dropped."""
        head = b"%d %d" % (connection, websocket.ABNF.OPCODE_BINARY if binary else websocket.ABNF.OPCODE_TEXT)
        try:
            self._frames.send_multipart((head, data), zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def drop(self, reason: str) -> None:
        """Break the connection off, to make it anew."""
        if (connection := self._connection) is not None:
            connection.break_off(reason)

    def stop(self, timeout_s: float) -> bool:
        """Send what is queued as far as that is quick, close, end the threads; False when one did not end in time."""
        self._stopping.set()
        try:
            self._frames.send_multipart((b"stop", b""), zmq.DONTWAIT)
        except zmq.Again:
            self.drop("stopping")
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.drop("stopping")
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # --- the writing thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        frames = self._context.socket(zmq.PAIR)
        frames.setsockopt(zmq.RCVHWM, _TO_WRITER_HIGH_WATER_MARK)
        frames.setsockopt(zmq.LINGER, 0)
        frames.connect(_FRAMES)
        orders = self._context.socket(zmq.PULL)
        orders.setsockopt(zmq.RCVHWM, _TO_WRITER_HIGH_WATER_MARK)
        orders.bind(_ORDERS)
        teller = Teller(self._context, _TELL_TIMEOUT_S)
        number, pause_s = 0, self._settings.reconnect_s
        try:
            while not self._stopping.is_set():
                number, served_s = number + 1, 0.0
                try:
                    connection = self._connect(number)
                except (OSError, websocket.WebSocketException, ValueError) as error:
                    reason = f"{type(error).__name__}: {error}"
                else:
                    began_s = time.monotonic()
                    self._serve(connection, frames, orders, teller)
                    reason, served_s = connection.reason, time.monotonic() - began_s
                teller.tell(Down(number, reason))
                if served_s > pause_s:
                    pause_s = self._settings.reconnect_s
                self._stopping.wait(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnects, hides nothing
                pause_s = min(pause_s * 2, self._settings.reconnect_max_s)
        except zmq.ZMQError as error:
            if not self._stopping.is_set():
                _log.error("the loop does not listen any more", error=str(error))
        finally:
            for socket in (frames, orders):
                socket.close()
            teller.close()

    def _connect(self, number: int) -> _Connection:
        """A connection on which we have said who we are. Raises OSError, WebSocketException."""
        settings = self._settings
        socket = websocket.WebSocket(enable_multithread=True, skip_utf8_validation=True)
        socket.settimeout(_CONNECT_TIMEOUT_S)
        socket.connect(  # type: ignore[no-untyped-call]  # websocket-client is typed in part only, here and below
            settings.websocket_url,
            header=[
                f"Authorization: Bearer {settings.token}",
                "X-Service-Name: cronium-orchestrator",
                f"X-Service-Version: {settings.version}",
                f"X-Orchestrator-Id: {settings.orchestrator_id}",
            ],
        )
        wire = WireSocket(socket.sock)  # type: ignore[arg-type]  # it is connected
        socket.sock = wire  # type: ignore[assignment]  # it has all that websocket-client uses
        connection = _Connection(number, socket, wire, time.monotonic())
        try:
            self._authenticate(socket)
            socket.settimeout(settings.ack_timeout_s)
        except BaseException:
            wire.close()
            raise
        return connection

    def _authenticate(self, socket: websocket.WebSocket) -> None:
        """Say who we are. The answer is not waited for: not every backend gives one, and the reader sees a refusal."""
        payload = {
            "token": self._settings.token,
            "orchestratorId": self._settings.orchestrator_id,
            "version": self._settings.version,
            "encodings": ["gzip"],
        }
        socket.send(orjson.dumps({"type": "authenticate", "payload": payload}), websocket.ABNF.OPCODE_TEXT)

    def _serve(self, connection: _Connection, frames: zmq.Socket[bytes], orders: zmq.Socket[bytes], teller: Teller) -> None:
        """Write until the connection is no more."""
        self._connection = connection
        reader = threading.Thread(target=self._read, args=(connection,), name="websocket reader", daemon=True)
        reader.start()
        teller.tell(Up(connection.number))
        try:
            self._write(connection, frames, orders)
        except (OSError, websocket.WebSocketException) as error:
            connection.break_off(f"{type(error).__name__}: {error}")
        finally:
            self._connection = None
            connection.break_off("closed")
            reader.join()
            connection.wire.close()

    def _write(self, connection: _Connection, frames: zmq.Socket[bytes], orders: zmq.Socket[bytes]) -> None:
        poller = zmq.Poller()
        poller.register(frames, zmq.POLLIN)
        poller.register(orders, zmq.POLLIN)
        ping_s, pinged_at_s = self._settings.ping_s, time.monotonic()
        while not connection.reason:
            now_s = time.monotonic()
            if now_s - pinged_at_s >= ping_s:
                if now_s - connection.heard_at_s >= ping_s + min(ping_s, _PING_GRACE_S):
                    connection.break_off(f"nothing came for {now_s - connection.heard_at_s:.0f} s")
                    return
                _ping(connection.socket)
                pinged_at_s = now_s
            for ready, _ in poller.poll(max(1, int((pinged_at_s + ping_s - now_s) * 1000))):
                if ready is orders:
                    if (order := orders.recv())[:1] == _PONG:
                        connection.socket.pong(order[1:])
                    continue
                for head, data in _waiting(frames):
                    if head == b"stop":
                        connection.socket.send_close()
                        connection.break_off("stopping")
                        return
                    number, opcode = head.split()
                    if int(number) == connection.number:
                        connection.socket.send(data, int(opcode))

    # --- the reading thread -----------------------------------------------------------------------------------------

    def _read(self, connection: _Connection) -> None:
        teller = Teller(self._context, _TELL_TIMEOUT_S)
        orders = self._context.socket(zmq.PUSH)
        orders.setsockopt(zmq.LINGER, 0)
        orders.setsockopt(zmq.SNDTIMEO, int(_TELL_TIMEOUT_S * 1000))
        orders.connect(_ORDERS)
        message = b""
        try:
            while not connection.reason:
                try:
                    frame = connection.socket.recv_frame()  # type: ignore[no-untyped-call]
                except websocket.WebSocketTimeoutException:
                    continue  # the writer decides when silence is too long
                connection.heard_at_s = time.monotonic()
                match frame.opcode:
                    case websocket.ABNF.OPCODE_PING:
                        with contextlib.suppress(zmq.Again):  # a flood of pings need not be answered one by one
                            orders.send(_PONG + frame.data, zmq.DONTWAIT)
                    case websocket.ABNF.OPCODE_CLOSE:
                        connection.break_off(f"closed by the backend ({close_reason(frame.data)})")
                    case websocket.ABNF.OPCODE_TEXT | websocket.ABNF.OPCODE_CONT:
                        message += frame.data
                        if len(message) > _MAX_MESSAGE_BYTES:
                            connection.break_off("the backend sent a frame that is too long")
                        elif frame.fin:
                            self._hear(message, connection, teller)
                            message = b""
        except (OSError, websocket.WebSocketException, zmq.ZMQError) as error:
            connection.break_off(f"{type(error).__name__}: {error}")
        finally:
            with contextlib.suppress(zmq.ZMQError):
                orders.send(_BROKEN)
            orders.setsockopt(zmq.LINGER, 100)
            orders.close()
            teller.close()

    @staticmethod
    def _hear(message: bytes, connection: _Connection, teller: Teller) -> None:
        """Tell the loop what the backend says."""
        match heard_from(message):
            case Turned(reason=reason):
                connection.break_off(f"the backend does not take our token ({reason}): check CRONIUM_SERVICE_TOKEN")
            case None:
                pass
            case event:
                teller.tell(event)


def _waiting(frames: zmq.Socket[bytes]) -> list[list[bytes]]:
    """All that is queued now."""
    found: list[list[bytes]] = []
    try:
        while len(found) < _TO_WRITER_HIGH_WATER_MARK:
            found.append(frames.recv_multipart(zmq.DONTWAIT))
    except zmq.Again:
        pass
    return found


def _ping(socket: websocket.WebSocket) -> None:
    """Both pings: the protocol's own, and RFC 6455's, which every peer must answer."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    socket.send(orjson.dumps({"type": "ping", "payload": {"timestamp": now}}), websocket.ABNF.OPCODE_TEXT)
    socket.ping()
