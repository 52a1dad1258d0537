"""What is stored is encrypted: AES-256-GCM with a key that lies beside the data, readable by its owner only.

Used by whoever writes to disk (journal, spool, standalone queue). There is one current key, and older ones that only open: so a
key can be changed while something sealed with the one before is still there. Nonces are random, 96 bits, one a message: safe
for 2^32 messages under one key (NIST SP 800-38D, 8.3).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cronium.common.errors import CroniumError
from cronium.common.files import replace_file, write_once

KEY_VARIABLE = "CRONIUM_ENCRYPTION_KEY"
OLD_KEYS_VARIABLE = "CRONIUM_ENCRYPTION_KEY_OLD"
KEY_FILE = "encryption.key"
_KEY_BYTES = 32
_NONCE_BYTES = 12


class SealError(CroniumError):
    """A key cannot be had, or something stored cannot be opened with it."""


class Seal:
    """Seals with one key; opens with that, or with an older one."""

    def __init__(self, key: bytes, *older: bytes) -> None:
        self._ciphers = tuple(map(AESGCM, (key, *older)))
        self.key_id = key_id(key)
        self.known_ids = frozenset(map(key_id, (key, *older)))

    def close(self, clear: bytes, context: str = "") -> bytes:
        """`clear`, encrypted and bound to `context` (what it is of, e.g. a job's id)."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._ciphers[0].encrypt(nonce, clear, context.encode())

    def open(self, sealed: bytes, context: str = "") -> bytes:
        """What `close` was given. Raises SealError when the key, the context or the bytes are others."""
        nonce, text, bound = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context.encode()
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(nonce, text, bound)
            except InvalidTag:
                continue
            except ValueError:  # too short to be anything
                break
        raise SealError(
            f"stored data{f' of {context}' if context else ''} cannot be decrypted: it is damaged, or {KEY_FILE} "
            f"(or {KEY_VARIABLE}, {OLD_KEYS_VARIABLE}) is not the key it was written with; put the right key back"
        )


def key_id(key: bytes) -> str:
    """A key's name, which tells nothing of the key: 16 hex digits."""
    return hashlib.sha256(b"cronium key id\0" + key).hexdigest()[:16]


def load_seal(folder: Path, environ: Mapping[str, str]) -> Seal:
    """The seal of a state folder. Each key is base64 of 32 bytes.

    Either `CRONIUM_ENCRYPTION_KEY` is the current key, and `CRONIUM_ENCRYPTION_KEY_OLD` has the older ones with commas between
    them; or a 0600 file has them all, one a line, the current one first. It is made at first use.

    Raises SealError when a key is malformed or the file readable by others, OSError when it cannot be written.
    """
    if text := environ.get(KEY_VARIABLE):
        older = [part for part in environ.get(OLD_KEYS_VARIABLE, "").split(",") if part.strip()]
        return Seal(
            _decoded(text, f"environment variable {KEY_VARIABLE}"),
            *(_decoded(old, f"environment variable {OLD_KEYS_VARIABLE}") for old in older),
        )
    path = folder / KEY_FILE
    if not path.exists():
        write_once(path, _new_key())
    return Seal(*_keys_of(path))


def rotate(folder: Path) -> Seal:
    """Put a new key on the first line of a state folder's file; those that are there only open from then on. The new seal.

    Who has the file open goes on with what it has read. Raises SealError when the file is none of ours, FileNotFoundError when
    there is none, other OSErrors when it cannot be written; then nothing has changed.
    """
    path = folder / KEY_FILE
    _keys_of(path)
    replace_file(path, _new_key() + path.read_text(encoding="ascii"))
    return Seal(*_keys_of(path))


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode() + "\n"


def _keys_of(path: Path) -> list[bytes]:
    if path.stat().st_mode & 0o077:
        raise SealError(f"{path} can be read by others: run 'chmod 600 {path}'")
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return [_decoded(line, str(path)) for line in lines or [""]]  # an empty file is a malformed key


def _decoded(text: str, source: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SealError(f"the key in {source} is not base64: make one with 'openssl rand -base64 32'") from error
    if len(key) != _KEY_BYTES:
        raise SealError(f"the key in {source} has {len(key)} bytes, not 32: make one with 'openssl rand -base64 32'")
    return key
