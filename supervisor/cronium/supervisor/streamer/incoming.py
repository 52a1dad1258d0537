"""What the backend says over the WebSocket (PROTOCOL.md): bytes in, events out. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from cronium.supervisor.streamer.transport import Answered, Cancelled

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Turned:
    """We are turned away: an acknowledgement of no frame says no, so it is `authenticate` that was refused."""

    reason: str


def heard_from(message: bytes) -> Answered | Cancelled | Turned | None:
    """What a text frame means for us; None for nothing. What nobody understands is logged, never an error."""
    try:
        said = orjson.loads(message)
        match said["type"]:
            case "ack":
                return _acknowledged(said["payload"])
            case "cancel":
                return Cancelled(str(said["payload"]["jobId"]))
            case "error":
                _log.warning("the backend complains", error=str(said.get("payload"))[:500])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("a frame of the backend was not understood", error=f"{type(error).__name__}: {error}")
    return None


def _acknowledged(payload: dict[str, Any]) -> Answered | Turned | None:
    frame_id, success = payload.get("messageId"), payload.get("success") is not False
    reason = str(payload.get("error") or "no reason given")
    if type(frame_id) is int:
        return Answered(frame_id, success, "" if success else reason)
    return None if success else Turned(reason)


def close_reason(data: bytes) -> str:
    """The text of a close frame (RFC 6455, 5.5.1)."""
    code = int.from_bytes(data[:2], "big") if len(data) >= 2 else 0
    return f"code {code}{': ' + data[2:].decode('utf-8', 'replace') if len(data) > 2 else ''}"
