"""What of a root goes into an image: all that programs need, nothing that only installing needed, and layers of news only."""

import os
import tarfile
from pathlib import Path

import pytest

from cronium.supervisor.images import rootfs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    for name in (
        "bin/sh",
        "etc/passwd",
        "etc/group",
        "etc/apt/sources.list",
        "var/cache/apt/pkgcache.bin",
        "var/lib/dpkg/status",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x\n")
    (folder / "var/lib/dpkg/status-old").write_text("x\n")
    (folder / "bin/bash").symlink_to("sh")
    (folder / "tmp").mkdir(mode=0o700)
    (folder / "tmp").chmod(0o1777)
    (folder / "tmp/rest").write_text("x\n")
    return folder


def members(archive: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(archive) as tar:
        return {member.name: member for member in tar}


def test_caches_and_what_only_installing_needs_stay_out(root: Path, tmp_path: Path) -> None:
    rootfs.pack(root, tmp_path / "all.tar")
    found = members(tmp_path / "all.tar")
    assert {"bin/sh", "bin/bash", "etc/passwd", "var/lib/dpkg/status", "tmp", "var/cache"} <= set(found)
    assert not {"etc/apt/sources.list", "var/cache/apt", "var/lib/dpkg/status-old", "tmp/rest"} & set(found)
    assert found["tmp"].mode == 0o1777
    assert found["bin/bash"].linkname == "sh"


def test_a_layer_has_what_changed_after_the_copy_and_nothing_else(root: Path, tmp_path: Path) -> None:
    copied_ns = rootfs.copy(root, tmp_path / "copy")
    (tmp_path / "copy/bin/python3").write_text("new\n")
    (tmp_path / "copy/var/lib/dpkg/status").write_text("changed\n")
    rootfs.pack(tmp_path / "copy", tmp_path / "layer.tar", newer_than_ns=copied_ns)
    assert set(members(tmp_path / "layer.tar")) == {"bin", "bin/python3", "var/lib/dpkg/status"}


def test_the_user_owns_its_home_and_the_workspace(root: Path) -> None:
    rootfs.add_user(root, name="cronium", uid=os.getuid())
    assert (root / "etc/passwd").read_text().endswith(f"cronium:x:{os.getuid()}:{os.getuid()}::/home/cronium:/bin/bash\n")
    assert (root / "workspace").stat().st_uid == os.getuid()
    assert (root / "home/cronium").is_dir()


def test_a_workplace_is_gone_afterwards_also_after_an_error(tmp_path: Path) -> None:
    def fail_inside() -> None:
        with rootfs.workplace(tmp_path) as folder:
            (folder / "base").mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_inside()
    assert list(tmp_path.iterdir()) == []
