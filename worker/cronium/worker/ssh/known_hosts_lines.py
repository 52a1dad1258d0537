"""The lines of OpenSSH's known_hosts: what they say, and for whom (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT).

Pure; used by `known_hosts`. Keys stay bytes, so also those of types that we cannot use are told apart.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_DEFAULT_PORT: Final = 22
_MARKERS: Final = ("@revoked", "@cert-authority")
_MAX_LINE_CHARS: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: its number, its marker or "", whom it is for, and the key as type and bytes."""

    line: int
    marker: str
    hosts: str
    type: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """`SHA256:…`, as `ssh-keygen -l` shows it."""
        return fingerprint_of(self.blob)


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """A line that nobody can use; it is skipped."""

    line: int
    problem: str


def parse(text: str) -> Iterator[Entry | BrokenLine]:
    """The lines of a file: entries, and those that are none. Comments and empty lines are neither."""
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split(None, 4)
        if not fields or fields[0].startswith("#"):
            continue
        marker = fields.pop(0) if fields[0].startswith("@") else ""
        if marker and marker not in _MARKERS:
            yield BrokenLine(number, f"the marker {marker[:40]!r} is not known")
        elif len(fields) < 3:
            yield BrokenLine(number, "it is not: hosts, key type, key")
        elif len(line) > _MAX_LINE_CHARS:
            yield BrokenLine(number, "it is too long")
        elif (blob := _blob(fields[1], fields[2])) is None:
            yield BrokenLine(number, f"its key is no {fields[1][:40]!r} key in base64")
        elif fields[0].startswith("|") and _hashed(fields[0]) is None:
            yield BrokenLine(number, "its hashed name is not: |1|salt|hash")
        else:
            yield Entry(number, marker, fields[0], fields[1], blob)


def matches(hosts: str, name: str) -> bool:
    """Whether a line's first field is for the server of this name: plain, with `*`, `?` and `!`, or hashed."""
    if hosts.startswith("|"):
        hashed = _hashed(hosts)
        return hashed is not None and hmac.compare_digest(hmac.digest(hashed[0], name.encode(), "sha1"), hashed[1])
    found = False
    for pattern in hosts.split(","):
        if _fits(pattern.removeprefix("!"), name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def fingerprint_of(blob: bytes) -> str:
    """`SHA256:…` of a public key's bytes, as `ssh-keygen -l` shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


def target(host: str, port: int) -> str:
    """HOST[:PORT], as `ssh trust` takes it."""
    return host if port == _DEFAULT_PORT else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def name_of(host: str, port: int) -> str:
    """What the server is called in the file."""
    return host.lower() if port == _DEFAULT_PORT else f"[{host.lower()}]:{port}"


def name_behind(jump: tuple[str, int], host: str, port: int) -> str:
    """What it is called there as it is seen from a jump host: the same address behind another one is another server."""
    return f"{name_of(host, port)}/via/{name_of(*jump)}"


def _fits(pattern: str, name: str) -> bool:
    # To OpenSSH brackets are no more than brackets.
    return fnmatch.fnmatchcase(name, pattern.lower().replace("[", "[[]"))


def _hashed(field: str) -> tuple[bytes, bytes] | None:
    parts = field.split("|")
    if len(parts) != 4 or parts[1] != "1":
        return None
    salt, digest = _base64(parts[2]), _base64(parts[3])
    return (salt, digest) if salt and digest and len(digest) == hashlib.sha1(usedforsecurity=False).digest_size else None


def _blob(kind: str, text: str) -> bytes | None:
    """A key's bytes; None when they are none, or of another type than the line says (RFC 4253, 6.6: the type comes first)."""
    blob = _base64(text)
    head = len(kind).to_bytes(4, "big") + kind.encode("utf-8", "replace")
    return blob if blob and blob.startswith(head) and len(blob) > len(head) else None


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
