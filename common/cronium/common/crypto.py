"""What is stored is encrypted: AES-256-GCM with a key that lies beside the data, readable by its owner only.

Used by whoever writes payloads to disk (journal, standalone queue). Nonces are random, 96 bits, one a message: safe for 2^32
messages under one key (NIST SP 800-38D, 8.3).
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cronium.common.errors import CroniumError
from cronium.common.files import write_once

KEY_VARIABLE = "CRONIUM_ENCRYPTION_KEY"
KEY_FILE = "encryption.key"
_KEY_BYTES = 32
_NONCE_BYTES = 12


class SealError(CroniumError):
    """A key cannot be had, or something stored cannot be opened with it."""


class Seal:
    """Seals and opens byte strings with one key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def close(self, clear: bytes, context: str = "") -> bytes:
        """`clear`, encrypted and bound to `context` (what it is of, e.g. a job's id)."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, clear, context.encode())

    def open(self, sealed: bytes, context: str = "") -> bytes:
        """What `close` was given. Raises SealError when the key, the context or the bytes are others."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context.encode())
        except (InvalidTag, ValueError) as error:
            raise SealError(
                f"stored data{f' of {context}' if context else ''} cannot be decrypted: it is damaged, or {KEY_FILE} "
                f"(or {KEY_VARIABLE}) is not the key it was written with; put the right key back"
            ) from error


def load_seal(folder: Path, environ: Mapping[str, str]) -> Seal:
    """The seal of a state folder: the key of `CRONIUM_ENCRYPTION_KEY` (base64 of 32 bytes) or of a 0600 file, made at first use.

    Raises SealError when the key is malformed or the file readable by others, OSError when it cannot be written.
    """
    text = environ.get(KEY_VARIABLE)
    if text:
        return Seal(_decoded(text, f"environment variable {KEY_VARIABLE}"))
    path = folder / KEY_FILE
    if not path.exists():
        write_once(path, base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode() + "\n")
    if path.stat().st_mode & 0o077:
        raise SealError(f"{path} can be read by others: run 'chmod 600 {path}'")
    return Seal(_decoded(path.read_text(encoding="utf-8", errors="replace"), str(path)))


def _decoded(text: str, source: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SealError(f"the key in {source} is not base64: make one with 'openssl rand -base64 32'") from error
    if len(key) != _KEY_BYTES:
        raise SealError(f"the key in {source} has {len(key)} bytes, not 32: make one with 'openssl rand -base64 32'")
    return key
