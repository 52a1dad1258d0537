"""Real sshd processes of a test's own: keys, configuration, log and account of their own, and what a test asks of them.

Runs in the tests, as root. `with Sshd() as server:` gives one on loopback that root may log in to by key; nothing of it is
left afterwards: no process, no account, no file.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

SSHD = "/usr/sbin/sshd"
KINDS = ("ed25519", "ecdsa", "rsa")
_READY_S = 20.0
_STOP_S = 10.0
_ACCEPTED = ("Accepted publickey for", "Accepted password for", "Accepted keyboard-interactive")
_ESTABLISHED = "01"  # of /proc/net/tcp (include/net/tcp_states.h)


def new_key(kind: str = "ed25519", passphrase: str | None = None, bits: int = 2048) -> str:
    """A new private key as OpenSSH writes it. Kinds: ed25519, ecdsa, rsa."""
    key: Any
    match kind:
        case "ed25519":
            key = ed25519.Ed25519PrivateKey.generate()
        case "ecdsa":
            key = ec.generate_private_key(ec.SECP256R1())
        case _:
            key = rsa.generate_private_key(65537, bits)
    locked = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    return str(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, locked).decode())


def public_of(private: str, passphrase: str | None = None) -> str:
    """The public half as `TYPE BASE64`."""
    secret = passphrase.encode() if passphrase else None
    key = serialization.load_ssh_private_key(private.encode(), secret)
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


@functools.cache
def session_key(name: str, kind: str) -> str:
    """A private key that is made once for all tests of this process."""
    return new_key(kind)


def busybox_tools(folder: Path, without: Iterable[str] = ()) -> Path:
    """A folder with busybox's tools under their names (`sh` among them) but those in `without`: a PATH for a small server."""
    folder.mkdir(parents=True, exist_ok=True)
    busybox = shutil.which("busybox")
    assert busybox, "busybox is needed: apt-get install busybox"
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True, timeout=_STOP_S)
    for name in set(listed.stdout.split()) - set(without):
        (folder / name).symlink_to(busybox)
    return folder


