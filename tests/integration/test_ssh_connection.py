"""Connections to real SSH servers: who we are, who they are, commands and their output, and how a connection ends."""

import contextlib
import hashlib
import multiprocessing
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from cronium.common.audit import AuditLog, Verified, verify
from cronium.common.config.model import Ssh
from cronium.common.errors import ExecutionError, Reason
from cronium.common.servers import Address, Server, host_of, parse_jump
from cronium.worker.ssh.channel import STDERR, STDOUT, RemoteChannel
from cronium.worker.ssh.connection import Connection
from cronium.worker.ssh.dial import DialSettings, dial
from cronium.worker.ssh.keys import load_identity
from cronium.worker.ssh.known_hosts import KnownHosts
from peers.netns import Namespace
from peers.ssh_world import USER
from peers.sshd import KINDS, Sshd, new_key, public_of, session_key

_PATIENCE_S = 30.0  # on a machine that does other things too
_COMMAND_S = 20.0
_DIALS = 8


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No thread and no descriptor of a connection outlives it."""
    resource_tracker.ensure_running()  # multiprocessing's own, which stays
    process = psutil.Process()
    threads, descriptors = set(threading.enumerate()), process.num_fds()
    yield
    until(lambda: set(threading.enumerate()) <= threads, "the threads have ended")
    until(lambda: process.num_fds() <= descriptors, "the descriptors are closed")


class Client:
    """What a worker has: a known_hosts file, a runtime directory, an audit log, settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known_hosts = folder / "known_hosts"
        self.ssh = Ssh()

    def trust(self, *servers: Sshd, kinds: tuple[str, ...] = KINDS) -> None:
        """Take down these servers' keys."""
        lines = [one.known_hosts_line(kind) for one in servers for kind in kinds if kind in one.host_keys]
        self.known_hosts.write_text("".join(f"{line}\n" for line in lines))

    def settings(self, **changes: Any) -> DialSettings:
        """As configured, but with a runtime directory of the test's, and with patience."""
        pool = self.ssh.connection_pool.model_copy(update={"connect_timeout": 2 * _PATIENCE_S} | changes)
        return DialSettings.of(self.ssh.model_copy(update={"connection_pool": pool}), self.folder)

    def dial(self, server: Server, settings: DialSettings | None = None) -> Connection:
        """Log in."""
        known = KnownHosts(self.known_hosts, self.ssh.known_hosts)
        return dial(server, settings or self.settings(), load_identity(server, self.ssh), known, AuditLog(self.folder / "audit"))

    def audited(self) -> list[dict[str, Any]]:
        """The audit log's entries."""
        assert isinstance(verify(self.folder / "audit"), Verified)
        files = sorted((self.folder / "audit").glob("*.jsonl"))
        entries = [orjson.loads(line) for path in files for line in path.read_bytes().splitlines()]
        return [entry for entry in entries if entry["event"].startswith("ssh.")]


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


def server_of(sshd: Sshd, jump: Sshd | None = None, **more: Any) -> Server:
    """What a job says of it; `more` changes it."""
    details = sshd.server_details(**more)
    via = parse_jump(f"{jump.user}@{jump.address}:{jump.port}") if jump else None
    return Server(
        "one",
        Address(details["host"], details["port"], details["username"]),
        details.get("privateKey"),
        details.get("passphrase"),
        details.get("certificate"),
        details.get("password"),
        via,
    )


def test_a_command_gives_its_output_and_exit_code(client: Client) -> None:
    with Sshd() as sshd:
        client.trust(sshd)
        with contextlib.closing(client.dial(server_of(sshd))) as connection:
            finished = connection.run("cat; echo oh >&2; exit 7", _COMMAND_S, max_bytes=1000, stdin=b"hello")
            assert (finished.stdout, finished.stderr, finished.exit_code) == (b"hello", b"oh\n", 7)
            assert sshd.connections() == 1
            connection.ping(_COMMAND_S)
        until(lambda: sshd.connections() == 0, "it is closed at sshd")
        assert not connection.alive
        assert sshd.handshakes() == 1


