"""Names that others see: of places, of workers, of this installation. Pure, but for the one file of the installation."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path

INSTALLATION_FILE = "installation-id"
_KEEP = re.compile(r"[^a-zA-Z0-9_.-]+")


def installation_id(state_dir: Path) -> str:
    """The stable id of this installation, made at first use and kept in `state_dir` (12 hex digits).

    Raises OSError when the folder cannot be written.
    """
    path = state_dir / INSTALLATION_FILE
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        pass
    fresh = secrets.token_hex(6)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # another process was quicker
        return path.read_text(encoding="ascii").strip()
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(fresh + "\n")
    return fresh


def place_name(installation: str, job_id: str, attempt: int) -> str:
    """The name of the place of one attempt: a legal container name and folder name, the same whenever it is asked for.

    The job's id is shown as far as it is harmless; a digest keeps two odd ids apart.
    """
    shown = _KEEP.sub("-", job_id)[:40].strip("-.") or "job"
    digest = hashlib.sha256(job_id.encode()).hexdigest()[:8]
    return f"cronium-{installation}-{shown}-{digest}-{attempt}"
