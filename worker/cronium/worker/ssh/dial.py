"""From a server's address to a connection that is logged in: TCP, key exchange, host key, login, all within one time limit.

Runs in a worker, in a helper thread, as it blocks. Whatever the other side does, it ends within `connect_timeout_s`, with a
connection or with an ExecutionError that says what to do; nothing of a connection that failed is left.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import paramiko
from paramiko.ssh_exception import AuthenticationException, BadAuthenticationType, IncompatiblePeer, SSHException

from cronium.common.audit import AuditLog
from cronium.common.config.model import Ssh
from cronium.common.errors import ExecutionError, Reason
from cronium.common.servers import Address, Server, parse_jump
from cronium.worker.ssh.connection import Connection
from cronium.worker.ssh.dial_places import place_to_dial
from cronium.worker.ssh.guard import Cause, Guard
from cronium.worker.ssh.keys import Identity
from cronium.worker.ssh.known_hosts import KnownHosts
from cronium.worker.ssh.tcp import connect
from cronium.worker.ssh.transport import SshTransport

ANSWERED: Final = "answered"
"""The detail of an error that says whose SSH server answered, whatever came of it: a jump host's says nothing of its target."""
_SILENT_PINGS: Final = 3  # after so many that were not answered a connection is dead (ssh.connectionPool.keepaliveInterval)
_GUARD_FIRST_S: Final = 1.0  # paramiko's own limits come after the guard's, which says more
_PAUSE_S: Final = 0.05
_MAX_PAUSE_S: Final = 1.0
# How sshd turns somebody away who may come again (sshd.c, MaxStartups and PerSourcePenalties), if it says anything at all.
_COME_AGAIN: Final = (b"Exceeded MaxStartups", b"Not allowed at this time")


@dataclass(frozen=True, slots=True)
class DialSettings:
    """How to dial. `dead_after_s`: how long a connection may be silent. `runtime_dir`: shared by all our processes."""

    connect_timeout_s: float
    max_dials: int
    dead_after_s: float
    proxy_jump: Address | None
    runtime_dir: Path

    @classmethod
    def of(cls, ssh: Ssh, runtime_dir: Path) -> Self:
        """From the configuration."""
        pool = ssh.connection_pool
        jump = parse_jump(ssh.proxy_jump) if ssh.proxy_jump else None
        return cls(pool.connect_timeout, pool.max_dials, pool.keepalive_interval * _SILENT_PINGS, jump, runtime_dir)


def dial(
    server: Server,
    settings: DialSettings,
    identity: Identity,
    known_hosts: KnownHosts,
    audit: AuditLog,
    job_id: str | None = None,
) -> Connection:
    """Connect and log in. Blocking, at most `connect_timeout_s`. `job_id`: the job that asked for it, for the audit log.

    Raises ExecutionError: UNREACHABLE, AUTH_FAILED, HOST_KEY_UNKNOWN, HOST_KEY_CHANGED, SSH_PROTOCOL.
    """
    deadline_s = time.monotonic() + settings.connect_timeout_s
    jump = server.proxy_jump or settings.proxy_jump
    through: Connection | None = None
    if jump is not None and jump != server.address:
        if identity.key is None:
            raise ExecutionError(
                Reason.KEY_INVALID,
                f"{server.address} is reached through {jump}, which must not see its password: give it a key, or set ssh.keyPath",
            )
        gate = replace(server, name=str(jump), address=jump, proxy_jump=None)
        through = _Dialling(gate, settings, identity, known_hosts, audit, deadline_s, None, job_id).connection()
        if jump != settings.proxy_jump:
            known_hosts = known_hosts.behind(jump)
    try:
        return _Dialling(server, settings, identity, known_hosts, audit, deadline_s, through, job_id).connection()
    except BaseException:
        if through is not None:
            through.close()
        raise


class _DroppedError(Exception):
    """The server closed the connection before it said anything, as it does when too many log in at once."""


