"""A root file system: its user, its copy, and what of it goes into an image, as tar.

Files only; it knows no engine and no package manager. Runs in the command line's process, as root.
"""

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .events import ImageBuildError

_COPY_TIMEOUT_S = 300

# The engine mounts /dev, /proc and /sys itself; the rest are caches, logs and what only installing packages needs.
_LEFT_OUT = (
    "dev/",
    "proc/",
    "sys/",
    "run/",
    "tmp/",
    "var/tmp/",
    "var/cache/",
    "var/log/",
    "var/lib/apt/",
    "etc/apt/",
    "etc/dpkg/",
    "usr/share/zoneinfo/right/",
    "usr/share/zoneinfo/posix/",
)
_LEFT_OUT_SUFFIXES = ("-old", ".dpkg-dist", ".dpkg-new")


def belongs_in_image(path: str) -> bool:
    """Whether a path, relative to the root and without a leading slash, goes into an image."""
    return not path.startswith(_LEFT_OUT) and not path.endswith(_LEFT_OUT_SUFFIXES)


def add_user(root: Path, *, name: str, uid: int) -> None:
    """Give the root a user with a group of the same number, a home, and a `/workspace` that it owns."""
    with (root / "etc/passwd").open("a") as passwd:
        passwd.write(f"{name}:x:{uid}:{uid}::/home/{name}:/bin/bash\n")
    with (root / "etc/group").open("a") as group:
        group.write(f"{name}:x:{uid}:\n")
    for folder in (root / "home" / name, root / "workspace"):
        folder.mkdir(mode=0o755, parents=True)
        os.chown(folder, uid, uid)


def copy(root: Path, target: Path) -> int:
    """Copy a whole root as it is; gives the moment (compare with `st_ctime_ns`) after which something there is new."""
    subprocess.run(["cp", "--archive", "--", root, target], check=True, timeout=_COPY_TIMEOUT_S)
    with tempfile.NamedTemporaryFile(dir=target.parent) as marker:
        return Path(marker.name).stat().st_ctime_ns


def pack(root: Path, archive: Path, *, newer_than_ns: int = -1) -> None:
    """Write what belongs in an image as a tar file: all of it, or only what changed after `newer_than_ns`.

    Owners are numbers; access and change times are left out, so that only content counts.
    """
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT, dereference=False) as tar:
        for path in _walk(root):
            name = path.relative_to(root).as_posix()
            if belongs_in_image(name) and path.lstat().st_ctime_ns > newer_than_ns:
                tar.add(path, name, recursive=False, filter=_without_names)


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        yield entry
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)


def _without_names(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uname = member.gname = ""
    member.mtime = int(member.mtime)
    return member


@contextmanager
def workplace(parent: Path) -> Iterator[Path]:
    """Make a folder for roots, and remove it afterwards: never while something is mounted in it (it could be /dev)."""
    folder = Path(tempfile.mkdtemp(prefix="cronium-image-", dir=parent))
    try:
        yield folder
    finally:
        mounted = _mounts_below(folder)
        if mounted:
            raise ImageBuildError(
                f"{folder} cannot be removed: something is still mounted in it. "
                f"Next: `umount {' '.join(mounted)}`, then `rm -r {folder}`."
            )
        shutil.rmtree(folder)


def _mounts_below(folder: Path) -> list[str]:
    """Mount points in a folder, the innermost first (proc(5), mountinfo: the fifth field, spaces as octal)."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    inside = [point.encode().decode("unicode_escape") for point in points if point.startswith(f"{folder}/")]
    return sorted(inside, key=len, reverse=True)
