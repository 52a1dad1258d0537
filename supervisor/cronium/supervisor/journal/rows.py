"""A job as rows of the journal, and back. Pure.

What may be seen with sqlite3 is a column; every other field of the record is in `sealed`, by name. So nothing is there twice,
a new field needs no migration, and one that is missing has its default. The columns are bound to what is sealed: a row of
which a single bit has changed, or that somebody has edited, is refused and not acted on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import orjson
from pydantic import TypeAdapter

from cronium.common.crypto import Seal
from cronium.supervisor.core.state import Ended, JobRecord

COLUMNS = (
    "job_id",
    "state",
    "priority",
    "attempt",
    "generation",
    "epoch",
    "deaths",
    "place",
    "servers",
    "begun",
    "acknowledged",
    "cancelled",
    "lost",
    "received_ms",
    "delivered_ms",
    "placed_ms",
    "lease_expires_ms",
    "retry_at_ms",
    "give_up_ms",
    "owed_ms",
    "done_ms",
)
"""Fields of JobRecord, and the lease's end. A change here is a migration."""

_SEALED = tuple(f.name for f in dataclasses.fields(JobRecord) if f.name not in (*COLUMNS, "lease"))
_RECORD = TypeAdapter(JobRecord)
_ENDED = TypeAdapter(Ended)
UNREADABLE = (ValueError, TypeError, KeyError)
"""What the readers here raise, beside SealError, for what is none of ours."""


def row_of(record: JobRecord, seal: Seal) -> tuple[Any, ...]:
    """The values of COLUMNS, and `sealed`."""
    lease = record.lease
    special = {"servers": orjson.dumps(record.servers).decode(), "lease_expires_ms": None if lease is None else lease.expires_ms}
    columns = [special[name] if name in special else _plain(getattr(record, name)) for name in COLUMNS]
    fields = {name: getattr(record, name) for name in _SEALED}
    fields["lease_token"] = None if lease is None else lease.token
    return (*columns, seal.close(packed(fields), context_of(columns)))


def record_of(row: Sequence[Any], seal: Seal) -> JobRecord:
    """The record of such a row. Raises SealError, or one of UNREADABLE."""
    *columns, sealed = row
    fields = msgpack.unpackb(seal.open(sealed, context_of(columns)), use_list=False)
    fields.update(zip(COLUMNS, columns, strict=True))
    fields["servers"] = orjson.loads(fields["servers"])
    token, expires_ms = fields.pop("lease_token"), fields.pop("lease_expires_ms")
    fields["lease"] = None if token is None else {"token": token, "expires_ms": expires_ms}
    return _RECORD.validate_python(fields)


def context_of(columns: Sequence[Any]) -> str:
    """What binds the sealed part of a row to the rest of it."""
    return f"record of {columns[0]} {orjson.dumps(columns).decode()}"


def ended_blob(job_id: str, ended: Ended, seal: Seal) -> bytes:
    """How a job ended, sealed."""
    return seal.close(packed(_fields(ended)), f"outcome of {job_id}")


def ended_of(job_id: str, blob: bytes, seal: Seal) -> Ended:
    """The same back. Raises SealError, or one of UNREADABLE."""
    return _ENDED.validate_python(msgpack.unpackb(seal.open(blob, f"outcome of {job_id}"), use_list=False))


def packed(fields: Mapping[str, Any]) -> bytes:
    """Fields by name; also what somebody put into an error's details must not make a write fail."""
    blob: bytes = msgpack.packb(fields, default=_fields, unicode_errors="replace")
    return blob


def _fields(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dict(value) if isinstance(value, Mapping) else str(value)


def _plain(value: Any) -> Any:
    """As SQLite gives it back: the context must be the same."""
    return int(value) if isinstance(value, bool) else str(value) if isinstance(value, str) else value
