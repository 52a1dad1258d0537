"""Whether a server is the one it was before: OpenSSH's own files, read as OpenSSH reads them, and written by several at once."""

from __future__ import annotations

import base64
import multiprocessing
import stat
import subprocess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Literal

import paramiko
import pytest
from structlog.testing import capture_logs

from cronium.common.errors import ExecutionError, Reason
from cronium.common.servers import Address
from cronium.worker.ssh.known_hosts import KnownHosts
from cronium.worker.ssh.known_hosts_lines import matches, name_of, parse
from peers.keygen import fingerprint, keypair, ssh_keygen

PUBLIC = {kind: keypair(kind)[1] for kind in ("ed25519", "ecdsa", "rsa")}
OTHER = keypair("ed25519", number=1)[1]


def pkey(public: str) -> paramiko.PKey:
    kind, text = public.split()[:2]
    return paramiko.PKey.from_type_string(kind, base64.b64decode(text))


KEY = pkey(PUBLIC["ed25519"])
ECDSA = pkey(PUBLIC["ecdsa"])
RSA = pkey(PUBLIC["rsa"])
OTHER_KEY = pkey(OTHER)


def line(hosts: str, public: str = PUBLIC["ed25519"], marker: str = "") -> str:
    return " ".join([*([marker] if marker else []), hosts, *public.split()[:2]])


def known(folder: Path, *lines: str, mode: Literal["strict", "accept-new"] = "strict") -> KnownHosts:
    path = folder / "known_hosts"
    path.write_text("".join(f"{one}\n" for one in lines))
    return KnownHosts(path, mode)


def refused(reason: Reason, hosts: KnownHosts, host: str, port: int, key: paramiko.PKey) -> str:
    with pytest.raises(ExecutionError) as caught:
        hosts.check(host, port, key)
    assert caught.value.reason is reason
    assert caught.value.retryable is False
    return str(caught.value)


# --- for whom a line is


@pytest.mark.parametrize(
    ("hosts", "host", "port", "fits"),
    [
        ("web", "web", 22, True),
        ("web", "WEB", 22, True),
        ("Web", "web", 22, True),
        ("web", "web2", 22, False),
        ("web", "web", 2222, False),
        ("[web]:2222", "web", 2222, True),
        ("[web]:2222", "web", 22, False),
        ("[web]:22", "web", 22, False),
        ("db,web,10.0.0.1", "web", 22, True),
        ("db,web,10.0.0.1", "10.0.0.1", 22, True),
        ("*.example", "web.example", 22, True),
        ("*.example", "example", 22, False),
        ("web?", "web1", 22, True),
        ("web?", "web", 22, False),
        ("[*.example]:2222", "a.example", 2222, True),
        ("*.example,!bad.example", "bad.example", 22, False),
        ("!bad.example,*.example", "bad.example", 22, False),
        ("*.example,!bad.example", "good.example", 22, True),
        ("!bad.example", "good.example", 22, False),
        ("::1", "::1", 22, True),
        ("[::1]:2222", "::1", 2222, True),
        ("[abc]", "a", 22, False),
        ("we[bc]", "web", 22, False),
        ("", "web", 22, False),
        ("|1|AAAA|AAAA", "web", 22, False),
    ],
)
def test_a_line_is_for_those_that_openssh_takes_it_for(hosts: str, host: str, port: int, fits: bool) -> None:
    assert matches(hosts, name_of(host, port)) is fits


@pytest.mark.parametrize(
    ("host", "port", "name"), [("web.example", 22, "web.example"), ("web.example", 2222, "[web.example]:2222")]
)
def test_names_that_ssh_keygen_has_hashed_are_found(host: str, port: int, name: str, tmp_path: Path) -> None:
    hosts = known(tmp_path, line(name), line("other.example", OTHER))
    ssh_keygen("-H", "-f", hosts.path)
    assert host not in hosts.path.read_text()
    assert hosts.check(host, port, KEY) == "known"
    assert "line 1" in refused(Reason.HOST_KEY_CHANGED, hosts, host, port, OTHER_KEY)
    refused(Reason.HOST_KEY_UNKNOWN, hosts, "elsewhere.example", port, KEY)


# --- what is checked


def test_a_known_key_is_let_in(tmp_path: Path) -> None:
    hosts = known(tmp_path, "# a comment", "", line("web"), line("web", PUBLIC["rsa"]))
    assert hosts.check("web", 22, KEY) == "known"
    assert hosts.check("web", 22, RSA) == "known"


