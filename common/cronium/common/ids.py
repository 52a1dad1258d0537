"""Names that others see: of places, of this installation. Pure, but for the one file of the installation."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

from cronium.common.errors import CroniumError
from cronium.common.files import write_once

INSTALLATION_FILE = "installation-id"
_KEEP = re.compile(r"[^a-zA-Z0-9_.-]+")
_REMOTE = re.compile(r"[0-9a-f]{24}(\.[0-9]+)?\Z")
_INSTALLATION = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}\Z")


class InstallationIdError(CroniumError):
    """The file with the installation's id holds none."""


def installation_id(state_dir: Path) -> str:
    """The stable id of this installation, made at first use and kept in `state_dir` (12 hex digits).

    Raises OSError when the folder cannot be written, InstallationIdError when the file holds something else.
    """
    path = state_dir / INSTALLATION_FILE
    if not path.exists():
        write_once(path, secrets.token_hex(6) + "\n")
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if not _INSTALLATION.match(text):
        raise InstallationIdError(
            f"{path} holds no id (up to 64 letters, digits, '-', '_', '.'): write the one back that this installation's "
            "containers are labelled with, or remove the file to become a new installation"
        )
    return text


def place_name(installation: str, job_id: str, attempt: int) -> str:
    """The name of the place of one attempt: a legal container name and folder name, the same whenever it is asked for.

    The job's id is shown as far as it is harmless; a digest keeps two odd ids apart.
    """
    shown = _KEEP.sub("-", job_id)[:40].strip("-.") or "job"
    digest = hashlib.sha256(job_id.encode()).hexdigest()[:8]
    return f"cronium-{installation}-{shown}-{digest}-{attempt}"


def remote_place_name(installation: str, number: int) -> str:
    """The name of a place on a server; `number` (96 bits, by chance) makes it one that nobody else comes upon."""
    return f"cronium-{installation}-{number:024x}"


def is_remote_place(name: str, installation: str) -> bool:
    """Whether it is such a name of this installation (or of one of a job's several places). Another id may begin with ours."""
    prefix = f"cronium-{installation}-"
    return name.startswith(prefix) and _REMOTE.match(name[len(prefix) :]) is not None
