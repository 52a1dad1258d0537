"""Promise 6: what we store in files cannot be read without the key, and a wrong key is told, never guessed around."""

from __future__ import annotations

import base64
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cronium.common.crypto import KEY_FILE, KEY_VARIABLE, OLD_KEYS_VARIABLE, Seal, SealError, load_seal, rotate

_KEY = bytes(range(32))


@given(clear=st.binary(max_size=500), context=st.text(max_size=30))
def test_what_was_sealed_can_be_opened_in_its_context_only(clear: bytes, context: str) -> None:
    seal = Seal(_KEY)
    sealed = seal.close(clear, context)
    assert seal.open(sealed, context) == clear
    with pytest.raises(SealError):
        seal.open(sealed, context + "x")


def test_a_seal_shows_nothing_and_never_looks_the_same_twice() -> None:
    seal = Seal(_KEY)
    sealed = [seal.close(b"a secret that is long enough to find") for _ in range(100)]
    assert len(set(sealed)) == 100
    assert not any(b"secret" in s for s in sealed)


@given(data=st.data())
def test_a_single_wrong_byte_is_noticed(data: st.DataObject) -> None:
    seal = Seal(_KEY)
    sealed = bytearray(seal.close(b"clear text", "job"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealError, match="of job"):
        seal.open(bytes(sealed), "job")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 12, 27])
def test_what_is_too_short_to_be_sealed_is_refused(size: int) -> None:
    with pytest.raises(SealError):
        Seal(_KEY).open(bytes(size))


def test_the_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    sealed = load_seal(tmp_path, {}).close(b"clear")
    assert load_seal(tmp_path, {}).open(sealed) == b"clear"
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [KEY_FILE]


def test_processes_that_start_at_once_have_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        seals = list(pool.map(lambda _: load_seal(tmp_path, {}), range(8)))
    assert all(other.open(seals[0].close(b"x")) == b"x" for other in seals)


def test_the_environment_has_the_first_word(tmp_path: Path) -> None:
    environ = {KEY_VARIABLE: base64.b64encode(_KEY).decode() + "\n"}
    assert Seal(_KEY).open(load_seal(tmp_path, environ).close(b"x")) == b"x"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["no base64!", "YWJj", "é", base64.b64encode(bytes(33)).decode()])
def test_a_malformed_key_is_told_with_what_to_do_and_not_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / KEY_FILE).write_text(text)
    (tmp_path / KEY_FILE).chmod(0o600)
    for environ in ({KEY_VARIABLE: text}, {}):
        with pytest.raises(SealError, match="openssl rand -base64 32") as caught:
            load_seal(tmp_path, environ)
        assert text not in str(caught.value)


def test_a_key_file_of_bytes_is_told(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_bytes(os.urandom(32) + b"\xff")
    (tmp_path / KEY_FILE).chmod(0o600)
    with pytest.raises(SealError, match="not base64"):
        load_seal(tmp_path, {})


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    load_seal(tmp_path, {})
    (tmp_path / KEY_FILE).chmod(0o640)
    with pytest.raises(SealError, match="chmod 600"):
        load_seal(tmp_path, {})


def test_another_key_does_not_open_it_and_the_text_says_which_to_put_back(tmp_path: Path) -> None:
    sealed = load_seal(tmp_path, {}).close(b"clear", "job 7")
    with pytest.raises(SealError, match=f"of job 7.*{KEY_FILE}"):
        Seal(_KEY).open(sealed, "job 7")


def test_older_keys_only_open(tmp_path: Path) -> None:
    new, old, older = (base64.b64encode(bytes([number]) * 32).decode() for number in range(3))
    with_old = load_seal(tmp_path, {KEY_VARIABLE: new, OLD_KEYS_VARIABLE: f"{old}, {older},"})
    for number in range(3):
        assert with_old.open(Seal(bytes([number]) * 32).close(b"x", "job"), "job") == b"x"
    assert Seal(bytes(32)).open(with_old.close(b"x")) == b"x", "closed with the first"
    (tmp_path / KEY_FILE).write_text(f"{new}\n{old}\n\n{older}\n")
    (tmp_path / KEY_FILE).chmod(0o600)
    assert load_seal(tmp_path, {}).known_ids == with_old.known_ids
    assert load_seal(tmp_path, {}).key_id == with_old.key_id


def test_a_malformed_old_key_is_told(tmp_path: Path) -> None:
    good = base64.b64encode(bytes(32)).decode()
    with pytest.raises(SealError, match=OLD_KEYS_VARIABLE):
        load_seal(tmp_path, {KEY_VARIABLE: good, OLD_KEYS_VARIABLE: "YWJj"})


def test_a_file_that_is_none_of_ours_is_not_rotated(tmp_path: Path) -> None:
    path = tmp_path / KEY_FILE
    with pytest.raises(FileNotFoundError):
        rotate(tmp_path)
    for text, mode in (("", 0o600), ("no key\n", 0o600), (base64.b64encode(bytes(32)).decode(), 0o644)):
        path.write_text(text)
        path.chmod(mode)
        with pytest.raises(SealError):
            rotate(tmp_path)
        assert path.read_text() == text