def test_types_to_ask_for_first_come_in_the_files_order(tmp_path: Path) -> None:
    lines = (line("web", PUBLIC["rsa"]), line("web"), line("db", PUBLIC["ecdsa"]), line("web", OTHER))
    hosts = known(tmp_path, *lines, line("web", PUBLIC["ecdsa"], "@revoked"))
    assert hosts.algorithms("web", 22) == ("ssh-rsa", "ssh-ed25519")
    assert hosts.algorithms("nobody", 22) == ()


def test_a_changed_key_is_refused_loudly_with_both_fingerprints_and_the_line(tmp_path: Path) -> None:
    hosts = known(tmp_path, "# first", line("db"), line("[web]:2222"), mode="accept-new")
    said = refused(Reason.HOST_KEY_CHANGED, hosts, "web", 2222, OTHER_KEY)
    assert "HAS CHANGED" in said
    assert fingerprint(OTHER) in said
    assert fingerprint(PUBLIC["ed25519"]) in said
    assert f"{hosts.path} line 3 " in said
    assert f"ssh-keygen -R '[web]:2222' -f {hosts.path}" in said
    assert "cronium-supervisor ssh trust web:2222" in said
    assert hosts.path.read_text().count("\n") == 3


def test_the_command_that_is_advised_makes_it_unknown_again(tmp_path: Path) -> None:
    hosts = known(tmp_path, line("[web]:2222"))
    ssh_keygen("-R", "[web]:2222", "-f", hosts.path)
    refused(Reason.HOST_KEY_UNKNOWN, hosts, "web", 2222, OTHER_KEY)


@pytest.mark.parametrize("mode", ["strict", "accept-new"])
def test_a_key_of_another_type_than_those_known_has_changed_too(mode: Literal["strict", "accept-new"], tmp_path: Path) -> None:
    # Guards: whoever stands between cannot show a key of a type that was never recorded.
    hosts = known(tmp_path, line("web", PUBLIC["rsa"]), mode=mode)
    said = refused(Reason.HOST_KEY_CHANGED, hosts, "web", 22, KEY)
    assert fingerprint(PUBLIC["rsa"]) in said


def test_one_of_several_known_keys_of_a_type_is_enough(tmp_path: Path) -> None:
    hosts = known(tmp_path, line("web", OTHER), line("web"))
    assert hosts.check("web", 22, KEY) == "known"


def test_an_unknown_key_is_refused_with_what_to_do(tmp_path: Path) -> None:
    hosts = known(tmp_path, line("db"))
    said = refused(Reason.HOST_KEY_UNKNOWN, hosts, "web", 22, KEY)
    assert fingerprint(PUBLIC["ed25519"]) in said
    assert said.endswith("cronium-supervisor ssh trust web")
    assert refused(Reason.HOST_KEY_UNKNOWN, hosts, "::1", 2222, KEY).endswith("cronium-supervisor ssh trust [::1]:2222")


@pytest.mark.parametrize("mode", ["strict", "accept-new"])
def test_a_revoked_key_is_refused_wherever_it_stands(mode: Literal["strict", "accept-new"], tmp_path: Path) -> None:
    for lines in ((line("*", marker="@revoked"),), (line("web"), line("web", marker="@revoked"))):
        hosts = known(tmp_path, *lines, mode=mode)
        assert "IS REVOKED" in refused(Reason.HOST_KEY_CHANGED, hosts, "web", 22, KEY)
    assert known(tmp_path, line("*", marker="@revoked"), line("web", OTHER)).check("web", 22, OTHER_KEY) == "known"


@pytest.mark.parametrize("mode", ["strict", "accept-new"])
def test_an_authority_alone_is_told_not_to_be_supported(mode: Literal["strict", "accept-new"], tmp_path: Path) -> None:
    hosts = known(tmp_path, line("*.example", OTHER, "@cert-authority"), mode=mode)
    assert "line 1 names an authority" in refused(Reason.HOST_KEY_UNKNOWN, hosts, "web.example", 22, KEY)
    beside = known(tmp_path, line("*.example", OTHER, "@cert-authority"), line("web.example"))
    assert beside.check("web.example", 22, KEY) == "known"


def test_a_key_of_a_type_that_we_cannot_use_still_says_that_the_server_is_known(tmp_path: Path) -> None:
    dsa = keypair("dsa", 1024)[1]
    hosts = known(tmp_path, line("web", dsa), mode="accept-new")
    assert hosts.algorithms("web", 22) == ("ssh-dss",)
    assert fingerprint(dsa) in refused(Reason.HOST_KEY_CHANGED, hosts, "web", 22, KEY)


