"""`exec --ssh`: a script on a server, from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.own_supervisor import CommandLine
from peers.ssh_world import Servers


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers(2) as servers:
        yield servers


@pytest.fixture
def program(command_line: CommandLine, servers: Servers, tmp_path: Path) -> CommandLine:
    key = tmp_path / "key"
    key.write_text(servers.all[0].private_key)
    key.chmod(0o600)
    command_line.environ |= servers.environ(CRONIUM_SSH_KEY_PATH=str(key))
    return command_line


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "script.sh"
    path.write_text(text)
    return path


def at(servers: Servers, number: int = 0) -> tuple[str, str]:
    server = servers.all[number]
    return "--ssh", f"{server.user}@{server.address}:{server.port}"


def test_a_script_runs_on_a_server_as_it_would_here(program: CommandLine, servers: Servers, tmp_path: Path) -> None:
    text = 'echo "on port ${SSH_CONNECTION##* }"; echo oh >&2; echo "$GIVEN"; echo kept >"$CRONIUM_OUTPUT_DIR/file"; exit 3'
    kept = tmp_path / "kept"
    done = program.run("exec", *at(servers), "--env", "GIVEN=yes", "--output-dir", kept, script(tmp_path, text))
    assert (done.returncode, done.stderr) == (3, b"oh\n")
    assert done.stdout.decode().splitlines() == [f"on port {servers.all[0].port}", "yes"]
    assert (kept / "file").read_text() == "kept\n"


def test_a_script_runs_on_several(program: CommandLine, servers: Servers, tmp_path: Path) -> None:
    outcome = tmp_path / "outcome.json"
    done = program.run("exec", *at(servers, 0), *at(servers, 1), "--outcome", outcome, script(tmp_path, "echo here"))
    assert (done.returncode, done.stdout) == (0, b"here\nhere\n"), done
    assert json.loads(outcome.read_text())["status"] == "completed"


def test_an_unknown_server_is_refused_with_the_next_step(program: CommandLine, servers: Servers, tmp_path: Path) -> None:
    empty = tmp_path / "known_hosts"
    empty.touch()
    done = program.run("exec", *at(servers), script(tmp_path, "echo hi"), CRONIUM_SSH_KNOWN_HOSTS_FILE=str(empty))
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"SHA256:" in done.stderr
    assert f"ssh trust {servers.all[0].address}:{servers.all[0].port}".encode() in done.stderr


def test_what_was_done_is_in_the_audit_log(program: CommandLine, servers: Servers, tmp_path: Path) -> None:
    program.run("exec", *at(servers), "--env", "SECRET=correct-horse", script(tmp_path, "echo hi"))
    done = program.run("audit", "verify")
    assert done.returncode == 0, done
    said = "".join(path.read_text() for path in (program.state_dir / "audit").iterdir())
    assert '"ssh.command"' in said
    assert "correct-horse" not in said
    assert "PRIVATE KEY" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--ssh", "nobody"), "USER@HOST"), (("--identity", "/nowhere"), "--ssh"), (("--ssh", "a@b", "-i", "/nowhere"), "/nowhere")],
)
def test_what_makes_no_target_is_said(program: CommandLine, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = program.run("exec", *arguments, script(tmp_path, "echo hi"))
    assert done.returncode == 2
    assert said in done.stderr.decode()
