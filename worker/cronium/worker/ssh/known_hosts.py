"""Whether a server is the one it was before: the keys of servers in a file as OpenSSH's known_hosts (sshd(8), SSH_KNOWN_HOSTS).

Runs in workers and in the command line's process, several at once; it never talks to a server. The file is read anew each time,
for people edit it; what we add goes in under a lock on the file itself. A key that contradicts it is refused, whatever the mode.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, Self

import paramiko
import structlog

from cronium.common.errors import ExecutionError, Reason
from cronium.common.files import give_to_folders_owner
from cronium.common.locks import lock, write_whole
from cronium.common.servers import Address
from cronium.worker.ssh.known_hosts_lines import BrokenLine, Entry, fingerprint_of, matches, name_behind, name_of, parse, target

PROGRAM: Final = "cronium-supervisor"
_LOCK_S: Final = 5.0
_log = structlog.get_logger()


class KnownHosts:
    """The file at `path`, which need not exist. `strict` refuses a server that is not in it, `accept-new` takes its key down."""

    def __init__(self, path: Path, mode: Literal["strict", "accept-new"], jump: Address | None = None) -> None:
        self.path = path
        self.mode = mode
        self._jump = jump
        self._told: frozenset[BrokenLine] = frozenset()

    def behind(self, jump: Address) -> Self:
        """For servers that are reached through a jump host of their own: they have names of their own (`name_behind`).

        A key that is recorded under the plain name is good for them too, as OpenSSH writes it; another one says nothing of them.
        """
        other = type(self)(self.path, self.mode, jump)
        other._told = self._told
        return other

    def algorithms(self, host: str, port: int) -> tuple[str, ...]:
        """Types of the keys that are known for it (`ssh-ed25519`, `ssh-rsa` …), in the file's order: to be asked for first."""
        entries = self._entries(host, port) or self._plain(host, port)
        return tuple(dict.fromkeys(entry.type for entry in entries if not entry.marker))

    def recorded(self, host: str, port: int) -> tuple[Entry, ...]:
        """The keys that are known for it. Raises ExecutionError(HOST_KEY_UNKNOWN) when the file cannot be read."""
        return tuple(entry for entry in self._entries(host, port) if not entry.marker)

    def agrees(self, host: str, port: int, *keys: paramiko.PKey) -> bool:
        """Whether one of a server's keys is known; False when nothing is known of it. Raises as `check` when one contradicts."""
        return self._agrees(host, port, keys, self._entries(host, port, *keys))

    def check(self, host: str, port: int, key: paramiko.PKey) -> Literal["known", "recorded"]:
        """Whether a server that showed `key` may be talked to; blocking.

        Raises ExecutionError: HOST_KEY_CHANGED when the file says otherwise, HOST_KEY_UNKNOWN when it says nothing.
        """
        entries = self._entries(host, port, key)
        if self._agrees(host, port, (key,), entries):
            return "known"
        authority = next((entry for entry in entries if entry.marker == "@cert-authority"), None)
        if authority is not None:
            what = f"{self.path} line {authority.line} names an authority for it (@cert-authority), which is not supported"
            raise self._unknown(host, port, key, what)
        if self.mode == "strict":
            raise self._unknown(host, port, key, f"it is not in {self.path}")
        self.record(host, port, key)
        return "recorded"

    def record(self, host: str, port: int, key: paramiko.PKey, *others: paramiko.PKey) -> None:
        """Take down a server's key, or all of its keys at once; what is there already stays as it is.

        Raises ExecutionError: HOST_KEY_CHANGED when the file, read again under the lock, contradicts them; HOST_KEY_UNKNOWN when
        it cannot be written.
        """
        keys = (key, *others)
        try:
            with _locked(self.path) as descriptor:
                entries = self._entries(host, port)
                self._agrees(host, port, keys, entries)
                known = {(entry.type, entry.blob) for entry in entries if not entry.marker}
                new = [one for one in keys if (one.get_name(), one.asbytes()) not in known]
                text = "".join(f"{self._name(host, port)} {one.get_name()} {one.get_base64()}\n" for one in new)
                if text:
                    _append(descriptor, text)
        except OSError as error:
            message = (
                f"the key of {self._name(host, port)} cannot be written to {self.path} ({error.strerror}): "
                f"make it writable for uid {os.geteuid()}, or name another file (ssh.knownHostsFile)"
            )
            raise ExecutionError(Reason.HOST_KEY_UNKNOWN, message, host=host, port=port, file=str(self.path)) from error

    def _agrees(self, host: str, port: int, keys: tuple[paramiko.PKey, ...], entries: tuple[Entry, ...]) -> bool:
        """True when one of a server's keys is known and none contradicts; False when there is none. Raises HOST_KEY_CHANGED."""
        plain = [entry for entry in entries if not entry.marker]
        for key in keys:
            same = [entry for entry in entries if (entry.type, entry.blob) == (key.get_name(), key.asbytes())]
            if revoked := [entry for entry in same if entry.marker == "@revoked"]:
                raise self._revoked(host, port, revoked[0])
            of_its_type = [entry for entry in plain if entry.type == key.get_name()]
            if of_its_type and not same:
                raise self._changed(host, port, key, of_its_type[0])
        shown = {(key.get_name(), key.asbytes()) for key in keys}
        if plain and not any((entry.type, entry.blob) in shown for entry in plain):
            raise self._changed(host, port, keys[0], plain[0])
        return bool(plain)

    def _entries(self, host: str, port: int, *keys: paramiko.PKey) -> tuple[Entry, ...]:
        """Those of its name; where there are none behind a jump host, what the plain name has on these keys."""
        found = self._named(self._name(host, port), host, port)
        if found or not keys:
            return found
        shown = {(key.get_name(), key.asbytes()) for key in keys}
        return tuple(entry for entry in self._plain(host, port) if entry.marker or (entry.type, entry.blob) in shown)

    def _plain(self, host: str, port: int) -> tuple[Entry, ...]:
        return () if self._jump is None else self._named(name_of(host, port), host, port)

    def _name(self, host: str, port: int) -> str:
        return name_of(host, port) if self._jump is None else name_behind((self._jump.host, self._jump.port), host, port)

    def _command(self, host: str, port: int) -> str:
        return f"{PROGRAM} ssh trust {target(host, port)}" + ("" if self._jump is None else f" --jump {self._jump}")

    def _named(self, name: str, host: str, port: int) -> tuple[Entry, ...]:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ()
        except OSError as error:
            message = (
                f"the keys of servers cannot be read from {self.path} ({error.strerror}): "
                f"make it readable for uid {os.geteuid()}, or name another file (ssh.knownHostsFile)"
            )
            raise ExecutionError(Reason.HOST_KEY_UNKNOWN, message, host=host, port=port, file=str(self.path)) from error
        found, broken = [], []
        for one in parse(text):
            if isinstance(one, BrokenLine):
                broken.append(one)
            elif matches(one.hosts, name):
                found.append(one)
        self._tell(frozenset(broken))
        return tuple(found)

    def _tell(self, broken: frozenset[BrokenLine]) -> None:
        for one in sorted(broken - self._told, key=lambda one: one.line):
            _log.warning("a line of known_hosts is skipped", file=str(self.path), line=one.line, problem=one.problem)
        self._told = broken

    def _unknown(self, host: str, port: int, key: paramiko.PKey, what: str) -> ExecutionError:
        shown = fingerprint_of(key.asbytes())
        return ExecutionError(
            Reason.HOST_KEY_UNKNOWN,
            f"the key of {self._name(host, port)} is not known: it shows {key.get_name()} {shown}, and {what}. "
            f"Ask who runs it whether that is its key, then: {self._command(host, port)}",
            host=host,
            port=port,
            shown=shown,
            file=str(self.path),
        )

    def _changed(self, host: str, port: int, key: paramiko.PKey, entry: Entry) -> ExecutionError:
        shown = fingerprint_of(key.asbytes())
        return ExecutionError(
            Reason.HOST_KEY_CHANGED,
            f"THE KEY OF {self._name(host, port)} HAS CHANGED: it shows {key.get_name()} {shown}, "
            f"but {self.path} line {entry.line} has {entry.type} {entry.fingerprint}. "
            "Somebody may stand between us and it, or it was installed anew; nothing was sent to it. "
            "Ask who runs it; if this is its new key: "
            f"ssh-keygen -R '{self._name(host, port)}' -f {self.path}, then {self._command(host, port)}",
            host=host,
            port=port,
            shown=shown,
            recorded=entry.fingerprint,
            file=str(self.path),
            line=entry.line,
        )

    def _revoked(self, host: str, port: int, entry: Entry) -> ExecutionError:
        return ExecutionError(
            Reason.HOST_KEY_CHANGED,
            f"THE KEY OF {self._name(host, port)} IS REVOKED: {entry.type} {entry.fingerprint} is marked so in {self.path} line "
            f"{entry.line}; nothing was sent to it. Ask who runs it for a new key; only if the mark is wrong, remove that line",
            host=host,
            port=port,
            shown=entry.fingerprint,
            file=str(self.path),
            line=entry.line,
        )


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file, made if it is missing, open for reading and appending, for us alone for now. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            lock(descriptor, _LOCK_S)
            if _is_at(path, descriptor):
                if not os.fstat(descriptor).st_size:
                    give_to_folders_owner(descriptor, path)
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the file is still the one at `path`: ssh-keygen -R puts a new one there."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _append(descriptor: int, text: str) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":  # somebody's last line has no end
        text = "\n" + text
    try:
        write_whole(descriptor, text.encode("ascii"))
    except OSError:
        os.ftruncate(descriptor, size)  # half a line would be skipped as broken by every reader
        raise
    os.fsync(descriptor)