# --- the file as it is found


def test_a_file_that_is_missing_knows_nobody(tmp_path: Path) -> None:
    hosts = KnownHosts(tmp_path / "none" / "known_hosts", "strict")
    assert hosts.algorithms("web", 22) == ()
    refused(Reason.HOST_KEY_UNKNOWN, hosts, "web", 22, KEY)
    assert not hosts.path.parent.exists()


def test_an_edit_counts_at_once(tmp_path: Path) -> None:
    hosts = known(tmp_path)
    refused(Reason.HOST_KEY_UNKNOWN, hosts, "web", 22, KEY)
    hosts.path.write_text(line("web"))
    assert hosts.check("web", 22, KEY) == "known"
    hosts.path.unlink()
    refused(Reason.HOST_KEY_UNKNOWN, hosts, "web", 22, KEY)


def test_broken_lines_are_skipped_and_told_once_with_their_number(tmp_path: Path) -> None:
    text = PUBLIC["ed25519"].split()[1]
    broken = [
        "web",
        "web ssh-ed25519",
        "web ssh-ed25519 !!!",
        f"web ssh-rsa {text}",
        "web ssh-ed25519 AAAA",
        f"@nonsense web ssh-ed25519 {text}",
        "|1|x web y",
        f"|2|AAAA|AAAA ssh-ed25519 {text}",
        "\x00\x01\xff",
        "web 256 65537 1234",
    ]
    hosts = known(tmp_path, *broken, line("web"))
    with capture_logs() as logs:
        assert hosts.check("web", 22, KEY) == "known"
        assert hosts.check("web", 22, KEY) == "known"
    assert [entry["line"] for entry in logs] == list(range(1, len(broken) + 1))
    assert all(entry["problem"] for entry in logs)


def test_lines_of_windows_and_a_missing_last_newline_are_read(tmp_path: Path) -> None:
    hosts = known(tmp_path)
    hosts.path.write_bytes(f"{line('db', OTHER)}\r\n{line('web')} a comment\r\n{line('x')}".encode())
    assert hosts.check("web", 22, KEY) == "known"
    assert hosts.check("x", 22, KEY) == "known"


def test_our_reading_and_openssh_agree_on_a_file_of_its_own(tmp_path: Path) -> None:
    names = ["web", "[web]:2222", "a.example,10.0.0.7", "[::1]:23"]
    hosts = known(tmp_path, *(line(name) for name in names))
    for host, port, name in (
        ("web", 22, "web"),
        ("web", 2222, "[web]:2222"),
        ("10.0.0.7", 22, "10.0.0.7"),
        ("::1", 23, "[::1]:23"),
    ):
        assert name.split(",")[0] in ssh_keygen("-F", name, "-f", hosts.path)
        assert hosts.check(host, port, KEY) == "known"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    hosts = KnownHosts(tmp_path, "accept-new")  # a folder
    assert f"cannot be read from {tmp_path}" in refused(Reason.HOST_KEY_UNKNOWN, hosts, "web", 22, KEY)


def test_any_bytes_are_lines_or_none() -> None:
    for text in ("\n\n\n", "@", "@revoked", "@revoked x", "a\tb\tc", "|||| a b", "\ud800 ssh-rsa AAAA", "a " * 100_000):
        list(parse(text))


# --- taking down


def test_a_first_key_is_taken_down_for_its_owner_only_and_openssh_can_use_it(tmp_path: Path) -> None:
    hosts = KnownHosts(tmp_path / "made" / "here" / "known_hosts", "accept-new")
    assert hosts.check("web", 2222, KEY) == "recorded"
    assert hosts.check("web", 2222, KEY) == "known"
    assert stat.S_IMODE(hosts.path.stat().st_mode) == 0o600
    assert hosts.path.read_text() == line("[web]:2222") + "\n"
    assert "found: line 1" in ssh_keygen("-F", "[web]:2222", "-f", hosts.path)


def test_what_was_there_stays_as_it_was(tmp_path: Path) -> None:
    hosts = known(tmp_path, mode="accept-new")
    hosts.path.write_text("# mine\n" + line("db", OTHER))  # without a newline at its end
    hosts.check("web", 22, KEY)
    assert hosts.path.read_text().splitlines() == ["# mine", line("db", OTHER), line("web")]


