"""A hostile or broken SSH server cannot hurt us: a clear error, in time, with bounded memory, and nothing is left."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from cronium.common.audit import AuditLog
from cronium.common.config.model import Ssh
from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import ServerSeen
from cronium.common.servers import Address, Server
from cronium.worker.executor import Parked
from cronium.worker.ssh import visit, watch
from cronium.worker.ssh.channel import RemoteChannel
from cronium.worker.ssh.commands import RemotePlace, Words
from cronium.worker.ssh.connection import Connection
from cronium.worker.ssh.dial import DialSettings, dial
from cronium.worker.ssh.keys import load_identity
from cronium.worker.ssh.known_hosts import KnownHosts
from cronium.worker.ssh.session import Session
from peers.container_world import LoopControl, Told
from peers.hostile_ssh import Hostile
from peers.ssh_attempt import SshWorld, later
from peers.ssh_world import Servers
from peers.sshd import session_key

_CONNECT_S = 2.0
_COMMAND_S = 20.0
_SLACK_S = 10.0  # for a machine that does other things too
_DEAD_AFTER_S = 2.0
_MAX_GROWTH_BYTES = 48 * 1024 * 1024


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Threads, descriptors and memory are as before, whatever the peer did."""
    process = psutil.Process()
    threads, descriptors, memory = set(threading.enumerate()), process.num_fds(), process.memory_info().rss
    yield
    until(lambda: set(threading.enumerate()) <= threads, "the threads have ended")
    until(lambda: process.num_fds() <= descriptors, "the descriptors are closed")
    assert process.memory_info().rss - memory < _MAX_GROWTH_BYTES


@pytest.fixture
def login(tmp_path: Path) -> Callable[..., Connection]:
    """Dials a hostile peer."""
    known, audit = tmp_path / "known_hosts", AuditLog(tmp_path)

    def go(peer: Hostile, password: str | None = None, connect_s: float = _COMMAND_S) -> Connection:
        settings = DialSettings(connect_s, 3, _DEAD_AFTER_S, None, tmp_path)
        known.write_text(peer.known_hosts())
        key = None if password else session_key("client", "ed25519")
        server = Server("hostile", Address("127.0.0.1", peer.port, "somebody"), private_key=key, password=password)
        return dial(server, settings, load_identity(server, Ssh(allow_password=True)), KnownHosts(known, "strict"), audit)

    return go


@pytest.mark.parametrize("way", ["drip", "drip_lines", "mute", "stall", "slow_banners"])
def test_a_peer_that_takes_its_time_gets_no_more_than_is_configured(way: str, login: Callable[..., Connection]) -> None:
    with Hostile(way) as peer:
        started_s = time.monotonic()
        with pytest.raises(ExecutionError) as caught:
            login(peer, connect_s=_CONNECT_S)
        assert time.monotonic() - started_s < _CONNECT_S + _SLACK_S
    assert caught.value.reason is Reason.SSH_PROTOCOL, caught.value.message
    assert f"somebody@127.0.0.1:{peer.port}" in caught.value.message


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("endless_line", Reason.SSH_PROTOCOL),
        ("endless_lines", Reason.SSH_PROTOCOL),
        ("web_server", Reason.SSH_PROTOCOL),
        ("garbage", Reason.SSH_PROTOCOL),
        ("huge_packet", Reason.SSH_PROTOCOL),
        ("ignore_flood", Reason.SSH_PROTOCOL),
        ("weak", Reason.SSH_PROTOCOL),
        ("cut_in_kex", Reason.UNREACHABLE),
        ("banners", Reason.SSH_PROTOCOL),
    ],
)
def test_a_peer_that_never_comes_to_a_login_ends_with_the_right_reason(
    way: str, reason: Reason, login: Callable[..., Connection]
) -> None:
    with Hostile(way) as peer, pytest.raises(ExecutionError) as caught:
        login(peer)
    assert caught.value.reason is reason, caught.value.message
    assert f"somebody@127.0.0.1:{peer.port}" in caught.value.message


def test_a_list_with_a_false_length_does_not_keep_us_busy(login: Callable[..., Connection]) -> None:
    """paramiko believes the length of such a list, and would count to four thousand millions."""
    with Hostile("extensions") as peer, pytest.raises(ExecutionError) as caught:
        login(peer).close()
    assert caught.value.reason is Reason.SSH_PROTOCOL


def test_endless_questions_for_a_password_end(login: Callable[..., Connection]) -> None:
    with Hostile("questions") as peer, pytest.raises(ExecutionError) as caught:
        login(peer, password="secret").close()
    assert caught.value.reason in (Reason.SSH_PROTOCOL, Reason.AUTH_FAILED)
    assert "secret" not in caught.value.message


