"""Files of ours: made once and then only read (an id, a key), and whose they are. Used by whoever starts first."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def write_once(path: Path, text: str) -> None:
    """Make a file for its owner only, whole and on disk or not at all; one that is there already stays. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was quicker, and then its text counts
            os.link(temporary, path)
    finally:
        temporary.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def give_to_folders_owner(descriptor: int, path: Path) -> None:
    """What root makes in somebody's folder (a command by sudo) is theirs, or the supervisor could not use it. Raises OSError."""
    if os.geteuid() == 0 and not path.is_symlink():
        folder = path.parent.stat()
        os.fchown(descriptor, folder.st_uid, folder.st_gid)