def test_all_keys_of_a_server_are_taken_down_together_and_none_twice(tmp_path: Path) -> None:
    hosts = known(tmp_path, line("web"))
    hosts.record("web", 22, KEY, RSA, ECDSA)
    hosts.record("web", 22, KEY, RSA, ECDSA)
    assert hosts.algorithms("web", 22) == ("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256")
    assert len(hosts.path.read_text().splitlines()) == 3


def test_a_key_that_contradicts_is_not_taken_down(tmp_path: Path) -> None:
    hosts = known(tmp_path, line("web"))
    for keys in ((OTHER_KEY,), (RSA,), (RSA, OTHER_KEY)):
        with pytest.raises(ExecutionError) as caught:
            hosts.record("web", 22, *keys)
        assert caught.value.reason is Reason.HOST_KEY_CHANGED
    assert hosts.path.read_text() == line("web") + "\n"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    hosts = KnownHosts(tmp_path / "file" / "known_hosts", "accept-new")
    said = refused(Reason.HOST_KEY_UNKNOWN, hosts, "web", 22, KEY)
    assert "ssh.knownHostsFile" in said


def _accept(path: Path, public: str, start: Barrier, answers: multiprocessing.Queue[str]) -> None:
    hosts, key = KnownHosts(path, "accept-new"), pkey(public)
    start.wait(30)
    try:
        answers.put(hosts.check("web", 22, key))
    except ExecutionError as error:
        answers.put(error.reason.value)


def test_of_many_who_see_a_server_first_with_different_keys_one_is_believed(tmp_path: Path) -> None:
    """Promise: whoever stands between one of our workers and the server is refused, and never recorded beside it."""
    context = multiprocessing.get_context("fork")
    for round_number in range(5):
        path = tmp_path / f"known_hosts.{round_number}"
        answers: multiprocessing.Queue[str] = context.Queue()
        publics = [PUBLIC["ed25519"], OTHER, PUBLIC["rsa"]] * 2
        start = context.Barrier(len(publics))
        arguments = ((path, public, start, answers) for public in publics)
        workers = [context.Process(target=_accept, args=given, daemon=True) for given in arguments]
        for worker in workers:
            worker.start()
        found = sorted(answers.get(timeout=30) for _ in workers)
        for worker in workers:
            worker.join(30)
        assert found.count("host_key_changed") == 4
        assert set(found) <= {"host_key_changed", "recorded", "known"}
        assert len(path.read_text().splitlines()) == 1


def test_taking_down_goes_on_while_ssh_keygen_replaces_the_file(tmp_path: Path) -> None:
    # Guards: a key is not written into a file that has just been moved away.
    hosts = known(tmp_path, line("old"), mode="accept-new")
    for number in range(20):
        with subprocess.Popen(
            ["ssh-keygen", "-R", "old", "-f", hosts.path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ):
            pass
        assert hosts.check(f"web{number}", 22, KEY) == "recorded"
    assert len(hosts.path.read_text().splitlines()) == 20


def test_behind_a_jump_host_of_its_own_a_server_has_a_name_of_its_own(tmp_path: Path) -> None:
    """A key of the plain name is good for it (as OpenSSH writes it), another one there is somebody else's."""
    hosts = KnownHosts(tmp_path / "known_hosts", "strict")
    there = hosts.behind(Address("bastion", 2222, "ops"))
    hosts.record("10.0.0.5", 22, KEY)
    assert there.check("10.0.0.5", 22, KEY) == "known"
    with pytest.raises(ExecutionError) as caught:
        there.check("10.0.0.5", 22, OTHER_KEY)
    assert caught.value.reason is Reason.HOST_KEY_UNKNOWN
    assert caught.value.message.endswith("ssh trust 10.0.0.5 --jump ops@bastion:2222")
    there.record("10.0.0.5", 22, OTHER_KEY)
    assert hosts.path.read_text().splitlines()[-1].startswith("10.0.0.5/via/[bastion]:2222 ")
    assert there.check("10.0.0.5", 22, OTHER_KEY) == "known"
    assert hosts.check("10.0.0.5", 22, KEY) == "known"
    with pytest.raises(ExecutionError) as caught:
        there.check("10.0.0.5", 22, KEY)
    assert caught.value.reason is Reason.HOST_KEY_CHANGED


def test_a_key_that_is_revoked_under_the_plain_name_is_refused_behind_a_jump_host_too(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    path.write_text(f"@revoked * {PUBLIC['ed25519']}\n")
    with pytest.raises(ExecutionError) as caught:
        KnownHosts(path, "accept-new").behind(Address("bastion", 22, "ops")).check("10.0.0.5", 22, KEY)
    assert caught.value.reason is Reason.HOST_KEY_CHANGED