class Sshd:
    """One sshd. Use as a context manager.

    `address`, `port`: where it listens (port 0: a free one). `prefix`: a command that it is started with, as
    `("ip", "netns", "exec", NAME)`. `lines`: more lines of sshd_config, before ours (sshd takes the first of each).
    `user`: who logs in; one that does not exist is made, with `shell`, `password` and a home of its own, and removed at the end.
    `host_keys`: which kinds of host keys it has; `own_host_keys`: not those that all others share.
    `key`: the private key that is let in (OpenSSH's text).
    """

    def __init__(
        self,
        *lines: str,
        address: str = "127.0.0.1",
        port: int = 0,
        prefix: Iterable[str] = (),
        user: str = "root",
        shell: str | Path = "/bin/bash",
        password: str | None = None,
        host_keys: Iterable[str] = KINDS,
        own_host_keys: bool = False,
        key: str | None = None,
    ) -> None:
        self.address = address
        self.port = port
        self.user = user
        self.password = password
        self.private_key = key or session_key("client", "ed25519")
        self.host_keys = {kind: new_key(kind) if own_host_keys else session_key("host", kind) for kind in host_keys}
        self._lines = lines
        self._prefix = tuple(prefix)
        self._shell = Path(shell)
        self._made_user = False
        self._listener: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's privilege separation directory
        self.folder = Path(tempfile.mkdtemp(prefix="cr-sshd-", dir="/tmp"))
        self.folder.chmod(0o755)  # sshd reads authorized_keys as the user
        self.log = self.folder / "log"
        self.log.touch()
        try:
            self._make_user()
            self.home = Path(pwd.getpwnam(self.user).pw_dir)
            for kind, key in self.host_keys.items():
                _write(self.folder / f"host_{kind}", key, 0o600)
            _write(self.folder / "authorized_keys", public_of(self.private_key) + "\n", 0o644)
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self._remove_user()
        shutil.rmtree(self.folder, ignore_errors=True)

    # What a test wants to know.

    def server_details(self, **more: Any) -> dict[str, Any]:
        """`serverDetails` as in a job: host, port, username, privateKey; `more` is added, None takes away."""
        details = {
            "name": "test-server",
            "host": self.address,
            "port": self.port,
            "username": self.user,
            "privateKey": self.private_key,
        }
        return {name: value for name, value in (details | more).items() if value is not None}

    def known_hosts_line(self, kind: str = "ed25519") -> str:
        """The line of a known_hosts file for one of its host keys, without newline."""
        host = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        return f"{host} {public_of(self.host_keys[kind])}"

    def known_hosts(self) -> str:
        """The lines for all of its host keys."""
        return "".join(self.known_hosts_line(kind) + "\n" for kind in self.host_keys)

    def connections(self) -> int:
        """Connections to it that are established right now, in whatever network namespace it lives."""
        assert self._listener
        found = set()  # a table that changes while it is read may show a row twice
        for table in ("tcp", "tcp6"):
            for row in Path(f"/proc/{self._listener.pid}/net/{table}").read_text().splitlines()[1:]:
                local, remote, state = row.split()[1:4]
                if state == _ESTABLISHED and int(local.rpartition(":")[2], 16) == self.port:
                    found.add((local, remote))
        return len(found)

    def handshakes(self) -> int:
        """Logins that it has accepted since it exists."""
        return sum(line.startswith(_ACCEPTED) for line in self.log_lines())

    def log_lines(self) -> list[str]:
        """What it has logged (LogLevel VERBOSE)."""
        return self.log.read_text(errors="replace").splitlines()

    def sessions(self) -> list[psutil.Process]:
        """Its processes for connections: not the listener, and not what runs in the sessions."""
        if self._listener is None:
            return []
        try:
            return list(_sshd_below(psutil.Process(self._listener.pid)))
        except (psutil.NoSuchProcess, ProcessLookupError):
            return self.sessions()  # one of them ended just now

    # What a test does to it.

    def kill_sessions(self) -> int:
        """SIGKILL its processes for connections; what runs in them goes on. Says how many there were."""
        return self.signal_sessions(signal.SIGKILL)

    def signal_sessions(self, number: int) -> int:
        """The same with another signal: SIGSTOP makes the link silent, SIGCONT ends that."""
        found = self.sessions()
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        if number == signal.SIGKILL:
            _wait_for_end(found)
        return len(found)

    def stop(self, *, sessions: bool = True) -> None:
        """End the listener, and the connections too unless told otherwise. Never what runs in them."""
        if self._listener is None:
            return
        found = self.sessions() if sessions else []
        self._listener.kill()
        self._listener.wait(_STOP_S)
        self._listener = None
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _wait_for_end(found)

    def start(self) -> None:
        """Start it (again, on the same port)."""
        fixed = self.port
        deadline = time.monotonic() + _READY_S
        while True:
            self.port = fixed or self._free_port()
            self._configure()
            before = self._listening()
            command = [*self._prefix, SSHD, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.log)]
            listener = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            while listener.poll() is None and self._listening() == before:
                if time.monotonic() > deadline:
                    listener.kill()
                    raise TimeoutError(f"sshd does not listen:\n{self.log.read_text()}")
                time.sleep(0.005)
            if listener.poll() is None:
                self._listener = listener
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"sshd ended with {listener.returncode}:\n{self.log.read_text()}")
            time.sleep(0.1)  # somebody else was quicker with this port

    # How it is set up.

    def _configure(self) -> None:
        ours = [
            f"Port {self.port}",
            f"ListenAddress {self.address}",
            *(f"HostKey {self.folder}/host_{kind}" for kind in self.host_keys),
            f"AuthorizedKeysFile {self.folder}/authorized_keys",
            f"PasswordAuthentication {'yes' if self.password else 'no'}",
            f"KbdInteractiveAuthentication {'yes' if self.password else 'no'}",
            "PermitRootLogin yes",
            "StrictModes no",
            "UsePAM no",
            "UseDNS no",
            "PidFile none",
            "PrintMotd no",
            "LogLevel VERBOSE",
        ]
        _write(self.folder / "sshd_config", "\n".join([*self._lines, *ours]) + "\n", 0o600)

    def _listening(self) -> int:
        return sum("Server listening on" in line for line in self.log_lines())

    def _free_port(self) -> int:
        if self._prefix:
            return 2222  # a network namespace of its own
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((self.address, 0))
            return int(probe.getsockname()[1])

    def _make_user(self) -> None:
        with contextlib.suppress(KeyError):
            pwd.getpwnam(self.user)
            return
        secret = "*"  # no password, and not locked: sshd refuses accounts that begin with '!'
        if self.password:
            done = subprocess.run(
                ["openssl", "passwd", "-6", "-stdin"], input=self.password, capture_output=True, text=True, check=True
            )
            secret = done.stdout.strip()
        home = self.folder / "home"
        command = [
            "useradd",
            "--create-home",
            "--home-dir",
            str(home),
            "--shell",
            str(self._shell),
            "--password",
            secret,
            self.user,
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        self._made_user = True

    def _remove_user(self) -> None:
        if not self._made_user:
            return
        uid = pwd.getpwnam(self.user).pw_uid
        theirs = [one for one in psutil.process_iter(["uids"]) if one.info["uids"] and one.info["uids"].real == uid]
        for process in theirs:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _wait_for_end(theirs)
        subprocess.run(["userdel", "--force", "--remove", self.user], check=False, capture_output=True, timeout=60)
        self._made_user = False


def _wait_for_end(processes: list[psutil.Process]) -> None:
    """Whoever reaps them may take its time: a zombie holds nothing any more."""
    deadline_s = time.monotonic() + _STOP_S
    while processes and time.monotonic() < deadline_s:
        processes = [one for one in processes if _runs(one)]
        time.sleep(0.002)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _sshd_below(listener: psutil.Process) -> Iterator[psutil.Process]:
    """A connection's process is a session of its own; the unprivileged one below it stays in that, a command does not."""
    for process in listener.children():
        if _is_sshd(process):
            yield process
            for child in process.children():
                if _is_sshd(child) and os.getsid(child.pid) == process.pid:
                    yield child


def _is_sshd(process: psutil.Process) -> bool:
    try:
        return process.exe() == SSHD
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _write(path: Path, text: str, mode: int) -> None:
    path.touch(mode=0o600)
    path.chmod(mode)
    path.write_text(text)
