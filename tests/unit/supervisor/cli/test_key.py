"""`key rotate`: a new key is made for everything we store, and what was stored stays readable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cronium.common.crypto import KEY_FILE, KEY_VARIABLE, Seal, load_seal
from cronium.supervisor.cli.app import app


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "standalone").mkdir()
    return tmp_path


def rotate(state: Path, *arguments: str, **environment: str) -> Result:
    env = {"CRONIUM_STATE_DIR": str(state), "COLUMNS": "200", "TERM": "dumb", KEY_VARIABLE: None, **environment}
    return CliRunner().invoke(app, ["key", "rotate", *arguments], env=env)


def test_both_files_get_a_new_first_line(state: Path) -> None:
    folders = (state, state / "standalone")
    before: list[Seal] = [load_seal(folder, {}) for folder in folders]
    lines = [(folder / KEY_FILE).read_text() for folder in folders]
    result = rotate(state)
    assert result.exit_code == 0, result.output
    for folder, seal, old in zip(folders, before, lines, strict=True):
        now = load_seal(folder, {})
        assert now.key_id != seal.key_id
        assert now.key_id in result.output
        assert now.open(seal.close(b"x")) == b"x"
        text = (folder / KEY_FILE).read_text()
        assert text.endswith(f"\n{old}")
        assert text.splitlines()[0] not in result.output, "a key is never shown"


def test_for_programs_it_says_what_it_did_as_json(state: Path) -> None:
    load_seal(state, {})
    said = json.loads(rotate(state, "--json").stdout)
    assert said == {"keys": [{"file": str(state / KEY_FILE), "id": load_seal(state, {}).key_id}]}


def test_a_key_that_comes_from_the_environment_is_not_ours_to_change(state: Path) -> None:
    load_seal(state, {})
    before = (state / KEY_FILE).read_text()
    result = rotate(state, **{KEY_VARIABLE: "something"})
    assert result.exit_code == 1
    assert "openssl rand -base64 32" in result.output
    assert (state / KEY_FILE).read_text() == before


def test_without_a_key_it_asks_whether_the_folder_is_right(state: Path) -> None:
    result = rotate(state)
    assert result.exit_code == 1
    assert "CRONIUM_STATE_DIR" in result.output
    assert not (state / KEY_FILE).exists()
