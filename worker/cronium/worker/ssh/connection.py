"""A connection to a server that is logged in: commands on it, and whether it still lives.

Runs in a worker; made by `dial`. Calls block, each with a deadline. Nothing here knows of places or
jobs, but each command says what it is, for the record.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import paramiko
from paramiko.ssh_exception import ChannelException, SSHException

from cronium.common.errors import ExecutionError, Reason
from cronium.common.servers import Address, Server
from cronium.worker.ssh.channel import STDOUT, RemoteChannel
from cronium.worker.ssh.commands import described
from cronium.worker.ssh.guard import Cause
from cronium.worker.ssh.transport import SshTransport

_TAKE_BYTES: Final = 64 * 1024
_INPUT_LOOK_S: Final = 0.01
_SESSION_S: Final = 2.0
_SESSION_PAUSE_S: Final = 0.02
# What a server does only when it is broken or means ill.
_BAD_MANNERS: Final = frozenset({Cause.FLOOD, Cause.PACKET, Cause.WINDOW})


@dataclass(frozen=True, slots=True)
class Finished:
    """A short command's end. `exit_code` is None when the server said none."""

    exit_code: int | None
    stdout: bytes
    stderr: bytes


class Connection:
    """One SSH connection. Safe to use from several threads.

    `key`: the fingerprint that it was logged in with. `through`: the jump host's connection, closed with this one. `note`: takes
    down (event, fields) what was done with it.
    """

    def __init__(
        self, server: Server, transport: SshTransport, key: str, through: Connection | None, note: Callable[..., None]
    ) -> None:
        self.server = server
        self.key = key
        self._transport = transport
        self._through = through
        self._note = note
        self._closing = threading.Lock()  # taken for good by whoever closes it first

    @property
    def alive(self) -> bool:
        """False once it has ended."""
        return self._transport.is_active() and self._transport.guard.cause is None

    def open(self, command: str, timeout_s: float) -> RemoteChannel:
        """Start a command.

        Raises ExecutionError: UNREACHABLE when the connection is gone or silent, SERVER_UNSUITABLE when it takes no further
        command beside those that run, SSH_PROTOCOL when it refuses this one.
        """
        deadline_s = time.monotonic() + timeout_s
        found: RemoteChannel | None = None
        try:
            channel = self._session(deadline_s)
            channel.event = _Patience(deadline_s)
            found = RemoteChannel(self._transport, channel)
            self._note("ssh.exec", **described(command))
            channel.exec_command(command)
        except ChannelException as error:
            raise self._crowded(error) from error
        except (SSHException, OSError, EOFError) as error:
            if found is not None:
                found.close()
            raise self._failed(error, "did not start a command") from error
        return found

    def check_sessions(self, count: int, timeout_s: float) -> None:
        """Whether it takes so many commands at once, found out before any is started. Raises ExecutionError as `open`."""
        deadline_s = time.monotonic() + timeout_s
        channels: list[paramiko.Channel] = []
        try:
            for _ in range(count):
                channels.append(self._session(deadline_s))
        except ChannelException as error:
            raise self._crowded(error) from error
        except (SSHException, OSError, EOFError) as error:
            raise self._failed(error, "did not open a session") from error
        finally:
            for channel in channels:
                with suppress(SSHException, OSError, EOFError):  # whatever is wrong shows with the first command
                    channel.close()

    def run(self, command: str, timeout_s: float, *, max_bytes: int, stdin: bytes = b"") -> Finished:
        """A short command to its end. Raises ExecutionError as `open`; SSH_PROTOCOL when it says more than `max_bytes`."""
        deadline_s = time.monotonic() + timeout_s
        channel = self.open(command, timeout_s)
        try:
            return self._converse(channel, stdin, deadline_s, max_bytes)
        finally:
            channel.close()

    def ping(self, timeout_s: float) -> None:
        """A round trip. Raises ExecutionError(UNREACHABLE) when there was no answer in time."""
        if not self._transport.round_trip(timeout_s):
            raise self._gone(f"did not answer within {timeout_s:g} s" if self.alive else "")

    def close(self) -> None:
        """End it, with all its channels."""
        if self._closing.acquire(blocking=False):
            self._note("ssh.disconnect", result=(self._transport.guard.cause or Cause.CLOSED).value)
        self._transport.stop()
        if self._through is not None:
            self._through.close()

    def tunnel(self, address: Address, timeout_s: float) -> paramiko.Channel:
        """A way through this server to another one. Raises ExecutionError(UNREACHABLE)."""
        try:
            target = (address.host, address.port)
            channel = self._transport.open_channel("direct-tcpip", target, ("127.0.0.1", 0), timeout=timeout_s)
        except ChannelException as error:
            raise ExecutionError(
                Reason.UNREACHABLE,
                f"the jump host {self.server.address} does not reach {address} ({error.args[-1]}): see that it may"
                " (AllowTcpForwarding), and that the server is up",
                server=str(address),
            ) from error
        except (SSHException, OSError, EOFError) as error:
            raise self._failed(error, f"opened no way to {address}") from error
        self._transport.bound(channel)
        return channel

    def _session(self, deadline_s: float) -> paramiko.Channel:
        """sshd counts a session until its command has ended, so one that was just closed may still be in the way."""
        give_up_s = min(deadline_s, time.monotonic() + _SESSION_S)
        while True:
            try:
                return self._transport.session(max(0.001, deadline_s - time.monotonic()))
            except ChannelException:
                if time.monotonic() > give_up_s:
                    raise
                time.sleep(_SESSION_PAUSE_S)

    def _converse(self, channel: RemoteChannel, stdin: bytes, deadline_s: float, max_bytes: int) -> Finished:
        poller = select.poll()
        poller.register(channel.descriptor, select.POLLIN)
        out, err, sent, ended = bytearray(), bytearray(), 0, False
        while not channel.ended:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise self._gone("did not finish a short command in time")
            try:
                sent += channel.offer(stdin[sent:]) if sent < len(stdin) else 0
            except OSError:
                sent = len(stdin)  # the command does not want it; its exit code tells
            if sent == len(stdin) and not ended:
                channel.send_end()
                ended = True
            poller.poll(min(left_s, 1.0 if ended else _INPUT_LOOK_S) * 1000)
            while (taken := channel.take(_TAKE_BYTES)) is not None:
                (out if taken[0] == STDOUT else err).extend(taken[1])
                if len(out) + len(err) > max_bytes:
                    raise self._refused(f"answered a short command with more than {max_bytes} bytes", "see what its shell prints")
        if channel.cut:
            raise self._gone()
        return Finished(channel.exit_code, bytes(out), bytes(err))

    def _crowded(self, error: ChannelException) -> ExecutionError:
        return ExecutionError(
            Reason.SERVER_UNSUITABLE,
            f"{self.server.address} opens no further session on this connection ({error.args[-1]}): set MaxSessions of its "
            "sshd to 4 or more",
            server=str(self.server.address),
        )

    def _failed(self, error: Exception, what: str) -> ExecutionError:
        if not self.alive:
            return self._gone()
        if isinstance(error, TimeoutError) or "Timeout" in str(error):  # paramiko has no type of its own for it
            return self._gone(f"{what} in time")
        return self._refused(what, "see its log")

    def _gone(self, said: str = "") -> ExecutionError:
        guard = self._transport.guard
        server = self.server.address
        odd = guard.cause.value if guard.cause is not None and guard.cause in _BAD_MANNERS else self._transport.misunderstood()
        if odd:
            return ExecutionError(
                Reason.SSH_PROTOCOL,
                f"{server}: {odd}, and was disconnected: see what runs there as its SSH server",
                server=str(server),
            )
        if not said:
            said = f"lost its connection ({guard.detail or (guard.cause or Cause.EOF).value})"
        return ExecutionError(
            Reason.UNREACHABLE, f"{server} {said}: see that it is up and that the network lasts", server=str(server)
        )

    def _refused(self, what: str, step: str) -> ExecutionError:
        server = self.server.address
        return ExecutionError(Reason.SSH_PROTOCOL, f"{server} {what}: {step}", server=str(server))


class _Patience(threading.Event):
    """paramiko waits for the answer to a request without a limit; this one has a deadline (monotonic)."""

    def __init__(self, deadline_s: float) -> None:
        super().__init__()
        self._deadline_s = deadline_s

    def wait(self, timeout: float | None = None) -> bool:
        left_s = max(0.0, self._deadline_s - time.monotonic())
        if not super().wait(left_s if timeout is None else min(left_s, timeout)):
            raise TimeoutError("no answer in time")
        return True
