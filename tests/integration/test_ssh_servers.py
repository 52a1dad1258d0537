"""Kinds of servers: whatever the login shell is and whatever it prints, a job runs there, or ends with an error that says why."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cronium.common.errors import ExecutionError
from peers.ssh_attempt import SshWorld
from peers.ssh_world import Servers
from peers.sshd import Sshd, busybox_tools

_REQUEST = re.compile(r"server_input_channel_req: channel \d+ request (\S+) reply")
SCRIPT = "echo out; echo err >&2; echo file >$CRONIUM_OUTPUT_DIR/f; exit 3"


def runs(sshd: Sshd, folder: Path, *, warm: bool = False, home: Iterable[tuple[str, str]] = ()) -> SshWorld:
    """A job on this server is as on any other, cold and (where that can be) warm."""
    with Servers(given=[sshd]) as servers:
        for name, text in home:
            (sshd.home / name).write_text(text)
        world = SshWorld(servers, folder)
        try:
            for _ in range(2):
                told = world.run(world.job(SCRIPT))
                assert (told.stdout, told.stderr, told.outcome.exit_code) == (b"out\n", b"err\n", 3), told.updates
                assert [file.content for file in told.outcome.results.files] == [b"file\n"]
                if warm:
                    world.tend(
                        lambda: any(
                            k.slot and k.slot.session and k.slot.session.facts for k in world.executor._pool._kept.values()
                        )
                    )
        finally:
            world.close()
    return world


@pytest.fixture
def tools() -> Iterator[Path]:
    """A folder that every user can get to."""
    folder = Path(tempfile.mkdtemp(prefix="crt-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def user() -> str:
    return f"cr{secrets.token_hex(4)}"


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/dash"])
def test_login_shells(tmp_path: Path, shell: str) -> None:
    runs(Sshd(user=user(), shell=shell), tmp_path, warm=True)


@pytest.mark.parametrize("without", [(), ("setsid",)])
def test_a_server_with_nothing_but_busybox(tools: Path, without: tuple[str, ...]) -> None:
    folder = busybox_tools(tools / "bin", without)
    runs(Sshd(f"SetEnv PATH={folder}", user=user(), shell=folder / "sh"), tools, warm=True)


def test_a_home_that_cannot_be_written_to(tmp_path: Path) -> None:
    with Servers(given=[sshd := Sshd(user=user())]) as servers:
        sshd.home.chmod(0o555)
        os.chown(sshd.home, 0, 0)
        world = SshWorld(servers, tmp_path)
        assert world.run(world.job("touch ~/file || echo cannot")).stdout == b"cannot\n"
        world.close()


def test_what_a_bashrc_prints_is_no_output(tmp_path: Path) -> None:
    printed = 'echo "welcome to $HOSTNAME"; echo careful >&2\n'
    runs(Sshd(user=user()), tmp_path, home=[(".bashrc", printed)])


def test_a_server_with_banner_and_without_sftp(tmp_path: Path) -> None:
    banner = tmp_path / "banner"
    banner.write_text("authorised use only\n" * 50)
    tmp_path.chmod(0o755)
    runs(Sshd(f"Banner {banner}", "Subsystem other /bin/false"), tmp_path)


def test_too_much_before_our_first_line_is_a_clear_error(tmp_path: Path) -> None:
    with Servers(given=[Sshd(user=user())]) as servers:
        (servers.all[0].home / ".bashrc").write_text("head -c 200000 /dev/zero | tr '\\0' x\n")
        world = SshWorld(servers, tmp_path)
        told = world.attempt(job := world.job("echo hi"), place := world.place())
        with contextlib.suppress(ExecutionError):  # it is done there, and its answer is as odd
            world.executor.cleanup(place, job)
        world.close()
    assert told.reason == "ssh_protocol", told.updates
    assert "ForceCommand" in told.outcome.error.message  # type: ignore[union-attr]


def test_a_forced_command_is_a_clear_error(tmp_path: Path) -> None:
    with Servers(given=[Sshd("ForceCommand echo no")]) as servers:
        world = SshWorld(servers, tmp_path)
        told = world.attempt(world.job("echo hi"), world.place())
        world.close()
    assert told.reason == "ssh_protocol", told.updates
    assert "ForceCommand" in told.outcome.error.message  # type: ignore[union-attr]


def test_neither_a_terminal_nor_our_agent_is_asked_for(tmp_path: Path) -> None:
    """As the server sees it: of what one may ask of a session, a command and nothing else."""
    with Servers(lines=("LogLevel DEBUG1",)) as servers:
        world = SshWorld(servers, tmp_path)
        told = world.run(world.job('tty; echo "${SSH_TTY-none} ${SSH_AUTH_SOCK-none}"'))
        world.close()
        requests = {found[1] for line in servers.all[0].log_lines() if (found := _REQUEST.search(line))}
    assert told.stdout == b"not a tty\nnone none\n"
    assert requests == {"exec"}


def test_two_sessions_are_enough_without_a_slot(tmp_path: Path) -> None:
    runs(Sshd("MaxSessions 2"), tmp_path)


def test_one_session_is_too_few_and_told(tmp_path: Path) -> None:
    with Servers(given=[Sshd("MaxSessions 1")]) as servers:
        world = SshWorld(servers, tmp_path)
        told = world.attempt(job := world.job("echo hi"), place := world.place())
        world.executor.cleanup(place, job)
        world.close()
    assert told.reason == "server_unsuitable", told.updates
    assert "MaxSessions" in told.outcome.error.message  # type: ignore[union-attr]