@dataclass(frozen=True, slots=True)
class _Dialling:
    server: Server
    settings: DialSettings
    identity: Identity
    known_hosts: KnownHosts
    audit: AuditLog
    deadline_s: float
    through: Connection | None
    job_id: str | None

    def connection(self) -> Connection:
        """Try until the server takes us, says no, or the time is up."""
        fields = self._fields()
        self.audit.append("ssh.connect", result="tried", **fields)
        try:
            connection = self._until_taken()
        except ExecutionError as error:
            self.audit.append("ssh.connect", result="failed", reason=error.reason.value, error=error.message, **fields)
            raise
        self.audit.append("ssh.connect", result="succeeded", **fields)
        return connection

    def _until_taken(self) -> Connection:
        pause_s = _PAUSE_S
        while True:
            try:
                through = self.through.server.address if self.through else None
                folder, places = self.settings.runtime_dir, self.settings.max_dials
                with place_to_dial(folder, self.server.address, places, self.deadline_s, through):
                    return self._once()
            except _DroppedError as dropped:
                wait_s = random.uniform(pause_s / 2, pause_s)  # noqa: S311 - so that not all come back at once
                if time.monotonic() + wait_s > self.deadline_s:
                    raise self._error(
                        Reason.UNREACHABLE,
                        f"closes each connection at once ({dropped}): it may have too many logins at a time (MaxStartups of its"
                        " sshd), or refuse our address",
                    ) from None
            time.sleep(wait_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    def _once(self) -> Connection:
        address = self.server.address
        dead_after_s = self.settings.dead_after_s
        known = self.known_hosts.algorithms(address.host, address.port)
        below = self.through.tunnel(address, self._left_s()) if self.through else connect(address, self.deadline_s, dead_after_s)
        guard = Guard(below, self.deadline_s, dead_after_s)
        transport = SshTransport(guard, known, dead_after_s)
        try:
            self._shake_hands(transport)
            self._know(transport.get_remote_server_key())
            self._log_in(transport)
            guard.logged_in()
        except BaseException as error:
            if isinstance(error, ExecutionError) and transport.initial_kex_done:
                error.details[ANSWERED] = str(address)
            transport.stop()
            raise
        # It outlives the job that it was made for: what is done with it later names a place, and that its job.
        note = partial(self.audit.append, **{name: value for name, value in self._fields().items() if name != "job"})
        return Connection(self.server, transport, self.identity.fingerprint, self.through, note)

    def _shake_hands(self, transport: SshTransport) -> None:
        transport.banner_timeout = self._left_s() + _GUARD_FIRST_S
        try:
            transport.start_client(timeout=transport.banner_timeout)
        except (SSHException, OSError, EOFError) as error:
            said = transport.guard.beginning
            dropped = not transport.remote_version and transport.guard.cause in (Cause.EOF, Cause.RESET)
            if dropped and (not said or said.startswith(_COME_AGAIN)):
                raise _DroppedError(_readable(said) or "without a word") from error
            raise self._failed(transport, error) from error
        if not transport.initial_kex_done:
            transport.guard.fail(Cause.DEADLINE)
            raise self._failed(transport, TimeoutError())

    def _know(self, key: paramiko.PKey) -> None:
        address = self.server.address
        fields = self._fields() | {"key": key.fingerprint, "type": key.get_name()}
        try:
            decision: str = self.known_hosts.check(address.host, address.port, key)
        except ExecutionError as error:
            self.audit.append("ssh.host_key", result="refused", reason=error.reason.value, **fields)
            raise
        self.audit.append("ssh.host_key", result=decision, **fields)

    def _log_in(self, transport: SshTransport) -> None:
        user, identity = self.server.address.username, self.identity
        transport.auth_timeout = self._left_s() + _GUARD_FIRST_S
        try:
            if identity.key is not None:
                more = transport.auth_publickey(user, identity.key)
            else:
                more = transport.auth_password(user, identity.password or "")
            if more:
                raise self._not_let_in(f"wants {' and '.join(more)} beside it")
        except ExecutionError as error:
            self.audit.append("ssh.login", result="refused", error=error.message, **self._fields())
            raise
        except (SSHException, OSError, EOFError) as error:
            refused = self._refused(transport, error)
            self.audit.append("ssh.login", result="refused", error=refused.message, **self._fields())
            raise refused from error
        self.audit.append("ssh.login", result="succeeded", **self._fields())

    def _refused(self, transport: SshTransport, error: Exception) -> ExecutionError:
        guard = transport.guard
        if guard.cause is Cause.DISCONNECT and "auth" in guard.detail.lower():  # as "Too many authentication failures"
            return self._not_let_in(f"ended it ({guard.detail})")
        if guard.cause is None and isinstance(error, BadAuthenticationType):
            return self._not_let_in(f"takes {', '.join(error.allowed_types) or 'nothing'} only")
        if guard.cause is None and isinstance(error, AuthenticationException):
            return self._not_let_in("refuses it")
        return self._failed(transport, error)

    def _not_let_in(self, what: str) -> ExecutionError:
        user = self.server.address.username
        if self.identity.key is None:
            shown = "the password"
            step = "check the password, and that its sshd allows passwords (PasswordAuthentication)"
        else:
            shown = f"the key {self.identity.fingerprint}"
            step = f"see that this key is in {user}'s authorized_keys there, and read its sshd's log"
        return self._error(Reason.AUTH_FAILED, f"did not let {user} in with {shown}: it {what}. Next: {step}")

    def _failed(self, transport: SshTransport, error: Exception) -> ExecutionError:
        """Why there is no connection, from what the guard saw first and from what paramiko says."""
        guard = transport.guard
        stage = "before it said that it speaks SSH" if not transport.remote_version else "before the login"
        odd = "see what listens there: `nc HOST PORT` shows what it says"
        match guard.cause:
            case Cause.DEADLINE | Cause.STALLED:
                if not guard.beginning:
                    return self._error(
                        Reason.SSH_PROTOCOL,
                        "takes connections but says nothing: see whether its sshd hangs, and what listens there",
                    )
                what = f"did not come to a login within {self.settings.connect_timeout_s:g} s"
                return self._error(Reason.SSH_PROTOCOL, f"{what} (it stopped {stage}): see its load and its sshd's log, or {odd}")
            case Cause.FLOOD | Cause.PACKET:
                return self._error(Reason.SSH_PROTOCOL, f"is no sound SSH server: {guard.cause.value}: {odd}")
            case Cause.DISCONNECT:
                return self._error(Reason.SSH_PROTOCOL, f"ended the connection {stage} ({guard.detail}): read its sshd's log")
            case Cause.EOF | Cause.RESET if transport.remote_version:
                how = guard.detail or guard.cause.value
                return self._error(Reason.UNREACHABLE, f"broke the connection {stage} ({how}): read its sshd's log")
        if isinstance(error, IncompatiblePeer):
            text = _readable(str(error).encode())
            return self._error(
                Reason.SSH_PROTOCOL,
                f"has no algorithm in common with us ({text}): update its SSH server, or allow stronger ones there",
            )
        said = f" (it says {_readable(guard.beginning)!r})" if not transport.remote_version and guard.beginning else ""
        return self._error(Reason.SSH_PROTOCOL, f"does not speak SSH as it should{said}: {_readable(str(error).encode())}: {odd}")

    def _error(self, reason: Reason, what: str) -> ExecutionError:
        address = self.server.address
        way = f" through {self.through.server.address}" if self.through else ""
        return ExecutionError(reason, f"{address}{way} {what}", server=str(address), key=self.identity.fingerprint)

    def _left_s(self) -> float:
        return max(0.001, self.deadline_s - time.monotonic())

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"server": str(self.server.address), "key": self.identity.fingerprint}
        job = {"job": self.job_id} if self.job_id else {}
        return job | fields | ({"through": str(self.through.server.address)} if self.through else {})


def _readable(said: bytes) -> str:
    """The first line of what somebody said, safe to show."""
    line = said.partition(b"\n")[0].strip()[:100].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in line)
