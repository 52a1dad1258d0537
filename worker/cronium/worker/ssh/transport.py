"""paramiko's transport, as we use it: strong algorithms, our limits. Everything of paramiko that is not public is used here only.

Runs in a worker. Knows nothing of servers, identities and jobs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import paramiko
from paramiko.common import (
    MSG_CHANNEL_CLOSE,
    MSG_EXT_INFO,
    MSG_USERAUTH_INFO_REQUEST,
    cMSG_CHANNEL_WINDOW_ADJUST,
    cMSG_GLOBAL_REQUEST,
)
from paramiko.message import Message
from paramiko.packet import Packetizer
from paramiko.ssh_exception import ChannelException, SSHException

from cronium.worker.ssh.guard import Cause, Guard

# Output that may be on its way to us for one channel: 2 MiB as OpenSSH has it (CHAN_SES_WINDOW_DEFAULT).
WINDOW_BYTES: Final = 2 * 1024 * 1024
_PACKET_BYTES: Final = 32 * 1024
# The quickest first: AES-GCM needs one pass and no MAC. No CBC, 3DES, MD5, SHA-1, group 1.
_CIPHERS: Final = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr", "aes192-ctr")
_MACS: Final = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512")
_KEX: Final = (
    "mlkem768x25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group14-sha256",
    "diffie-hellman-group-exchange-sha256",
)
_HOST_KEYS: Final = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
# The name of a key's type in known_hosts is not that of its signatures for RSA (RFC 8332).
_SIGNATURES: Final = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
_WEAK: Final = {"pubkeys": ["ssh-rsa", "ssh-dss"], "keys": ["ssh-rsa", "ssh-dss"]}
_JOIN_S: Final = 5.0
_REKEY_S: Final = 5.0  # a new key exchange takes two round trips
_MAX_ITEMS: Final = 64  # of a list whose length the other side says, and paramiko believes


class _Events(dict[int, threading.Event]):
    def values(self) -> list[threading.Event]:  # type: ignore[override]  # what paramiko goes through; a list does as well
        """As they are now: paramiko's thread goes through them when the connection dies, while others open channels."""
        return list(super().values())


class _Packets(Packetizer):
    def start_handshake(self, timeout: float) -> None:
        """The guard has the deadline; paramiko's own is a thread that outlives a connection that failed."""


def _close_by_peer(channel: Any, message: Message) -> None:
    channel.closed_by_peer = True
    channel._handle_close(message)
    channel.get_transport().forget(channel)