# --- who we are --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_key_logs_in(kind: str, client: Client) -> None:
    with Sshd("PubkeyAcceptedAlgorithms ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512", key=session_key("other", kind)) as sshd:
        client.trust(sshd)
        client.dial(server_of(sshd)).close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_logs_in_where_the_key_alone_does_not(kind: str, client: Client) -> None:
    authority, mine = session_key("authority", "ed25519"), session_key("other", kind)
    (client.folder / "ca").touch(0o600)
    (client.folder / "ca").write_text(authority)
    (client.folder / "ca.pub").write_text(public_of(authority))
    (client.folder / "mine.pub").write_text(public_of(mine))
    sign = ["ssh-keygen", "-q", "-s", "ca", "-I", "test", "-n", "root", "-V", "-1m:+10m", "mine.pub"]
    subprocess.run(sign, check=True, cwd=client.folder)
    certificate = (client.folder / "mine-cert.pub").read_text()
    with Sshd(f"TrustedUserCAKeys {client.folder / 'ca.pub'}") as sshd:
        client.trust(sshd)
        client.dial(server_of(sshd, privateKey=mine, certificate=certificate)).close()
        with pytest.raises(ExecutionError) as caught:
            client.dial(server_of(sshd, privateKey=mine))
        assert caught.value.reason is Reason.AUTH_FAILED


def test_a_key_with_a_passphrase_logs_in(client: Client) -> None:
    locked = new_key("ed25519", "open sesame")
    with Sshd() as sshd:
        (sshd.folder / "authorized_keys").write_text(public_of(locked, "open sesame"))
        client.trust(sshd)
        client.dial(server_of(sshd, privateKey=locked, passphrase="open sesame")).close()


def test_a_key_that_is_not_let_in_is_named_and_not_tried_again(client: Client) -> None:
    stranger = session_key("stranger", "ed25519")
    with Sshd() as sshd:
        client.trust(sshd)
        server = server_of(sshd, privateKey=stranger)
        with pytest.raises(ExecutionError) as caught:
            client.dial(server)
    error = caught.value
    assert error.reason is Reason.AUTH_FAILED
    assert not error.retryable
    for word in ("root", str(server.address), load_identity(server, client.ssh).fingerprint):
        assert word in error.message


def test_a_password_logs_in_where_the_server_allows_it(client: Client) -> None:
    client.ssh = Ssh(allow_password=True)
    with Sshd(user=USER, password="sesame", shell="/bin/dash") as sshd:
        client.trust(sshd)
        with contextlib.closing(client.dial(server_of(sshd, privateKey=None, password="sesame"))) as connection:
            finished = connection.run("id -un; echo $0", _COMMAND_S, max_bytes=1000)
            assert finished.stdout == f"{USER}\ndash\n".encode()
        with pytest.raises(ExecutionError) as caught:
            client.dial(server_of(sshd, privateKey=None, password="wrong"))
        assert caught.value.reason is Reason.AUTH_FAILED
        assert "wrong" not in caught.value.message
    assert b"sesame" not in b"".join(path.read_bytes() for path in client.folder.rglob("*") if path.is_file())


def test_a_password_answers_a_question_for_it(client: Client) -> None:
    """Many servers ask by keyboard-interactive and allow no `password`."""
    client.ssh = Ssh(allow_password=True)
    lines = ("UsePAM yes", "PasswordAuthentication no", "KbdInteractiveAuthentication yes")
    with Sshd(*lines, user=USER, password="sesame") as sshd:
        client.trust(sshd)
        client.dial(server_of(sshd, privateKey=None, password="sesame")).close()
        with pytest.raises(ExecutionError) as caught:
            client.dial(server_of(sshd, privateKey=None, password="wrong"))
        assert caught.value.reason is Reason.AUTH_FAILED


def test_a_long_notice_before_the_login_is_no_hindrance(client: Client) -> None:
    (client.folder / "notice").write_text("Unauthorised access is forbidden.\n" * 2000)
    with Sshd(f"Banner {client.folder / 'notice'}") as sshd:
        client.trust(sshd)
        client.dial(server_of(sshd)).close()


def test_a_server_that_takes_no_passwords_says_what_it_takes(client: Client) -> None:
    client.ssh = Ssh(allow_password=True)
    with Sshd() as sshd:
        client.trust(sshd)
        with pytest.raises(ExecutionError) as caught:
            client.dial(server_of(sshd, privateKey=None, password="sesame"))
    assert caught.value.reason is Reason.AUTH_FAILED
    assert "publickey" in caught.value.message


