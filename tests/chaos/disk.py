"""A small file system for the spool, which can be full. Needs root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SIZE_BYTES = 64 << 20
_PATIENCE_S = 10.0
_CHUNK = bytes(1 << 16)


class SmallDisk:
    """A tmpfs of SIZE_BYTES at `path`, which is made."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def mount(self) -> None:
        self.path.mkdir(mode=0o700, parents=True)
        options = f"size={SIZE_BYTES},mode=0700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "chaos", self.path], check=True, timeout=_PATIENCE_S)

    def unmount(self) -> None:
        """Harmless when it is not mounted."""
        if self.path.is_mount():
            subprocess.run(["umount", "--lazy", self.path], check=True, timeout=_PATIENCE_S)

    def fill(self) -> None:
        """Take all the space there is."""
        with self._filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(_CHUNK)
            except OSError:
                return  # no space left: as wanted

    def free(self) -> None:
        """Give it back."""
        self._filler.unlink(missing_ok=True)

    def used_bytes(self) -> int:
        """What others hold of it."""
        found = os.statvfs(self.path)
        filler = self._filler.stat().st_size if self._filler.exists() else 0
        return (found.f_blocks - found.f_bfree) * found.f_frsize - filler
