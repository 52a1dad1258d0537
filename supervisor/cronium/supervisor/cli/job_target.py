"""The servers that `exec --ssh` names, made part of a job; and the key to log in with.

Reads the key file, nothing else. Who is let in, and whether the server is who it says, is the executor's question.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cronium.common.servers import Address, parse_jump
from cronium.supervisor.cli.job_file import JobFileError

_USUAL_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")  # as ssh(1) looks for them


def aim_at(job: dict[str, Any], servers: Sequence[str], identity: Path | None, configured: Path | None) -> None:
    """Give the job these servers as its target, if there are any. Raises JobFileError."""
    if not servers:
        if identity is not None:
            raise JobFileError("--identity is the key for a server: say which one with --ssh")
        return
    key = _key_text(identity, configured)
    details = [_details(text, key) for text in servers]
    job["execution"]["target"] = {"type": "server", "serverDetails": details[0]}
    metadata = {name: value for name, value in (job.get("metadata") or {}).items() if name != "servers"}
    job["metadata"] = {**metadata, **({"servers": details} if len(details) > 1 else {})}


def _key_text(identity: Path | None, configured: Path | None) -> str | None:
    """The private key; None when the configuration has one that the executor reads by itself."""
    if identity is None:
        if configured is not None:
            return None
        found = [path for name in _USUAL_KEYS if (path := Path.home() / ".ssh" / name).is_file()]
        if not found:
            raise JobFileError("no key to log in with: name one with --identity, or set ssh.keyPath (CRONIUM_SSH_KEY_PATH)")
        identity = found[0]
    try:
        return identity.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise JobFileError(f"the key {identity} cannot be read ({error}): check its name and its rights") from None


def _details(text: str, key: str | None) -> dict[str, Any]:
    address: Address | None = parse_jump(text)
    if address is None:
        raise JobFileError(f"--ssh {text}: is not USER@HOST or USER@HOST:PORT")
    server = {"name": text, "host": address.host, "port": address.port, "username": address.username}
    return {**server, **({"privateKey": key} if key is not None else {})}
