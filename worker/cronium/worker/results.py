"""The files that a script left in its output directory, out of the tar that its place made of them.

Pure but for reading that one stream. The tar is the script's word: only plain files with harmless relative paths come through,
within a bound on bytes and number; everything else is named in `problems`. Nothing is ever unpacked to disk.
"""

from __future__ import annotations

import mimetypes
import tarfile
from pathlib import PurePosixPath
from typing import IO, Protocol, cast

from cronium.common.messages import ResultFile

MAX_FILES = 1000
MAX_PATH = 1000
MAX_PROBLEMS = 20
# What tarfile lets through when a header is odd, beside its own errors (tried with random bytes).
_BAD_TAR = (tarfile.TarError, ValueError, OverflowError, EOFError, IndexError, KeyError, TypeError)


class Readable(Protocol):
    """What can be read once, from its start."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; fewer only at the end."""

    def close(self) -> None:
        """Let go of it."""


def read_results(archive: Readable, max_bytes: int) -> tuple[tuple[ResultFile, ...], tuple[str, ...]]:
    """The files, and what people should know. `max_bytes`: of the whole archive, headers and all."""
    files: dict[str, ResultFile] = {}
    problems: list[str] = []
    members = 0
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _Bounded(archive, max_bytes)), mode="r|") as tar:
            for member in tar:
                members += 1
                if members > MAX_FILES * 2:
                    problems.append(f"more than {MAX_FILES} output files: the rest was left out")
                    break
                problem = _take(tar, member, files, max_bytes)
                if problem is not None:
                    problems.append(problem)
                if tar.offset > max_bytes:  # tarfile would read up to there in small steps, though nothing comes any more
                    problems.append("the archive of the output files goes on behind its end")
                    break
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen; its stub does not know
    except _BAD_TAR as error:
        problems.append(f"the archive of the output files is damaged or cut ({type(error).__name__}: {str(error)[:100]})")
    if len(problems) > MAX_PROBLEMS:
        problems[MAX_PROBLEMS:] = [f"and {len(problems) - MAX_PROBLEMS} more"]
    return tuple(files.values()), tuple(problems)


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, files: dict[str, ResultFile], max_bytes: int) -> str | None:
    if member.isdir():
        return None
    shown = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    path = safe_path(shown)
    if path is None:
        return f"{shown[:100]!r}: not a path inside the output directory"
    if not member.isreg() or member.issparse():
        return f"{path!r}: only plain files are taken, no links, devices or pipes"
    if not 0 <= member.size <= max_bytes:
        return f"{path!r}: {member.size} bytes; at most {max_bytes}"
    if len(files) >= MAX_FILES and path not in files:
        return f"{path!r}: more than {MAX_FILES} output files"
    content = tar.extractfile(member)
    data = content.read() if content is not None else b""
    if len(data) != member.size:
        return f"{path!r}: cut after {len(data)} of {member.size} bytes"
    files[path] = ResultFile(path, mimetypes.guess_type(path)[0] or "application/octet-stream", data)
    return None


def safe_path(name: str) -> str | None:
    """The relative path without `.`; None for one that leads out, is absolute, empty, too long, or has control characters."""
    if not name or name.startswith("/") or len(name) > MAX_PATH or any(ord(c) < 32 or ord(c) == 127 for c in name):
        return None
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts:
        return None
    return "/".join(parts)


class _Bounded:
    """A file that ends after so many bytes, however long it really is."""

    def __init__(self, file: Readable, left: int) -> None:
        self._file, self._left = file, left

    def read(self, size: int) -> bytes:
        """As a file's."""
        data = self._file.read(max(0, min(size, self._left)))
        self._left -= len(data)
        return data