# --- who they are ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_host_key_that_is_known_is_asked_for(kind: str, client: Client) -> None:
    """A server with several keys is no stranger because it would rather show another one."""
    with Sshd() as sshd:
        client.trust(sshd, kinds=(kind,))
        client.dial(server_of(sshd)).close()


def test_a_server_that_is_not_known_is_refused_before_a_login(client: Client) -> None:
    with Sshd() as sshd:
        with pytest.raises(ExecutionError) as caught:
            client.dial(server_of(sshd))
        assert caught.value.reason is Reason.HOST_KEY_UNKNOWN
        assert not any("publickey" in line for line in sshd.log_lines())


def test_the_first_key_is_taken_down_where_that_is_configured(client: Client) -> None:
    client.ssh = Ssh(known_hosts="accept-new")
    with Sshd() as sshd:
        client.dial(server_of(sshd)).close()
        client.ssh = Ssh()
        client.dial(server_of(sshd)).close()


def test_a_changed_host_key_is_refused_before_a_login(client: Client) -> None:
    client.ssh = Ssh(known_hosts="accept-new")
    with Sshd() as sshd:
        client.trust(sshd)
        port = sshd.port
    with Sshd(port=port, own_host_keys=True) as impostor:
        with pytest.raises(ExecutionError) as caught:
            client.dial(server_of(impostor))
        assert caught.value.reason is Reason.HOST_KEY_CHANGED
        assert not any("publickey" in line for line in impostor.log_lines())


def test_weak_algorithms_are_not_spoken(client: Client) -> None:
    for line in ("KexAlgorithms diffie-hellman-group14-sha1", "Ciphers aes128-cbc,3des-cbc", "MACs hmac-sha1,hmac-md5"):
        with Sshd(line) as sshd:
            client.trust(sshd)
            with pytest.raises(ExecutionError) as caught:
                client.dial(server_of(sshd))
        assert caught.value.reason is Reason.SSH_PROTOCOL, line
        assert "in common" in caught.value.message


def test_an_old_server_that_signs_with_sha1_is_refused(client: Client) -> None:
    """`ssh-rsa` is a kind of key and, by the same name, a signature of it with SHA-1: only the first is any good."""
    with Sshd("HostKeyAlgorithms ssh-rsa", host_keys=("rsa",)) as sshd:
        client.trust(sshd)
        with pytest.raises(ExecutionError) as caught:
            client.dial(server_of(sshd))
        assert caught.value.reason is Reason.SSH_PROTOCOL
        assert "in common" in caught.value.message
        assert sshd.handshakes() == 0
    with Sshd("HostKeyAlgorithms rsa-sha2-256", host_keys=("rsa",)) as sshd:
        client.trust(sshd)
        client.dial(server_of(sshd)).close()


def test_our_key_signs_nothing_with_sha1(client: Client) -> None:
    """A server that wants nothing else does not let us in, and no such signature was made."""
    with Sshd("PubkeyAcceptedAlgorithms ssh-rsa", key=session_key("other", "rsa")) as sshd:
        client.trust(sshd)
        with pytest.raises(ExecutionError) as caught:
            client.dial(server_of(sshd))
        assert caught.value.reason is Reason.AUTH_FAILED
        assert "its sshd's log" in caught.value.message
        said = [line for line in sshd.log_lines() if "signature algorithm" in line]
        assert said
        assert all("algorithm rsa-sha2-" in line for line in said)
        assert sshd.handshakes() == 0


# --- the way there -----------------------------------------------------------------------------------------------------


def test_a_jump_host_is_gone_through_and_checked_itself(client: Client) -> None:
    with Sshd() as gate, Sshd(own_host_keys=True) as sshd:
        client.trust(gate, sshd)
        with contextlib.closing(client.dial(server_of(sshd, gate))) as connection:
            assert (gate.connections(), sshd.connections()) == (1, 1)
            much = connection.run("head -c 8000000 /dev/zero", _COMMAND_S, max_bytes=9_000_000)
            assert len(much.stdout) == 8_000_000
        until(lambda: (gate.connections(), sshd.connections()) == (0, 0), "both are closed")
        client.trust(sshd)
        with pytest.raises(ExecutionError) as caught:
            client.dial(server_of(sshd, gate))
        assert caught.value.reason is Reason.HOST_KEY_UNKNOWN
        assert str(gate.port) in caught.value.message


