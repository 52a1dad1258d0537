"""The servers of a job: who is reached, and what is wrong with those that cannot be."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from cronium.common.job import InvalidJobError, Job
from cronium.common.servers import MAX_SERVERS, Address, Server, host_of, is_host, parse_jump, servers_of

SECRETS = {"privateKey": "-----BEGIN K-----", "passphrase": "pass-phrase", "certificate": "cert-text", "password": "pass-word"}


def job(details: Any = None, servers: Any = None) -> Job:
    metadata = {} if servers is None else {"servers": servers}
    target = {"type": "server"} if details is None else {"type": "server", "serverDetails": details}
    script = {"type": "bash", "content": "true"}
    return Job.model_validate({"id": "j", "execution": {"target": target, "script": script}, "metadata": metadata})


def details(**more: Any) -> dict[str, Any]:
    return {"host": "web.example", "username": "deploy", **more}


def problems(given: Job) -> dict[str, str]:
    with pytest.raises(InvalidJobError) as caught:
        servers_of(given)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_a_server_is_its_targets_details() -> None:
    (server,) = servers_of(job(details(port=2222, name="Web", proxyJump="ops@bastion", **SECRETS)))
    assert (server.name, server.address) == ("Web", Address("web.example", 2222, "deploy"))
    assert (server.private_key, server.passphrase) == (SECRETS["privateKey"], SECRETS["passphrase"])
    assert (server.certificate, server.password) == (SECRETS["certificate"], SECRETS["password"])
    assert server.proxy_jump == Address("bastion", 22, "ops")


def test_what_is_left_out_or_empty_has_its_default() -> None:
    given = details(port=None, name=" ", privateKey="", passphrase=None, proxyJump="")
    (server,) = servers_of(job(given))
    assert (server.name, server.address.port) == ("web.example", 22)
    assert (server.private_key, server.passphrase, server.proxy_jump) == (None, None, None)


def test_several_servers_come_before_the_targets_own() -> None:
    named = [details(host="a.example"), details(host="b.example")]
    assert [server.address.host for server in servers_of(job(details(), named))] == ["a.example", "b.example"]
    assert [server.address.host for server in servers_of(job(details(), []))] == ["web.example"]


def test_a_job_for_a_server_names_one() -> None:
    assert problems(job()) == {"execution.target.serverDetails": "a job for a server needs to know it: host and username"}


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("host", None, "host name"),
        ("host", "", "host name"),
        ("host", "-oProxyCommand=x", "host name"),
        ("host", "a b", "host name"),
        ("host", "a,b", "host name"),
        ("host", "web.example\n", "host name"),
        ("host", "fe80::1%eth0\nx", "host name"),
        ("host", "[::1]", "host name"),
        ("username", None, "user's name"),
        ("username", "a@b", "user's name"),
        ("username", "-l", "user's name"),
        ("username", "a\n", "user's name"),
        ("username", "u" * 65, "user's name"),
        ("port", 0, "1 to 65535"),
        ("port", 65536, "1 to 65535"),
        ("port", True, "1 to 65535"),
        ("port", "22", "1 to 65535"),
        ("privateKey", 1, "must be a text"),
        ("privateKey", "x" * 65537, "must be a text"),
        ("password", ["x"], "must be a text"),
        ("proxyJump", "bastion", "USER@HOST"),
        ("proxyJump", "a@b:0", "USER@HOST"),
        ("proxyJump", "a@b:99999", "USER@HOST"),
        ("proxyJump", 5, "USER@HOST"),
    ],
)
def test_what_is_wrong_with_a_server_is_told_with_its_place(field: str, value: object, told: str) -> None:
    found = problems(job(details(**{field: value}) if value is not None else {k: v for k, v in details().items() if k != field}))
    assert list(found) == [f"execution.target.serverDetails.{field}"]
    assert told in found[f"execution.target.serverDetails.{field}"]


def test_everything_that_is_wrong_is_told_at_once() -> None:
    found = problems(job(servers=[details(host="a b", port=0), "web", details()]))
    assert set(found) == {"metadata.servers.0.host", "metadata.servers.0.port", "metadata.servers.1"}


@pytest.mark.parametrize("servers", [{"host": "a"}, "web", 3])
def test_servers_that_are_no_list_are_refused_and_not_passed_over(servers: object) -> None:
    # Guards: a job never runs on another server than the ones it names.
    assert list(problems(job(details(), servers))) == ["metadata.servers"]


def test_there_are_not_too_many() -> None:
    assert "at most" in problems(job(servers=[details(host=f"h{n}") for n in range(MAX_SERVERS + 1)]))["metadata.servers"]


@pytest.mark.parametrize("again", ["web.example", "WEB.Example"])
def test_one_server_is_not_named_twice(again: str) -> None:
    assert "twice" in problems(job(servers=[details(), details(host=again)]))["metadata.servers"]


def test_two_spellings_of_an_address_are_one_server() -> None:
    long, short = details(host="0:0:0:0:0:0:0:1"), details(host="::1")
    assert "twice" in problems(job(servers=[long, short]))["metadata.servers"]


def test_labels_tell_the_servers_apart() -> None:
    # Guards: a line says which server it came from.
    same = [details(name="web"), details(name="web", port=2), details(name="db", host="db"), details(name="web", privateKey="k")]
    names = [server.name for server in servers_of(job(servers=same))]
    assert names == ["deploy@web.example:22", "deploy@web.example:2", "db", "deploy@web.example:22 (2)"]


def test_a_label_brings_no_control_characters_to_a_terminal() -> None:
    (server,) = servers_of(job(details(name="we\x1b[31mb\n")))
    assert server.name == "we[31mb"


def test_a_key_names_who_logs_in_where_and_how() -> None:
    """Pools never mix two users, keys, ports or ways there."""
    base = Server("a", Address("web", 22, "deploy"), private_key="k")
    others = [
        Server("a", Address("web", 22, "root"), private_key="k"),
        Server("a", Address("web", 23, "deploy"), private_key="k"),
        Server("a", Address("db", 22, "deploy"), private_key="k"),
        Server("a", Address("web", 22, "deploy"), private_key="l"),
        Server("a", Address("web", 22, "deploy"), private_key="k", passphrase="p"),
        Server("a", Address("web", 22, "deploy"), private_key="k", certificate="c"),
        Server("a", Address("web", 22, "deploy"), password="k"),
        Server("a", Address("web", 22, "deploy"), private_key="k", proxy_jump=Address("j", 22, "u")),
    ]
    assert len({server.key for server in (base, *others)}) == 1 + len(others)
    assert Server("another label", base.address, private_key="k").key == base.key
    # What one digest says of a secret says nothing of the same secret elsewhere.
    assert base.key.rpartition("#")[2] != others[0].key.rpartition("#")[2]


@pytest.mark.parametrize("host", ["web", "10.0.0.1", "::1"])
def test_the_host_of_a_key_is_the_same_for_every_user(host: str) -> None:
    keys = [Server("a", Address(host, 22, user), private_key="k").key for user in ("deploy", "root")]
    assert {host_of(key) for key in keys} == {"[::1]:22" if ":" in host else f"{host}:22"}


def test_the_same_address_behind_another_jump_host_is_another_host() -> None:
    ways = [None, *(Address(host, 2222, user) for host in ("one", "::1") for user in ("a", "b"))]
    keys = [Server("a", Address("10.0.0.5", 22, "deploy"), private_key="k", proxy_jump=way).key for way in ways]
    assert {host_of(key) for key in keys} == {"10.0.0.5:22", "10.0.0.5:22 through one:2222", "10.0.0.5:22 through [::1]:2222"}


def test_a_slow_key_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's loop asks for it with each step; 100 servers with passwords would stop it for seconds."""
    made, scrypt = [], hashlib.scrypt

    def counted(*given: Any, **more: Any) -> bytes:
        made.append(given)
        return scrypt(*given, **more)

    monkeypatch.setattr(hashlib, "scrypt", counted)
    servers = [Server(name, Address("h", 22, "u"), password="asked for often") for name in ("a", "b")]
    assert len({server.key for server in servers * 50}) == 1
    assert len(made) <= 1


