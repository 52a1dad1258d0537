"""The table of keys: complete, without doubles, and helpful about names that are not in it."""

from collections import Counter

import pytest

from cronium.common.config.keys import Key, all_keys, all_sections, nearest

EVERY_KEY = [pytest.param(key, id=key.path) for key in all_keys().values()]


def test_no_two_keys_share_a_variable() -> None:
    """An override reaches one key, and no name of one key reads as a secret's file of another."""
    names = [name for key in all_keys().values() for name in (*key.env, *(f"{env}_FILE" for env in key.env if key.secret))]
    assert [name for name, count in Counter(names).items() if count > 1] == []


@pytest.mark.parametrize("key", EVERY_KEY)
def test_every_key_is_explained(key: Key) -> None:
    assert key.description
    assert key.allowed
    assert not key.description.endswith(".")


@pytest.mark.parametrize("key", EVERY_KEY)
def test_every_number_has_a_least_and_a_greatest_value(key: Key) -> None:
    number = isinstance(key.default, int | float) and not isinstance(key.default, bool)
    assert not number or " from " in key.allowed


def test_the_spellings_of_the_design_are_kept() -> None:
    spelled = ("container.resources.defaultCPU", "container.security.readOnlyRootFS", "ssh.connectionPool.maxPerServer")
    assert set(spelled) <= set(all_keys())
    assert all_keys()["container.security.readOnlyRootFS"].env == ("CRONIUM_CONTAINER_SECURITY_READ_ONLY_ROOT_FS",)


def test_only_the_token_and_the_keys_passphrase_are_secrets() -> None:
    """A new secret must be named here, so that somebody has thought of where it is shown."""
    assert [key.path for key in all_keys().values() if key.secret] == ["api.token", "ssh.keyPassphrase"]


@pytest.mark.parametrize(
    ("unknown", "known"),
    [
        ("jobs.maxConcurent", "jobs.maxConcurrent"),
        ("jobs.max_concurrent", "jobs.maxConcurrent"),
        ("jobs.pollinterval", "jobs.pollInterval"),
        ("job", "jobs"),
        ("container.resource", "container.resources"),
        ("container.resources.memory", "container.resources.maxMemory"),
        ("jobs.pingInterval", "logging.websocket.pingInterval"),
        ("logging.level", "monitoring.logging.level"),
        ("container.endpoint", "container.docker.endpoint"),
        ("frobnicate", None),
        ("jobs.x", None),
    ],
)
def test_an_unknown_name_brings_the_one_that_was_meant(unknown: str, known: str | None) -> None:
    assert nearest(unknown) == known


def test_sections_are_no_keys() -> None:
    assert not all_sections() & set(all_keys())
    assert {"api", "api.retry", "container.docker", "monitoring.logging"} <= all_sections()