def test_one_address_behind_two_jump_hosts_is_two_servers(client: Client) -> None:
    """Private addresses repeat: each has its own breaker, and its own key."""
    client.ssh = Ssh(known_hosts="accept-new")
    seen = set()
    with contextlib.ExitStack() as stack:
        for network in (stack.enter_context(Namespace()), stack.enter_context(Namespace())):
            gate = stack.enter_context(Sshd(address=network.address, prefix=network.prefix))
            inner = stack.enter_context(Sshd(address="127.0.0.1", prefix=network.prefix, own_host_keys=True))
            server = server_of(inner, gate)
            client.dial(server).close()
            client.dial(server).close()
            seen.add(host_of(server.key))
        names = [line.split()[0] for line in client.known_hosts.read_text().splitlines()]
        assert sum("/via/" in name for name in names) == 2
    assert len(seen) == 2
    assert all(where.startswith("127.0.0.1:2222 through ") for where in seen)


def test_a_jump_host_that_lets_nobody_through_is_told(client: Client) -> None:
    with Sshd("AllowTcpForwarding no") as gate, Sshd() as sshd:
        client.trust(gate, sshd)
        with pytest.raises(ExecutionError) as caught:
            client.dial(server_of(sshd, gate))
        assert caught.value.reason is Reason.UNREACHABLE
        assert "jump host" in caught.value.message
        until(lambda: gate.connections() == 0, "the way there is closed")


def test_every_address_of_a_name_is_tried(client: Client) -> None:
    with Sshd(address="127.0.0.1") as sshd:
        client.known_hosts.write_text(sshd.known_hosts().replace("127.0.0.1", "localhost"))
        client.dial(server_of(sshd, host="localhost")).close()


def test_an_address_of_version_6_is_reached(client: Client) -> None:
    with Sshd(address="::1") as sshd:
        client.trust(sshd)
        client.dial(server_of(sshd)).close()


def test_a_server_that_is_not_there_is_unreachable_and_may_be_tried_again(client: Client) -> None:
    with Sshd() as sshd:
        server = server_of(sshd)
        nameless = server_of(sshd, host="no-such-host.invalid")
    for one in (server, nameless):
        with pytest.raises(ExecutionError) as caught:
            client.dial(one)
        assert caught.value.reason is Reason.UNREACHABLE
        assert caught.value.retryable
        assert str(one.address) in caught.value.message


def test_a_server_that_takes_no_connections_is_waited_for_no_longer_than_configured(client: Client) -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # the queue of those that wait to be accepted is full, and further ones get no answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        address = Address("127.0.0.1", full.getsockname()[1], "root")
        started_s = time.monotonic()
        with pytest.raises(ExecutionError) as caught:
            client.dial(Server("full", address, session_key("client", "ed25519")), client.settings(connect_timeout=1.0))
        assert time.monotonic() - started_s < _PATIENCE_S
        assert caught.value.reason is Reason.UNREACHABLE


def test_many_logins_at_once_all_come_through_a_narrow_max_startups(client: Client) -> None:
    """sshd drops the third that is not logged in yet, and several workers dial at the same time."""
    with Sshd("MaxStartups 2:100:2") as sshd:
        client.trust(sshd)
        with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as processes:
            told = list(processes.map(dial_elsewhere, [(client.folder, server_of(sshd))] * _DIALS))
        assert told == ["logged in"] * _DIALS
        assert sshd.handshakes() == _DIALS


def test_no_more_log_in_at_the_same_moment_than_configured(client: Client) -> None:
    """sshd hears of a login from its child, a moment after we do: so one more than that is allowed."""
    with Sshd("MaxStartups 2:100:2") as sshd:
        client.trust(sshd)
        settings = client.settings(max_dials=1)
        connections: list[Connection] = []
        dialling = [
            threading.Thread(target=lambda: connections.append(client.dial(server_of(sshd), settings))) for _ in range(_DIALS)
        ]
        for thread in dialling:
            thread.start()
        for thread in dialling:
            thread.join(_PATIENCE_S)
        assert len(connections) == _DIALS
        assert sshd.connections() == _DIALS
        for connection in connections:
            connection.close()
        assert not any("MaxStartups" in line for line in sshd.log_lines())


