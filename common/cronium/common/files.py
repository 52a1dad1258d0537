"""Files of ours: made once and then only read (an id, a key), and whose they are. Used by whoever starts first."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_once(path: Path, text: str) -> None:
    """Make a file for its owner only, whole and on disk or not at all; one that is there already stays. Raises OSError."""
    with _written(path, text) as temporary, contextlib.suppress(FileExistsError):  # another process was quicker: its text counts
        os.link(temporary, path)


def replace_file(path: Path, text: str) -> None:
    """Put another file in the place of one of ours, for the same owner only, whole and on disk or not at all. Raises OSError."""
    before = path.stat()
    with _written(path, text) as temporary:
        if os.geteuid() == 0:
            os.chown(temporary, before.st_uid, before.st_gid)
        temporary.replace(path)


def sync_folder(path: Path) -> None:
    """Have what was made, renamed or removed in a folder on disk. Raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _written(path: Path, text: str) -> Iterator[Path]:
    """The text in a file beside `path`, on disk; what was done with that file is on disk too, afterwards."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def give_to_folders_owner(descriptor: int, path: Path) -> None:
    """What root makes in somebody's folder (a command by sudo) is theirs, or the supervisor could not use it. Raises OSError."""
    if os.geteuid() == 0 and not path.is_symlink():
        folder = path.parent.stat()
        os.fchown(descriptor, folder.st_uid, folder.st_gid)
