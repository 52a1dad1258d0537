"""A worker that is killed while it makes a place leaves a folder with some of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from cronium.worker.container.files import CREDIT, WRITABLE
from cronium.worker.container.host_files import HostFiles, make_host_files

OPEN_FILES = Path("/proc/self/fd")


@pytest.mark.parametrize("made", range(len(WRITABLE) + 1))
def test_looking_at_a_half_made_folder_leaves_no_file_open(tmp_path: Path, made: int) -> None:
    """Who waits for an engine looks at it again and again (promise 7)."""
    folder = tmp_path / "place"
    make_host_files(folder)
    for name in (*WRITABLE, CREDIT)[made:]:
        (folder / name).unlink()
    before = len(list(OPEN_FILES.iterdir()))
    with pytest.raises(FileNotFoundError):
        HostFiles(folder, {}, 1 << 20, {})
    assert len(list(OPEN_FILES.iterdir())) == before


def test_an_opened_place_is_closed_whole(tmp_path: Path) -> None:
    """Every file, and the watch."""
    make_host_files(tmp_path / "place")
    before = len(list(OPEN_FILES.iterdir()))
    HostFiles(tmp_path / "place", {}, 1 << 20, {}).close()
    assert len(list(OPEN_FILES.iterdir())) == before
