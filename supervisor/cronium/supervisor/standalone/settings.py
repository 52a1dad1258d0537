"""What the standalone queue is told at its start: one frozen value, read once from standard input, as JSON or msgpack.

Pure: reading the bytes is the caller's. Every bound of the queue has its default here and nowhere else.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgpack
import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError

from cronium.common.errors import CroniumError

_MIB = 1024 * 1024


class SettingsError(CroniumError):
    """The queue cannot be started as it is told to; the text names every reason."""


@dataclass(frozen=True, slots=True)
class StandaloneSettings:
    """All that the queue is told. Seconds end in `_s`, bytes in `_bytes`.

    `token_file` is made at first start. `port` 0 takes a free one. `parent_pid` is the process to die with (0: nobody).
    `offer_s` is how long a delivered job waits for its acknowledgement; `lease_s` how long it then stays without a sign of
    life. Jobs that have ended are kept for `keep_finished_s`, and when there are too many or the database is nearly full only
    for `keep_at_least_s`. `rate_factor` multiplies the protocol's rate limits. `durable` makes each commit survive a power cut.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    database: Path
    token_file: Path
    host: str = "127.0.0.1"  # or ::1, or localhost
    port: int = 0
    parent_pid: int = 0
    ready_fd: int = 1
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    durable: bool = True
    offer_s: float = 30.0
    lease_s: float = 60.0
    max_lease_s: float = 3600.0
    max_wait_s: float = 60.0
    tick_s: float = 0.5
    rate_factor: float = 10.0
    max_body_bytes: int = 64 * _MIB
    max_frame_bytes: int = 16 * _MIB
    max_job_log_bytes: int = 1024 * _MIB
    max_database_bytes: int = 20 * 1024 * _MIB
    max_queued_jobs: int = 100_000
    max_finished_jobs: int = 10_000
    keep_finished_s: float = 7 * 86_400.0
    keep_at_least_s: float = 60.0
    keep_keys_s: float = 86_400.0
    follow_pending_s: float = 60.0


_ADAPTER = TypeAdapter(StandaloneSettings)


def read_settings(blob: bytes) -> StandaloneSettings:
    """The settings of a blob, JSON (it begins with `{`) or msgpack. Raises SettingsError with every reason."""
    try:
        raw: Any = orjson.loads(blob) if blob.lstrip()[:1] == b"{" else msgpack.unpackb(blob)
    except Exception as error:  # msgpack raises many unrelated types on bad input
        raise SettingsError(f"the settings on standard input are neither JSON nor msgpack: {error}; pass one object") from error
    try:
        settings = _ADAPTER.validate_python(raw)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise SettingsError(f"wrong settings: {reasons}; see StandaloneSettings for what is allowed") from error
    return replace(settings, host=_loopback(settings.host))


def _loopback(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise SettingsError(f"host {host!r} is no IP address: use 127.0.0.1 or ::1") from error
    if not address.is_loopback:
        raise SettingsError(
            f"host {host} is not on the loopback interface: the standalone queue listens on 127.0.0.1 or ::1 only"
        )
    return host
