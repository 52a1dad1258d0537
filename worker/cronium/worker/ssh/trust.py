"""What keys a server shows, before anybody trusts it: `cronium-supervisor ssh trust` asks, and a person decides.

Runs in the command line's process, which loads it by its name. It never logs in there and sends nothing of ours; that the server
has the private half of each key is proven by the key exchange. To a jump host on the way it logs in as jobs do.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import paramiko

from cronium.common.audit import AuditLog
from cronium.common.config.model import Ssh
from cronium.common.errors import ExecutionError, Reason
from cronium.common.servers import Address, Server
from cronium.worker.ssh.connection import Connection
from cronium.worker.ssh.dial import DialSettings, dial
from cronium.worker.ssh.keys import load_identity
from cronium.worker.ssh.known_hosts import KnownHosts
from cronium.worker.ssh.known_hosts_lines import fingerprint_of, target

__all__ = ["KEY_TYPES", "fetch_host_keys", "fingerprint", "known_hosts", "target", "way_through"]

KEY_TYPES: Final = (
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256",),
    ("ecdsa-sha2-nistp384",),
    ("ecdsa-sha2-nistp521",),
    ("rsa-sha2-512", "rsa-sha2-256"),  # two ways to sign with one key (RFC 8332)
)
_NO_SUCH_KEY: Final = "no acceptable host key"  # what paramiko says of a type that the server does not have
_LOG_CHANNEL: Final = "paramiko.transport.trust"


def known_hosts(path: Path) -> KnownHosts:
    """The file of the servers' keys, in which a command only writes after a yes."""
    return KnownHosts(path, "strict")


def fingerprint(key: paramiko.PKey) -> str:
    """`SHA256:…`, as `ssh-keygen -l` shows it."""
    return fingerprint_of(key.asbytes())


@contextmanager
def way_through(jump: Address, ssh: Ssh, known: KnownHosts, audit: AuditLog) -> Iterator[Connection]:
    """A login on the jump host, with the key at `ssh.keyPath`. Blocking. Raises ExecutionError, also when it is not known."""
    gate = Server(str(jump), jump)
    with tempfile.TemporaryDirectory(prefix="cronium-trust-") as folder:  # whoever calls us may not be who the workers are
        settings = replace(DialSettings.of(ssh, Path(folder)), proxy_jump=None)
        connection = dial(gate, settings, load_identity(gate, ssh), known, audit)
    try:
        yield connection
    finally:
        connection.close()


def fetch_host_keys(host: str, port: int, timeout_s: float, way: Connection | None = None) -> list[paramiko.PKey]:
    """All keys of the server, one connection for each type; blocking, ends within `timeout_s` whatever the server does.

    `way`: the jump host that it is behind.

    Raises ExecutionError: UNREACHABLE, or SSH_PROTOCOL when what answers there speaks no SSH that we can use.
    """
    deadline_s = time.monotonic() + timeout_s
    found = (_host_key(host, port, types, deadline_s, way) for types in KEY_TYPES)
    keys = [key for key in found if key is not None]
    if not keys:
        message = f"{target(host, port)} has no key that we can use: give it one, as with `ssh-keygen -A` there"
        raise ExecutionError(Reason.SSH_PROTOCOL, message, host=host, port=port)
    return keys


def _host_key(host: str, port: int, types: tuple[str, ...], deadline_s: float, way: Connection | None) -> paramiko.PKey | None:
    """The server's key of these types; None when it has none."""
    where = target(host, port)
    with _connected(host, port, deadline_s, way) as connection, _transport(connection) as transport:
        transport.get_security_options().key_types = types
        left_s = max(0.0, deadline_s - time.monotonic())
        transport.banner_timeout = transport.handshake_timeout = left_s
        try:
            transport.start_client(timeout=left_s)
            return transport.get_remote_server_key()
        except (paramiko.SSHException, EOFError, OSError) as error:
            if _NO_SUCH_KEY in str(error):
                return None
            if time.monotonic() >= deadline_s:
                message = f"{where} takes connections, and does not answer as SSH in time: check the port, and its load"
                raise ExecutionError(Reason.UNREACHABLE, message, host=host, port=port) from error
            said = " ".join(str(error).split())[:200] or type(error).__name__
            message = f"{where} does not talk SSH with us ({said!r}): check the port, see its sshd's log, and try again"
            raise ExecutionError(Reason.SSH_PROTOCOL, message, host=host, port=port) from error


@contextmanager
def _connected(host: str, port: int, deadline_s: float, way: Connection | None) -> Iterator[socket.socket | paramiko.Channel]:
    connection: socket.socket | paramiko.Channel
    try:
        if way is not None:
            connection = way.tunnel(Address(host, port, ""), max(0.001, deadline_s - time.monotonic()))
        else:
            connection = socket.create_connection((host, port), timeout=max(0.001, deadline_s - time.monotonic()))
    except OSError as error:
        message = (
            f"{target(host, port)} cannot be reached ({error.strerror or error}): check its name, its port, and that it is up"
        )
        raise ExecutionError(Reason.UNREACHABLE, message, host=host, port=port) from error
    try:
        yield connection
    finally:
        with contextlib.suppress(OSError):  # it is gone already: all the better
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


@contextmanager
def _transport(connection: socket.socket | paramiko.Channel) -> Iterator[paramiko.Transport]:
    """A transport that says what goes wrong by its exceptions only, and whose thread ends with us."""
    transport = paramiko.Transport(connection)
    transport.set_log_channel(_LOG_CHANNEL)
    logging.getLogger(_LOG_CHANNEL).setLevel(logging.CRITICAL + 1)
    try:
        yield transport
    finally:
        with contextlib.suppress(OSError):  # wakes the thread, which close() waits for
            connection.shutdown(socket.SHUT_RDWR)
        transport.close()