def test_no_secret_shows() -> None:
    (server,) = servers_of(job(details(**SECRETS)))
    shown = repr(server) + str(server) + server.key
    assert not [secret for secret in SECRETS.values() if secret in shown]
    assert "pass-word" not in str(problems(job(details(port=0, **SECRETS))))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ops@bastion", Address("bastion", 22, "ops")),
        (" ops@Bastion.example:2222 ", Address("bastion.example", 2222, "ops")),
        ("ops@[2001:DB8::1]:22", Address("2001:db8::1", 22, "ops")),
        ("ops@10.0.0.1", Address("10.0.0.1", 22, "ops")),
        ("bastion", None),
        ("ops@", None),
        ("@bastion", None),
        ("ops@a@b", None),
        ("ops@b:x", None),
        ("ops@b:٢٢", None),
        ("ops@::1", None),
        ("-ops@b", None),
    ],
)
def test_a_jump_host_is_read_as_ssh_writes_it(text: str, address: Address | None) -> None:
    assert parse_jump(text) == address


def test_an_address_is_written_so_that_it_can_be_read_again() -> None:
    for address in (Address("web", 22, "a"), Address("::1", 2222, "b")):
        assert parse_jump(str(address)) == address


def test_a_scope_is_no_part_of_a_host() -> None:
    assert is_host("fe80::1")
    assert not is_host("fe80::1%eth0")