def test_a_command_that_is_refused_is_told_so(login: Callable[..., Connection]) -> None:
    with Hostile("refusing") as peer:
        connection = login(peer)
        with pytest.raises(ExecutionError) as caught:
            connection.open("true", _COMMAND_S)
        connection.close()
    assert caught.value.reason is Reason.SSH_PROTOCOL


def test_a_command_that_is_never_answered_ends_at_its_deadline(login: Callable[..., Connection]) -> None:
    with Hostile("dumb") as peer:
        connection = login(peer)
        started_s = time.monotonic()
        with pytest.raises(ExecutionError) as caught:
            connection.open("true", 0.5)
        assert time.monotonic() - started_s < _SLACK_S
        with pytest.raises(ExecutionError):
            connection.ping(0.5)
        connection.close()
    assert caught.value.reason is Reason.UNREACHABLE


@pytest.mark.parametrize("way", ["flood", "flood_in_crumbs"])
def test_output_beyond_the_window_ends_the_connection_not_our_memory(way: str, login: Callable[..., Connection]) -> None:
    with Hostile(way) as peer:
        connection = login(peer)
        channel = connection.open("true", _COMMAND_S)
        until(lambda: not connection.alive, "the connection was ended")  # without anything taken
        taken = sum(len(piece) for piece in everything(channel))
        assert taken <= 2 * 1024 * 1024
        with pytest.raises(ExecutionError) as caught:
            connection.open("true", _COMMAND_S)
        assert caught.value.reason is Reason.SSH_PROTOCOL
        channel.close()
        connection.close()


def test_garbage_after_the_login_is_no_lost_connection(login: Callable[..., Connection]) -> None:
    with Hostile("garbage_later") as peer:
        connection = login(peer)
        with pytest.raises(ExecutionError) as caught:
            connection.run("true", _COMMAND_S, max_bytes=1000)
        connection.close()
    assert caught.value.reason is Reason.SSH_PROTOCOL


def test_a_short_command_with_endless_output_ends(login: Callable[..., Connection]) -> None:
    with Hostile("flood") as peer:
        connection = login(peer)
        with pytest.raises(ExecutionError) as caught:
            connection.run("true", _COMMAND_S, max_bytes=1000)
        connection.close()
    assert caught.value.reason is Reason.SSH_PROTOCOL


@pytest.mark.parametrize("way", ["wrong_code", "no_code"])
def test_an_exit_code_that_cannot_be_or_is_missing_is_none(way: str, login: Callable[..., Connection]) -> None:
    with Hostile(way) as peer:
        connection = login(peer)
        finished = connection.run("true", _COMMAND_S, max_bytes=1000)
        connection.close()
    assert finished.stdout == b"done\n"
    assert finished.exit_code is None


def test_a_connection_that_is_cut_in_the_middle_is_told_from_an_end(login: Callable[..., Connection]) -> None:
    with Hostile("cut_in_the_middle") as peer:
        connection = login(peer)
        channel = connection.open("true", _COMMAND_S)
        assert b"".join(everything(channel)) == b"half a li"
        assert channel.cut
        assert channel.exit_code is None
        channel.close()
        connection.close()


def test_a_command_that_is_never_closed_ends_at_its_deadline(login: Callable[..., Connection]) -> None:
    with Hostile("never_closes") as peer:
        connection = login(peer)
        with pytest.raises(ExecutionError) as caught:
            connection.run("true", 1.0, max_bytes=1000)
        connection.close()
    assert caught.value.reason is Reason.UNREACHABLE


def test_a_peer_that_reads_nothing_does_not_hold_a_sender(login: Callable[..., Connection]) -> None:
    with Hostile("reads_nothing") as peer:
        connection = login(peer)
        channel = connection.open("true", _COMMAND_S)
        started_s = time.monotonic()
        with pytest.raises(OSError, match=r".+"):
            channel.send(b"x" * 64 * 1024 * 1024, 600.0)
        assert time.monotonic() - started_s < _DEAD_AFTER_S + _SLACK_S
        channel.close()
        connection.close()


class _Behind:
    """What `SshWorld` needs of `Servers`."""

    def __init__(self, peer: Hostile, folder: Path) -> None:
        self.folder, self.known_hosts = folder, folder / "known_hosts"
        self.known_hosts.write_text(peer.known_hosts())
        self._port = peer.port

    def target(self, number: int = 0) -> dict[str, Any]:
        details = {"name": "evil", "host": "127.0.0.1", "port": self._port, "username": "somebody"}
        return {"type": "server", "serverDetails": details | {"privateKey": session_key("client", "ed25519")}}


