"""`ssh trust` and `audit verify` as a person calls them, against real sshd processes."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.keygen import fingerprint, ssh_keygen
from peers.sshd import Sshd, public_of

_TIMEOUT_S = 60


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    with Sshd() as server:
        yield server


def command(state: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program, with nobody at a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "cronium.supervisor", *arguments],
        env={**os.environ, "CRONIUM_STATE_DIR": str(state), "COLUMNS": "200", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


def at_a_terminal(state: Path, answer: str, *arguments: str) -> tuple[int, str]:
    """The program, with somebody who answers its question: its exit code and what it says."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "CRONIUM_STATE_DIR": str(state)}
    program = [sys.executable, "-m", "cronium.supervisor", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, env=environment, stdin=theirs, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        said = process.communicate(timeout=_TIMEOUT_S)[0]
        os.close(ours)
    return process.returncode, said


def target(sshd: Sshd) -> str:
    return f"{sshd.address}:{sshd.port}"


def shown(sshd: Sshd, kind: str) -> str:
    return fingerprint(public_of(sshd.host_keys[kind]))


def entries(state: Path) -> list[dict[str, object]]:
    lines = (state / "audit" / "audit-000001.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines][1:]


def test_a_yes_records_all_keys_so_that_openssh_knows_them_too(sshd: Sshd, tmp_path: Path) -> None:
    code, said = at_a_terminal(tmp_path, "y", "ssh", "trust", target(sshd))
    assert code == 0, said
    assert all(shown(sshd, kind) in said for kind in sshd.host_keys)
    recorded = (tmp_path / "known_hosts").read_text().splitlines()
    assert sorted(recorded) == sorted(sshd.known_hosts().splitlines())
    assert len(ssh_keygen("-F", f"[{sshd.address}]:{sshd.port}", "-f", tmp_path / "known_hosts").splitlines()) == 6
    again = command(tmp_path, "ssh", "trust", target(sshd))
    assert again.returncode == 0
    assert "it is known" in again.stderr
    assert {entry["key"] for entry in entries(tmp_path)} == {shown(sshd, kind) for kind in sshd.host_keys}


@pytest.mark.parametrize("answer", ["n", ""])
def test_anything_but_a_yes_records_nothing(answer: str, sshd: Sshd, tmp_path: Path) -> None:
    code, said = at_a_terminal(tmp_path, answer, "ssh", "trust", target(sshd))
    assert code == 1
    assert "nothing was recorded" in said
    assert not (tmp_path / "known_hosts").exists()


def test_without_a_terminal_only_the_named_fingerprint_is_recorded(sshd: Sshd, tmp_path: Path) -> None:
    """Each key is shown by a connection of its own: somebody may stand between at another one."""
    nobody = command(tmp_path, "ssh", "trust", target(sshd))
    assert nobody.returncode == 2
    assert "--yes FINGERPRINT" in nobody.stderr
    other = command(tmp_path, "ssh", "trust", target(sshd), "--yes", "SHA256:" + "A" * 43)
    assert other.returncode == 1
    assert "nothing was recorded" in other.stderr
    assert not (tmp_path / "known_hosts").exists()
    right = command(tmp_path, "ssh", "trust", target(sshd), "--yes", shown(sshd, "ecdsa"))
    assert right.returncode == 0, right.stderr
    assert (tmp_path / "known_hosts").read_text() == sshd.known_hosts_line("ecdsa") + "\n"


def test_a_changed_key_is_refused_and_stays_as_it_is_recorded(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    with Sshd(own_host_keys=True) as other:
        line = other.known_hosts_line("ed25519").replace(str(other.port), str(sshd.port))
    file.write_text(f"# mine\n{line}\n")
    before = file.read_text()
    found = command(
        tmp_path, "ssh", "trust", target(sshd), "--yes", shown(sshd, "ed25519"), CRONIUM_SSH_KNOWN_HOSTS_FILE=str(file)
    )
    assert found.returncode == 1
    assert "HAS CHANGED" in found.stderr
    assert f"{file} line 2" in found.stderr
    assert file.read_text() == before
    assert entries(tmp_path)[-1]["result"] == "host_key_changed"


def test_a_server_that_is_not_there_or_none_ends_in_time_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        found = command(tmp_path, "ssh", "trust", f"127.0.0.1:{closed.getsockname()[1]}")
    assert found.returncode == 1
    assert "cannot be reached" in found.stderr


@pytest.mark.parametrize("says", [b"", b"HTTP/1.0 400 no\r\n\r\n", b"x" * 100_000, b"SSH-2.0-x\r\n" + b"\xff" * 4096])
def test_what_speaks_no_ssh_is_told_within_the_deadline(says: bytes, tmp_path: Path) -> None:
    """A hostile server cannot hold us: silent, garbage, endless."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        connection.sendall(says)
                        while not ended.wait(0.01) and says[:1] in (b"", b"x"):
                            connection.sendall(says)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        began_s = time.monotonic()
        limits = {"CRONIUM_SSH_CONNECTION_POOL_CONNECT_TIMEOUT": "3s"}
        found = command(tmp_path, "ssh", "trust", f"127.0.0.1:{listener.getsockname()[1]}", **limits)
        took_s = time.monotonic() - began_s
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(_TIMEOUT_S)
    assert found.returncode == 1, found.stderr
    assert "Traceback" not in found.stderr
    assert "check the port" in found.stderr
    assert took_s < 30


def by_way_of(gate: Sshd, folder: Path) -> dict[str, str]:
    """Who we are there; the jump host is known already."""
    key = folder / "id"
    key.write_text(gate.private_key)
    key.chmod(0o600)
    (folder / "known_hosts").write_text(gate.known_hosts())
    return {"CRONIUM_SSH_KEY_PATH": str(key)}


def test_a_server_behind_the_configured_jump_host_is_asked_through_it(sshd: Sshd, tmp_path: Path) -> None:
    """HOST_KEY_UNKNOWN of a job advises this very command."""
    with Sshd(own_host_keys=True) as inner:
        own = by_way_of(sshd, tmp_path) | {"CRONIUM_SSH_PROXY_JUMP": f"{sshd.user}@{target(sshd)}"}
        before = sshd.handshakes()
        found = command(tmp_path, "ssh", "trust", target(inner), "--yes", shown(inner, "ed25519"), **own)
        assert found.returncode == 0, found.stderr
        assert sshd.handshakes() - before == 1
        assert (tmp_path / "known_hosts").read_text().splitlines()[-1] == inner.known_hosts_line("ed25519")
        assert command(tmp_path, "ssh", "trust", target(sshd), **own).returncode == 0, "the jump host itself without it"
    gone = command(tmp_path, "ssh", "trust", target(inner), **own)
    assert gone.returncode == 1
    assert "does not reach" in gone.stderr


def test_a_server_behind_a_jump_host_of_its_own_is_recorded_with_it(sshd: Sshd, tmp_path: Path) -> None:
    with Sshd(own_host_keys=True) as inner:
        own = by_way_of(sshd, tmp_path)
        through, before = ("--jump", f"{sshd.user}@{target(sshd)}"), sshd.handshakes()
        found = command(tmp_path, "ssh", "trust", target(inner), *through, "--yes", shown(inner, "ed25519"), **own)
        assert found.returncode == 0, found.stderr
        assert sshd.handshakes() - before == 1
        name = (tmp_path / "known_hosts").read_text().splitlines()[-1].split()[0]
        assert name == f"[{inner.address}]:{inner.port}/via/[{sshd.address}]:{sshd.port}"
        (tmp_path / "known_hosts").unlink()
        unknown = command(tmp_path, "ssh", "trust", target(inner), *through, **own)
        assert unknown.returncode == 1
        assert f"ssh trust {target(sshd)}" in unknown.stderr
    assert command(tmp_path, "ssh", "trust", target(inner), "--jump", "nobody").returncode == 2


def test_an_address_is_recorded_as_jobs_look_it_up(tmp_path: Path) -> None:
    with Sshd(address="::1") as server:
        written = f"[0:0:0:0:0:0:0:1]:{server.port}"
        found = command(tmp_path, "ssh", "trust", written, "--yes", shown(server, "ed25519"))
        assert found.returncode == 0, found.stderr
        assert (tmp_path / "known_hosts").read_text() == server.known_hosts_line("ed25519") + "\n"


@pytest.mark.parametrize("text", ["", "a b", "web:0", "web:99999", "user@web", "[::1", "::1:x", "-web"])
def test_what_is_no_server_is_refused(text: str, tmp_path: Path) -> None:
    found = command(tmp_path, "ssh", "trust", "--", text)
    assert found.returncode == 2
    assert "HOST:PORT" in found.stderr


def test_the_audit_log_is_checked_and_an_edit_is_shown_with_its_line(sshd: Sshd, tmp_path: Path) -> None:
    assert "Nothing has been written" in command(tmp_path, "audit", "verify").stdout
    command(tmp_path, "ssh", "trust", target(sshd), "--yes", shown(sshd, "rsa"))
    right = json.loads(command(tmp_path, "audit", "verify", "--json").stdout)
    assert (right["ok"], right["first"], right["last"]) == (True, 1, 2)
    assert right["hash"] == entries(tmp_path)[-1]["hash"]
    assert right["hash"] in command(tmp_path, "audit", "verify").stdout
    path = tmp_path / "audit" / "audit-000001.jsonl"
    path.write_text(path.read_text().replace('"result":"recorded"', '"result":"refused"'))
    found = command(tmp_path, "audit", "verify")
    assert found.returncode == 1
    assert f"{path} line 2: it was edited" in found.stderr
    fault = json.loads(command(tmp_path, "audit", "verify", "--json").stdout)
    assert (fault["ok"], fault["fault"]["line"]) == (False, 2)
