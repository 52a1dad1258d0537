"""Names that others see. Promise 5: a place is found again by its name, and no two attempts share one."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cronium.common.ids import INSTALLATION_FILE, InstallationIdError, installation_id, place_name

_CONTAINER_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")  # what the Docker engine takes


@given(job_id=st.text(min_size=1, max_size=200), attempt=st.integers(1, 1000))
def test_a_place_has_a_legal_name_of_bounded_length(job_id: str, attempt: int) -> None:
    name = place_name("0123456789ab", job_id, attempt)
    assert _CONTAINER_NAME.match(name)
    assert len(name) <= 80
    assert name == place_name("0123456789ab", job_id, attempt)


def test_places_differ_by_installation_job_and_attempt() -> None:
    odd = ["job", "job/", "job:", "JOB", "job ", "a" * 200, "a" * 199 + "b", "..", "-", "é", "é\n"]
    names = {place_name(i, job, attempt) for i in ("one", "two") for job in odd for attempt in (1, 11, 111)}
    assert len(names) == 2 * len(odd) * 3


def test_a_person_finds_the_job_in_the_name() -> None:
    assert "job_1LwZq0aBcDeF" in place_name("0123456789ab", "job_1LwZq0aBcDeF", 1)


def test_the_installation_keeps_its_id(tmp_path: Path) -> None:
    first = installation_id(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{12}", first)
    assert installation_id(tmp_path) == first
    assert (tmp_path / INSTALLATION_FILE).stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [INSTALLATION_FILE]


def test_processes_that_start_at_once_agree_on_one_id(tmp_path: Path) -> None:
    """An id that is read half written would let one installation remove the places of another."""
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(installation_id, [folder] * 8))) == 1


@pytest.mark.parametrize("text", ["", "\n", "two words", "../up", "-x", "a" * 65, "\x00", "é"])
def test_a_file_without_an_id_is_told_not_used(tmp_path: Path, text: str) -> None:
    (tmp_path / INSTALLATION_FILE).write_text(text)
    with pytest.raises(InstallationIdError, match="remove the file"):
        installation_id(tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        installation_id(tmp_path / "missing")