@pytest.fixture
def whole_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Told]]:
    """Runs a job on a hostile peer. Its limits are seconds instead of minutes."""
    monkeypatch.setattr(watch, "BEGIN_S", 1.0)
    monkeypatch.setattr(watch, "REST_S", 1.0)
    monkeypatch.setattr(watch, "_AFTER_KILL_S", 1.0)
    monkeypatch.setattr(visit, "_CUT_WITHIN_S", 60.0)

    def go(peer: Hostile, control: LoopControl | None = None) -> Told:
        world = SshWorld(cast("Servers", _Behind(peer, tmp_path)), tmp_path)
        try:
            return world.run(world.job("exit 0"), **({"control": control} if control else {}))
        finally:
            world.close()

    return go


@pytest.mark.parametrize("way", ["never_starts", "ends_and_drips", "drains_and_drips"])
def test_a_server_that_never_comes_to_an_end_holds_no_worker(way: str, whole_attempt: Callable[..., Told]) -> None:
    """It answers each question as if all were well."""
    with Hostile(way) as peer:
        started_s = time.monotonic()
        told = whole_attempt(peer)
        assert time.monotonic() - started_s < 40
    assert told.outcome.status == "failed"
    assert told.reason == "ssh_protocol", told.outcome
    assert told.outcome.error is not None
    assert "evil" in told.outcome.error.message
    assert told.outcome.error.type == "ssh"


def test_a_server_that_lets_us_in_and_drops_us_is_dialled_ever_more_seldom(tmp_path: Path) -> None:
    """While its job's worker is patient with it; each login alone looks like a good one."""
    with Hostile("dropping") as peer:
        world = SshWorld(cast("Servers", _Behind(peer, tmp_path)), tmp_path)
        told = world.attempt(world.job("exit 0"), world.place(), control=LoopControl(patience=8.0))
        world.close()
    assert isinstance(told.updates[-1], Parked)
    logins = [message for message in world.told if isinstance(message, ServerSeen)]
    assert 3 <= len(logins) <= 10


def test_a_flood_beside_the_jobs_files_ends(whole_attempt: Callable[..., Told]) -> None:
    """The script has ended well, so its job has; people are told that the files are missing."""
    with Hostile("floods_fetch") as peer:
        told = whole_attempt(peer)
    assert told.outcome.status == "completed"
    assert "could not be fetched" in told.outcome.results.problems[0]


def test_a_cancel_is_heard_while_files_are_fetched(whole_attempt: Callable[..., Told]) -> None:
    control = LoopControl()

    def cancel() -> None:
        control.cancels = 1

    with Hostile("stalls_fetch") as peer:
        timer = later(3.0, cancel)
        told = whole_attempt(peer, control)
        timer.join()
    assert told.outcome.status == "completed"
    assert "the job was cancelled" in told.outcome.results.problems[0]


def test_a_job_is_handed_over_as_far_as_it_is_taken(login: Callable[..., Connection], tmp_path: Path) -> None:
    """By the loop that serves the worker's sockets: it must not wait for a server's window."""
    with Hostile("small_window") as peer:
        connection = login(peer)
        session = Session(connection, RemotePlace("/tmp/x", "cronium-x"), "r")
        session.open_run(1, 60, _COMMAND_S)
        assert session.offer(b"x" * 60_000) == 2**15
        assert session.offer(b"x") == 0
        session.close()
        connection.close()


def test_nobody_waits_for_new_keys_that_never_come(login: Callable[..., Connection]) -> None:
    """The loop that serves the worker's sockets says and lets go of what it likes meanwhile; then the connection is given up."""
    with Hostile("rekeys_for_ever") as peer:
        connection = login(peer)
        session = Session(connection, RemotePlace("/tmp/x", "cronium-x"), "r")
        session.keep = channel = connection.open("x", _COMMAND_S)
        until(lambda: not connection._transport.clear_to_send.is_set(), "it asks for new keys")
        longest_s, deadline_s = 0.0, time.monotonic() + 30
        while connection.alive:
            assert time.monotonic() < deadline_s, "it is never given up"
            began_s = time.monotonic()
            session.say(Words.LOOK)
            channel.take(10)
            session.read()
            longest_s = max(longest_s, time.monotonic() - began_s)
            time.sleep(0.01)
        began_s = time.monotonic()
        session.close()
        assert max(longest_s, time.monotonic() - began_s) < 0.5
        connection.close()


def everything(channel: RemoteChannel) -> Iterator[bytes]:
    deadline_s = time.monotonic() + 30
    while not channel.ended:
        assert time.monotonic() < deadline_s
        taken = channel.take(65536)
        if taken is not None:
            yield taken[1]
        else:
            time.sleep(0.005)


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s, f"{what}: {threading.enumerate()} {list(Path('/proc/self/fd').iterdir())}"
        time.sleep(0.02)
