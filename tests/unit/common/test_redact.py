"""Promise 6: no secret in what we say ourselves, by name or by text, however it is quoted."""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from cronium.common.redact import MASK, Redactor


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "renewalToken",
        "service_token",
        "password",
        "PASSWD",
        "passphrase",
        "privateKey",
        "private_key",
        "api_key",
        "Authorization",
        "client_secret",
        "credentials",
        "Set-Cookie",
        "environment",
        "env",
    ],
)
def test_a_value_with_a_secrets_name_is_masked_at_any_depth(name: str) -> None:
    redactor = Redactor()
    assert redactor.entry(name, "x") == MASK
    assert redactor.plain({"a": [{name: {"KEY": "value"}}]}) == {"a": [{name: MASK}]}


@pytest.mark.parametrize("name", ["key", "job_id", "idempotency_key", "environments_seen", "path", "author"])
def test_other_names_are_left_alone(name: str) -> None:
    assert Redactor().entry(name, "x") == "x"


def test_whether_there_is_a_secret_may_be_said() -> None:
    assert Redactor().plain({"token": None, "has_token": True}) == {"token": None, "has_token": True}


SECRETS = st.text(min_size=4, max_size=40).filter(lambda text: len(text.strip()) >= 4 and MASK not in text)


@given(
    SECRETS,
    st.sampled_from(
        [str, repr, json.dumps, lambda text: json.dumps(text, ensure_ascii=False), lambda text: quote(text, safe="")]
    ),
)
def test_a_known_secret_is_masked_however_it_is_quoted(secret: str, quoted: Any) -> None:
    try:
        text = f"before<{quoted(secret)}>after"
    except UnicodeEncodeError:
        return
    masked = Redactor().with_secrets([secret]).text(text)
    assert masked.startswith("before<")
    assert masked.endswith(">after")
    assert MASK in masked
    assert secret.strip() not in masked or secret.strip() in MASK


def test_of_secrets_that_begin_alike_all_of_the_longer_one_goes() -> None:
    assert Redactor().with_secrets(["abcd", "abcdefgh"]).text("abcdefgh abcd") == f"{MASK} {MASK}"


def test_a_key_of_many_lines_is_masked_line_by_line() -> None:
    """A message often shows one line of a private key only."""
    key = "-----BEGIN KEY-----\nMIIEowIBAAKCAQEA\nab\n-----END KEY-----\n"
    assert Redactor().with_secrets([key]).text("bad line: MIIEowIBAAKCAQEA ab") == f"bad line: {MASK} ab"


def test_a_very_short_secret_does_not_mask_every_word() -> None:
    assert Redactor().with_secrets(["a", "1", ""]).text("a plain 1 line") == "a plain 1 line"


def test_more_secrets_leave_the_first_redactor_as_it_was() -> None:
    first = Redactor().with_secrets(["first"])
    second = first.with_secrets(["second"])
    assert (first.text("first second"), second.text("first second")) == (f"{MASK} second", f"{MASK} {MASK}")


def test_a_redactor_does_not_print_its_secrets() -> None:
    assert "hunter22" not in repr(Redactor().with_secrets(["hunter22"]))


@dataclass
class Thing:
    text: str


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_any_value_becomes_plain_and_masked() -> None:
    redactor = Redactor().with_secrets(["hunter22"])
    loop: list[Any] = []
    loop.append(loop)
    values = {
        "thing": Thing("hunter22"),
        "error": ValueError("hunter22"),
        "secret_str": SecretStr("x"),
        "bytes": b"hunter22\xff",
        "set": {"hunter22"},
        "huge": 10**400,
        "mute": Mute(),
        "loop": loop,
        ("hunter22", 1): 1,
    }
    text = orjson.dumps(redactor.plain(values)).decode()
    assert "hunter22" not in text
    assert f"Thing(text='{MASK}')" in text
    assert f"ValueError: {MASK}" in text