def dial_elsewhere(task: tuple[Path, Server]) -> str:
    """In another process: log in."""
    folder, server = task
    Client(folder).dial(server, Client(folder).settings()).close()
    return "logged in"


# --- commands ----------------------------------------------------------------------------------------------------------


def test_output_arrives_whole_on_both_streams(client: Client) -> None:
    with Sshd() as sshd:
        client.trust(sshd)
        script = "seq 1000000 & seq 2000000 2500000 >&2; wait; exit 3"
        with contextlib.closing(client.dial(server_of(sshd))) as connection:
            channel = connection.open(script, _COMMAND_S)
            streams = {STDOUT: hashlib.sha256(), STDERR: hashlib.sha256()}
            for stream, piece in everything(channel):
                streams[stream].update(piece)
            assert channel.exit_code == 3
            assert not channel.cut
            channel.close()
    for stream, numbers in ((STDOUT, range(1, 1000001)), (STDERR, range(2000000, 2500001))):
        assert streams[stream].hexdigest() == hashlib.sha256("".join(f"{n}\n" for n in numbers).encode()).hexdigest()


def test_new_keys_in_the_middle_lose_nothing(client: Client) -> None:
    """Both sides change keys after some data; what is on its way then, in both directions, goes on afterwards."""
    with Sshd("RekeyLimit 1M") as sshd:
        client.trust(sshd)
        data = bytes(range(256)) * 40_000
        with contextlib.closing(client.dial(server_of(sshd))) as connection:
            finished = connection.run("exec cat", _COMMAND_S, max_bytes=len(data), stdin=data)
            assert hashlib.sha256(finished.stdout).digest() == hashlib.sha256(data).digest()
            connection.ping(_COMMAND_S)


def test_a_loud_stream_does_not_hide_the_other(client: Client) -> None:
    with Sshd() as sshd:
        client.trust(sshd)
        with contextlib.closing(client.dial(server_of(sshd))) as connection:
            channel = connection.open("cat /dev/zero & sleep 0.2; echo quiet >&2; wait", _COMMAND_S)
            heard = (piece for stream, piece in everything(channel) if stream == STDERR)
            assert next(heard) == b"quiet\n"
            channel.close()


def test_the_descriptor_is_readable_only_while_there_is_something_to_take(client: Client) -> None:
    with Sshd() as sshd:
        client.trust(sshd)
        with contextlib.closing(client.dial(server_of(sshd))) as connection:
            channel = connection.open("read a; echo $a; read b; exit 5", _COMMAND_S)
            poller = select.poll()
            poller.register(channel.descriptor, select.POLLIN)
            assert not poller.poll(50)
            assert channel.take(100) is None
            channel.send(b"one\n", _COMMAND_S)
            assert poller.poll(_COMMAND_S * 1000)
            assert channel.take(2) == (STDOUT, b"on")
            assert poller.poll(0)
            assert channel.take(100) == (STDOUT, b"e\n")
            assert not poller.poll(50)
            assert not channel.ended
            channel.send_end()
            until(lambda: channel.ended, "it has ended")
            assert poller.poll(0)
            assert channel.exit_code == 5
            channel.close()


def test_much_input_goes_in_while_output_comes_out(client: Client) -> None:
    with Sshd() as sshd:
        client.trust(sshd)
        data = bytes(range(256)) * 20_000
        with contextlib.closing(client.dial(server_of(sshd))) as connection:
            finished = connection.run("exec cat", _COMMAND_S, max_bytes=len(data), stdin=data)
        assert finished.stdout == data


def test_many_commands_one_after_another_leave_nothing_in_the_connection(client: Client) -> None:
    with Sshd(user=USER, shell="/bin/dash") as sshd:
        client.trust(sshd)
        with contextlib.closing(client.dial(server_of(sshd))) as connection:
            for _ in range(50):
                assert connection.run(":", _COMMAND_S, max_bytes=100).exit_code == 0
            until(
                lambda: len(connection._transport.channels_seen) <= 1, "the end of all"
            )  # the last one's end may still be on its way
            assert sshd.handshakes() == 1