class SshTransport(paramiko.Transport):
    """One SSH connection on a guarded socket. `known_types`: the host key types to ask for first."""

    _channel_handler_table: ClassVar[dict[int, Callable[[Any, Message], None]]] = {
        **paramiko.Transport._channel_handler_table,  # type: ignore[attr-defined]  # private
        MSG_CHANNEL_CLOSE: _close_by_peer,
    }

    if TYPE_CHECKING:  # what the stubs leave out
        _handler_table: dict[int, Callable[[Message], None]]

        def _send_user_message(self, data: Message) -> None: ...
        def _parse_ext_info(self, m: Message) -> None: ...

    def __init__(self, guard: Guard, known_types: Sequence[str], stall_s: float) -> None:
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # what goes wrong is raised, and told by us
        super().__init__(
            guard,  # type: ignore[arg-type]  # a socket as far as paramiko needs one
            default_window_size=WINDOW_BYTES,
            default_max_packet_size=_PACKET_BYTES,
            disabled_algorithms=_WEAK,
            packetizer_class=_Packets,
        )
        self.channel_events = _Events()
        self.guard = guard
        self.clear_to_send_timeout = stall_s
        options = self.get_security_options()
        options.ciphers = tuple(name for name in _CIPHERS if name in options.ciphers)
        options.digests = tuple(name for name in _MACS if name in options.digests)
        options.kex = tuple(name for name in _KEX if name in options.kex)
        first = [name for known in known_types for name in _SIGNATURES.get(known, (known,)) if name in _HOST_KEYS]
        options.key_types = tuple(dict.fromkeys([*first, *_HOST_KEYS]))
        self._handler_table[MSG_EXT_INFO] = self._bounded_ext_info
        self._handler_table[MSG_USERAUTH_INFO_REQUEST] = self._bounded_info_request
        self._pinging = threading.Lock()
        self._rekeyed_s = 0.0
        self._sessions: set[paramiko.Channel] = set()

    @property
    def rekeying(self) -> bool:
        """New keys are being agreed on: whoever sends now waits for them. Where that does not end the connection is given up."""
        if self.clear_to_send.is_set():
            return False
        if time.monotonic() > self._rekeyed_s + _REKEY_S:
            self.guard.fail(Cause.SILENT)
        return True

    def session(self, timeout_s: float) -> paramiko.Channel:
        """A new session. Raises ChannelException, SSHException, OSError, EOFError."""
        channel = self.open_session(timeout=timeout_s)
        self._sessions.add(channel)  # until the other side has closed it, whoever else lets go of it
        if getattr(channel, "closed_by_peer", False):
            self.forget(channel)
        return channel

    def forget(self, channel: paramiko.Channel) -> None:
        """Nothing comes for it any more. (paramiko keeps each channel's number for as long as the connection lives.)"""
        self._sessions.discard(channel)
        self.channels_seen.pop(channel.chanid, None)

    def round_trip(self, timeout_s: float) -> bool:
        """Ask for something that every server answers (most with no). Whether an answer came in time."""
        deadline_s = time.monotonic() + timeout_s
        if not self._pinging.acquire(timeout=timeout_s):
            return False
        try:
            self.completion_event = answered = threading.Event()  # set by any answer, and by new keys
            message = Message()
            message.add_byte(cMSG_GLOBAL_REQUEST)
            message.add_string("keepalive@openssh.com")
            message.add_boolean(True)
            self._send_user_message(message)
            while self.is_active() and not answered.wait(min(0.1, max(0.0, deadline_s - time.monotonic()))):
                if time.monotonic() >= deadline_s:
                    return False
            return self.is_active()
        except (SSHException, OSError, EOFError):
            return False
        finally:
            self._pinging.release()

    def taken(self, channel: paramiko.Channel, count: int) -> int:
        """So many bytes of a channel were taken; how many others it may be given leave for now, with `give_window`."""
        return int(channel._check_add_window(count))  # type: ignore[attr-defined]  # private

    def give_window(self, channel: paramiko.Channel, due: int) -> None:
        """So many bytes more may come. Raises SSHException, OSError, EOFError."""
        if due > 0:
            message = Message()
            message.add_byte(cMSG_CHANNEL_WINDOW_ADJUST)
            message.add_int(channel.remote_chanid)
            message.add_int(due)
            self._send_user_message(message)

    def misunderstood(self) -> str:
        """What the other side sent that no SSH server sends, if that was the end; else empty."""
        error = self.saved_exception
        if error is None or isinstance(error, OSError | EOFError | ChannelException):
            return ""
        return f"the other side sent what is no SSH ({str(error) or type(error).__name__})"

    def bound(self, channel: paramiko.Channel) -> None:
        """Hold the other side to a channel's window, where paramiko's own buffer is used (it may have something already)."""
        pipe = channel.in_buffer
        feed = pipe.feed

        def checked(data: bytes) -> None:
            if len(pipe) + len(data) > WINDOW_BYTES:
                self.guard.fail(Cause.WINDOW)
            else:
                feed(data)

        pipe.feed = checked  # type: ignore[method-assign]  # on this one object

    def stop(self, cause: Cause = Cause.CLOSED) -> None:
        """End it, and its thread."""
        self.guard.fail(cause)
        self.close()
        self.guard.close()
        if self.ident is not None and self is not threading.current_thread():
            self.join(_JOIN_S)
        self.guard.release()

    def _send_kex_init(self) -> None:
        self._rekeyed_s = time.monotonic()
        super()._send_kex_init()  # type: ignore[misc]  # private

    def _parse_disconnect(self, m: Message) -> None:
        m.get_int()
        text = m.get_text()[:200]
        self.guard.fail(Cause.DISCONNECT, "".join(c if c.isprintable() else "?" for c in text))

    def _bounded_ext_info(self, m: Message) -> None:
        if m.get_int() > _MAX_ITEMS:
            raise SSHException("the other side's list of extensions is too long")
        m.rewind()
        self._parse_ext_info(m)

    def _bounded_info_request(self, m: Message) -> None:
        for _ in range(3):  # title, instructions, language
            m.get_binary()
        if m.get_int() > _MAX_ITEMS:
            raise SSHException("the other side asks too many questions")
        m.rewind()
        if self.auth_handler is not None:
            self.auth_handler._parse_userauth_info_request(m)  # type: ignore[attr-defined]  # private
