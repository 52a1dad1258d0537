"""What a streamer is told at its start, over the forkserver's pipe: so no token is in argv or in its environment.

Made by the supervisor, read by the streamer; knows nothing of where the values came from. `pack` and `unpack` are for a streamer
that tests and measurements start by itself: there it is one msgpack blob on stdin.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack

from cronium.common.errors import CroniumError

if TYPE_CHECKING:  # the model brings pydantic along, which the streamer's own process does not need
    from cronium.common.config.model import Logging


class SettingsError(CroniumError):
    """What came on stdin are no settings of this version."""


@dataclass(frozen=True, slots=True)
class StreamerSettings:
    """All of it. `_s` seconds, `_bytes` bytes; rates are lines a second, 0 is no limit.

    `parent_pid`: whose death ends this process. `state_dir`: where the key of what is stored lies, unless `key` and `old_keys`
    have what its variables say (crypto.load_seal).
    `websocket_url` empty: this backend takes no lines (dialect cronium-app); positions and tails are kept all the same.
    """

    parent_pid: int
    runtime_dir: str
    state_dir: str
    spool_dir: str
    websocket_url: str
    http_url: str
    token: str
    orchestrator_id: str
    version: str
    heartbeat_s: float = 1.0
    log_level: str = "info"
    log_format: str = "json"
    reconnect_s: float = 5.0
    reconnect_max_s: float = 60.0
    ping_s: float = 30.0
    ack_timeout_s: float = 30.0
    max_unacked: int = 64
    fallback_after_s: float = 15.0
    ready_frames: int = 1000
    lines_per_second: int = 0
    global_lines_per_second: int = 0
    max_spool_bytes: int = 2 * 1024**3
    max_spool_age_s: float = 30 * 86400.0
    segment_bytes: int = 32 * 1024**2
    max_backlog_bytes: int = 4 * 1024**2
    fsync: bool = True
    key: str = ""
    old_keys: str = ""

    def __repr__(self) -> str:
        """Without token and keys."""
        return f"StreamerSettings(runtime_dir={self.runtime_dir!r}, websocket_url={self.websocket_url!r})"

    @property
    def runtime_path(self) -> Path:
        """Where the sockets are."""
        return Path(self.runtime_dir)

    def with_logging(self, logging: Logging) -> StreamerSettings:
        """The same with everything of the configuration's `logging:`."""
        socket, spool, rate = logging.websocket, logging.spool, logging.rate_limit
        return dataclasses.replace(
            self,
            websocket_url=str(socket.endpoint or self.websocket_url),
            reconnect_s=socket.reconnect_interval,
            reconnect_max_s=socket.reconnect_max_interval,
            ping_s=socket.ping_interval,
            ack_timeout_s=socket.ack_timeout,
            max_unacked=socket.max_unacked,
            fallback_after_s=socket.fallback_after,
            ready_frames=logging.buffer.size,
            lines_per_second=rate.lines_per_second,
            global_lines_per_second=rate.global_lines_per_second,
            max_spool_bytes=spool.max_size,
            max_spool_age_s=spool.max_age,
            segment_bytes=spool.segment_size,
            max_backlog_bytes=spool.max_backlog,
            fsync=spool.fsync,
        )

    def pack(self) -> bytes:
        """The blob for stdin."""
        blob: bytes = msgpack.packb(dataclasses.asdict(self))
        return blob

    @classmethod
    def unpack(cls, blob: bytes) -> StreamerSettings:
        """The settings of a blob. Raises SettingsError when it has other fields or types."""
        try:
            values = msgpack.unpackb(blob)
        except Exception as error:  # msgpack raises many unrelated types on bad input
            raise SettingsError(f"the settings on stdin are no msgpack: {error}") from error
        hints = typing.get_type_hints(cls)
        if not isinstance(values, dict) or values.keys() != hints.keys():
            raise SettingsError("the settings on stdin have other fields: supervisor and streamer must be of the same version")
        for name, hint in hints.items():
            if type(values[name]) is int and hint is float:
                values[name] = float(values[name])
            if type(values[name]) is not hint:
                raise SettingsError(f"setting {name} is of type {type(values[name]).__name__}, not {hint.__name__}")
        return cls(**values)
