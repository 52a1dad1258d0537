"""How the first version wrote its journal, frozen: nothing here may follow the classes of today."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgpack
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY = b"k" * 32
_NONCE = b"n" * 12  # any will do for a test
_SCHEMA = """
CREATE TABLE job (job_id TEXT PRIMARY KEY, state TEXT NOT NULL, record BLOB NOT NULL, payload BLOB NOT NULL, ended BLOB) STRICT;
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) STRICT;
"""


def sealed(clear: bytes, context: str, key: bytes = KEY) -> bytes:
    return _NONCE + AESGCM(key).encrypt(_NONCE, clear, context.encode())


def record(job_id: str, state: str, **others: Any) -> dict[str, Any]:
    """A record's fields as version 1 had them."""
    fields: dict[str, Any] = {
        "job_id": job_id,
        "priority": 7,
        "received_ms": 1_700_000_000_000,
        "delivered_ms": 1_700_000_000_001,
        "state": state,
        "retry": {"max_attempts": 3, "exponential": False, "delay_s": 2.0},
        "epoch": 2,
        "next_sequence": 10,
        "lease": {"token": "renewal-token-secret", "expires_ms": 1_700_000_100_000},
        "acknowledged": True,
        "attempt": 1,
        "generation": 4,
        "place": None,
        "deaths": 1,
        "extra_attempts": 0,
        "retry_at_ms": 0,
        "cancelled": False,
        "lost": False,
        "done_ms": 0,
        "set_aside": None,
        "servers": (),
        "begun": False,
        "begun_at": (),
        "parked": None,
        "give_up_ms": None,
        "waits_for": None,
        "leftovers": (),
        "finished": (),
    }
    return {**fields, **others}


def outcome_frame(job_id: str) -> bytes:
    """An outcome: message 13 of version 1 of the wire, with the number of its attempt before it."""
    error = ["script", "script_exit", "the script ended with 3", False, {"exitCode": 3}, 5]
    results = [b'{"a": 1}', True, None, [["a/b", "text/plain", b"\0\xff"]], ["too many files"]]
    servers = [["deploy@web:22#1", "web", "failed", 3, "script_exit", "ended with 3"]]
    outcome = ["failed", 3, error, 1_700_000_001_000, 1_700_000_002_000, results, [12.5, 1024, None, 7], servers]
    return b"2\n" + msgpack.packb([1, 13, "", job_id, 0, outcome])


def write(path: Path, jobs: list[tuple[dict[str, Any], bytes, bytes | None]], poll_key: str | None = "poll-1") -> None:
    """A journal with these records, payloads and outcomes, as a process that was killed leaves it: with its -wal."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.executescript(f"BEGIN; {_SCHEMA} PRAGMA application_id={0x43524F4E}; PRAGMA user_version=1; COMMIT;")
    db.execute("BEGIN")
    for fields, payload, ended in jobs:
        job_id = fields["job_id"]
        row = (
            job_id,
            fields["state"],
            sealed(msgpack.packb(fields), f"record of {job_id}"),
            sealed(payload, f"job {job_id}"),
            None if ended is None else sealed(ended, f"outcome of {job_id}"),
        )
        db.execute("INSERT INTO job VALUES (?, ?, ?, ?, ?)", row)
    db.execute("INSERT INTO meta VALUES ('poll_key', ?)", (poll_key,))
    db.execute("COMMIT")
    names = {end: path.with_name(path.name + end) for end in ("", "-wal")}
    left = {end: name.read_bytes() for end, name in names.items()}
    db.close()
    for end, name in names.items():
        name.write_bytes(left[end])