def test_a_server_with_too_few_sessions_is_told_so(client: Client) -> None:
    with Sshd("MaxSessions 1") as sshd:
        client.trust(sshd)
        with contextlib.closing(client.dial(server_of(sshd))) as connection:
            first = connection.open("exec cat", _COMMAND_S)
            with pytest.raises(ExecutionError) as caught:
                connection.open("exec cat", _COMMAND_S)
            first.close()
        assert caught.value.reason is Reason.SERVER_UNSUITABLE
        assert "MaxSessions" in caught.value.message


# --- how it ends -------------------------------------------------------------------------------------------------------


def test_a_killed_session_is_noticed_at_once_everywhere(client: Client) -> None:
    with Sshd() as sshd:
        client.trust(sshd)
        with contextlib.closing(client.dial(server_of(sshd))) as connection:
            channel = connection.open("echo begun; exec sleep 60", _COMMAND_S)
            wait_for(channel)
            assert channel.take(100) == (STDOUT, b"begun\n")
            jobs = psutil.Process(sshd.sessions()[0].pid).children()
            assert sshd.kill_sessions() == 1
            wait_for(channel)
            assert channel.ended
            assert channel.cut
            assert channel.exit_code is None
            assert not connection.alive
            for use in (lambda: connection.open("true", _COMMAND_S), lambda: connection.ping(_COMMAND_S)):
                with pytest.raises(ExecutionError) as caught:
                    use()
                assert caught.value.reason is Reason.UNREACHABLE
            with pytest.raises(OSError, match=r".+"):
                channel.send(b"x", _COMMAND_S)
            channel.close()
            for job in jobs:
                job.kill()  # it goes on, as it should


def test_a_silent_link_is_found_by_a_ping_in_time(client: Client) -> None:
    with Sshd() as sshd:
        client.trust(sshd)
        connection = client.dial(server_of(sshd))
        sshd.signal_sessions(signal.SIGSTOP)
        started_s = time.monotonic()
        with pytest.raises(ExecutionError) as caught:
            connection.ping(0.5)
        assert time.monotonic() - started_s < _PATIENCE_S
        assert caught.value.reason is Reason.UNREACHABLE
        with pytest.raises(ExecutionError):
            connection.run("true", 0.5, max_bytes=100)
        sshd.signal_sessions(signal.SIGCONT)
        connection.ping(_COMMAND_S)  # it was only slow
        connection.close()


def test_closing_wakes_whoever_waits(client: Client) -> None:
    with Sshd() as sshd:
        client.trust(sshd)
        connection = client.dial(server_of(sshd))
        channel = connection.open("exec sleep 60", _COMMAND_S)
        threading.Timer(0.1, connection.close).start()
        wait_for(channel)
        assert channel.ended
        channel.close()


def test_the_audit_log_has_each_connection_and_no_secret(client: Client) -> None:
    with Sshd() as sshd:
        client.trust(sshd)
        client.dial(server_of(sshd)).close()
        with pytest.raises(ExecutionError):
            client.dial(server_of(sshd, privateKey=session_key("stranger", "ed25519")))
        where = str(server_of(sshd).address)
    told = [(entry["event"], entry["result"]) for entry in client.audited()]
    begin = [("ssh.connect", "tried"), ("ssh.host_key", "known")]
    good = [("ssh.login", "succeeded"), ("ssh.connect", "succeeded")]
    bad = [("ssh.login", "refused"), ("ssh.connect", "failed")]
    assert told == [*begin, *good, ("ssh.disconnect", "we closed it"), *begin, *bad]
    assert all(entry["server"] == where for entry in client.audited())
    assert not any("PRIVATE" in str(entry) for entry in client.audited())


def everything(channel: RemoteChannel) -> Iterator[tuple[int, bytes]]:
    while not channel.ended:
        wait_for(channel)
        while (taken := channel.take(256 * 1024)) is not None:
            yield taken


def wait_for(channel: RemoteChannel) -> None:
    poller = select.poll()
    poller.register(channel.descriptor, select.POLLIN)
    assert poller.poll(_PATIENCE_S * 1000), "nothing came"


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {_PATIENCE_S:g} s: {what}; {threading.enumerate()}"
        time.sleep(0.02)
