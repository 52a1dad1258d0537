"""Programs that speak as much SSH as they need, and misbehave: what a broken or hostile server may do to us.

`python hostile_ssh.py WAY` says its port and its host key in one line and serves until it is killed; `Hostile(WAY)` runs one.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from paramiko import common
from paramiko.message import Message

_VERSION = b"SSH-2.0-hostile\r\n"
_EVER = 2**32 - 1
_SLEEP_S = 3600.0


class Hostile:
    """One of them in a process of its own. Its way is the name of a function or class below."""

    def __init__(self, way: str) -> None:
        self._way = way

    def __enter__(self) -> Self:
        command = [sys.executable, __file__, self._way]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout
        port, self._host_key = self._process.stdout.readline().split(" ", 1)
        self.port = int(port)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdout
        self._process.stdout.close()

    def known_hosts(self) -> str:
        """Its line of known_hosts."""
        return f"[127.0.0.1]:{self.port} {self._host_key.strip()}\n"


# Those that never come to a login.


def endless_line(plug: socket.socket) -> None:
    while True:
        plug.sendall(b"x" * 65536)


def endless_lines(plug: socket.socket) -> None:
    while True:
        plug.sendall(b"welcome\r\n" * 1000)


def drip(plug: socket.socket) -> None:
    while True:
        plug.sendall(b"x")
        time.sleep(0.05)


def drip_lines(plug: socket.socket) -> None:
    while True:
        plug.sendall(b"welcome\r\n")
        time.sleep(0.05)


def mute(plug: socket.socket) -> None:
    time.sleep(_SLEEP_S)


def web_server(plug: socket.socket) -> None:
    plug.recv(100)
    plug.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n<html>\r\n")
    plug.close()


def garbage(plug: socket.socket) -> None:
    plug.sendall(_VERSION)
    while True:
        plug.sendall(os.urandom(65536))


def huge_packet(plug: socket.socket) -> None:
    plug.sendall(_VERSION + (_EVER - 15).to_bytes(4, "big"))
    while True:
        plug.sendall(b"\0" * 65536)


def stall(plug: socket.socket) -> None:
    plug.sendall(_VERSION + _packet(_kex_init("curve25519-sha256@libssh.org")))
    time.sleep(_SLEEP_S)


def weak(plug: socket.socket) -> None:
    plug.sendall(_VERSION + _packet(_kex_init("diffie-hellman-group1-sha1")))
    time.sleep(_SLEEP_S)


def cut_in_kex(plug: socket.socket) -> None:
    plug.sendall(_VERSION + _packet(_kex_init("curve25519-sha256@libssh.org")))
    plug.recv(10)
    plug.close()


def ignore_flood(plug: socket.socket) -> None:
    plug.sendall(_VERSION)
    while True:
        plug.sendall(_packet(bytes([common.MSG_IGNORE]) + b"\0" * 1000))


def _kex_init(kex: str) -> bytes:
    message = Message()
    message.add_byte(common.cMSG_KEXINIT)
    message.add_bytes(os.urandom(16))
    for names in ([kex], ["ssh-ed25519"], *[["aes128-ctr"]] * 2, *[["hmac-sha2-256"]] * 2, *[["none"]] * 2):
        message.add_list(names)
    message.add_string(b"")
    message.add_string(b"")
    message.add_boolean(False)
    message.add_int(0)
    return message.asbytes()


def _packet(payload: bytes) -> bytes:
    padding = 8 - (len(payload) + 5) % 8 + 8
    return (len(payload) + padding + 1).to_bytes(4, "big") + bytes([padding]) + payload + b"\0" * padding


# Those that know how to log somebody in.


class _Server(paramiko.ServerInterface):
    """Lets everybody in, and runs nothing."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.asked = threading.Event()
        self.commands: dict[int, bytes] = {}

    def get_allowed_auths(self, username: str) -> str:
        return "publickey,password,keyboard-interactive"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return common.AUTH_SUCCESSFUL

    def check_auth_password(self, username: str, password: str) -> int:
        return common.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.commands[channel.get_id()] = command
        self.asked.set()
        return True


class _Banners(_Server):
    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        message = Message()
        message.add_byte(common.cMSG_USERAUTH_BANNER)
        message.add_string("go away " * 1000)
        message.add_string("en")
        while True:
            self.transport._send_message(message)


class _SlowBanners(_Server):
    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        message = Message()
        message.add_byte(common.cMSG_USERAUTH_BANNER)
        message.add_string("wait")
        message.add_string("en")
        while True:
            self.transport._send_message(message)
            time.sleep(0.05)


class _Extensions(_Server):
    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        message = Message()
        message.add_byte(common.cMSG_EXT_INFO)
        message.add_int(_EVER)
        self.transport._send_message(message)
        return common.AUTH_SUCCESSFUL


class _Questions(_Server):
    def get_allowed_auths(self, username: str) -> str:
        return "keyboard-interactive"

    def check_auth_password(self, username: str, password: str) -> int:
        return common.AUTH_FAILED

    def check_auth_interactive(self, username: str, submethods: str) -> Any:
        message = Message()
        message.add_byte(common.cMSG_USERAUTH_INFO_REQUEST)
        for _ in range(3):
            message.add_string("")
        message.add_int(_EVER)
        self.transport._send_message(message)
        time.sleep(_SLEEP_S)


class _Refusing(_Server):
    """Says no to each command."""

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        return False


class _Dropping(_Server):
    """Ends the connection with the first command."""

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.transport.sock.close()
        return False


class _Dumb(_Server):
    """Never answers the wish for a command."""

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        time.sleep(_SLEEP_S)
        return False


def flood(server: _Server, channel: paramiko.Channel) -> None:
    piece = b"x" * 32000
    while True:
        channel.out_window_size = 2**40
        channel.send(piece)


def flood_in_crumbs(server: _Server, channel: paramiko.Channel) -> None:
    while True:
        channel.out_window_size = 2**40
        channel.send_stderr(b"x" * 100)


def wrong_code(server: _Server, channel: paramiko.Channel) -> None:
    channel.sendall(b"done\n")
    channel.send_exit_status(4_000_000_000)
    channel.close()


def no_code(server: _Server, channel: paramiko.Channel) -> None:
    channel.sendall(b"done\n")
    channel.close()


def cut_in_the_middle(server: _Server, channel: paramiko.Channel) -> None:
    channel.sendall(b"half a li")
    time.sleep(0.2)
    server.transport.sock.close()


def garbage_later(server: _Server, channel: paramiko.Channel) -> None:
    channel.sendall(b"done\n")
    server.transport.sock.sendall((32).to_bytes(4, "big") + os.urandom(200))
    time.sleep(_SLEEP_S)


def never_closes(server: _Server, channel: paramiko.Channel) -> None:
    channel.sendall(b"done\n")
    channel.send_exit_status(0)
    channel.shutdown_write()
    time.sleep(_SLEEP_S)


def rekeys_for_ever(server: _Server, channel: paramiko.Channel) -> None:
    """Asks for new keys, and says nothing of them."""
    channel.sendall(b"now\n")
    server.transport.packetizer.read_all = lambda *_, **__: time.sleep(_SLEEP_S)
    server.transport._send_kex_init()
    time.sleep(_SLEEP_S)


def small_window(server: _Server, channel: paramiko.Channel) -> None:
    time.sleep(_SLEEP_S)


def reads_nothing(server: _Server, channel: paramiko.Channel) -> None:
    grown = Message()
    grown.add_byte(common.cMSG_CHANNEL_WINDOW_ADJUST)
    grown.add_int(channel.remote_chanid)
    grown.add_int(2**31)
    server.transport._send_message(grown)
    server.transport.packetizer.read_all = lambda *_, **__: time.sleep(_SLEEP_S)
    time.sleep(_SLEEP_S)


# Those that answer our commands as they should, and then never come to an end with a job.

_BOOT = "0a0a0a0a-0000-0000-0000-000000000000"
_READY = f"@cronium ready uid=1000 boot={_BOOT} up=1000 place=%s\n"
_LAST_LINE = re.compile(rb"\\n([a-z_]+)([^\\]*)'\Z")  # of our text, as `printf %b` takes it


class _Job:
    """A place that is never there. `state`: what its launcher says; `drips`: whether its output goes on and on."""

    def __init__(self, state: str = "", *, drips: bool = False, floods_fetch: bool = False) -> None:
        self._state, self._drips, self._floods_fetch = state, drips, floods_fetch

    def serve(self, server: _Server, channel: paramiko.Channel) -> None:
        with contextlib.suppress(Exception):  # whatever the client does to get away
            while (command := server.commands.get(channel.get_id())) is None:
                time.sleep(0.01)
            time.sleep(0.05)  # until the command's start is said
            found = _LAST_LINE.search(command)
            assert found, command
            getattr(self, f"_{found[1].decode()}", self._end)(channel, shlex.split(found[2].decode()))

    def _run(self, channel: paramiko.Channel, _: list[str]) -> None:
        channel.sendall(_READY.encode() % b"yes")
        channel.sendall_stderr(_READY.encode() % b"yes")
        threading.Thread(target=lambda: all(iter(lambda: channel.recv(65536), b"")), daemon=True).start()
        while self._drips:
            channel.sendall(b"x")
            time.sleep(0.02)
        time.sleep(_SLEEP_S)

    _read_on = _run

    def _keep(self, channel: paramiko.Channel, _: list[str]) -> None:
        channel.sendall(_READY.encode() % b"yes" + self._state.encode())
        channel.sendall_stderr(_READY.encode() % b"yes")
        begun = "started" if self._state else "no"
        answers = {
            b"look": f"look launcher=alive begun={begun} gate=yes place=yes boot={_BOOT}",
            b"cancel": "cancel told",
            b"kill": "kill done",
            b"claim": "claim lost",
        }
        sign = ""
        for line in channel.makefile("rb"):
            word, *rest = line.decode().split()
            if word == "sign":
                sign = rest[0]
            answer = answers.get(word.encode())
            if answer:
                channel.sendall(f"@cronium {sign} {answer}\n".encode())

    def _fetch(self, channel: paramiko.Channel, _: list[str]) -> None:
        channel.sendall(_READY.encode() % b"yes")
        while self._floods_fetch:
            channel.sendall_stderr(b"x" * 32000)
        time.sleep(_SLEEP_S)

    def _clean(self, channel: paramiko.Channel, names: list[str]) -> None:
        channel.sendall(_READY.encode() % b"no" + "".join(f"@cronium gone {name}\n" for name in names).encode())
        self._end(channel, names)

    def _end(self, channel: paramiko.Channel, _: list[str]) -> None:
        channel.sendall(b"@cronium end\n")
        channel.send_exit_status(0)
        channel.close()


_ENDED = f"started 1 100 {_BOOT}\nended 0 exit\n"
_OF_A_JOB = {
    "never_starts": _Job(drips=True),
    "ends_and_drips": _Job(_ENDED, drips=True),
    "drains_and_drips": _Job(_ENDED + "drained 1000000000 0\n", drips=True),
    "stalls_fetch": _Job(_ENDED + "results 1000\ndrained 0 0\n"),
    "floods_fetch": _Job(_ENDED + "results 1000\ndrained 0 0\n", floods_fetch=True),
}


_RAW: dict[str, Callable[[socket.socket], None]] = {
    way.__name__: way
    for way in (
        endless_line,
        endless_lines,
        drip,
        drip_lines,
        mute,
        web_server,
        garbage,
        huge_packet,
        stall,
        weak,
        cut_in_kex,
        ignore_flood,
    )
}
_AT_LOGIN: dict[str, type[_Server]] = {
    "banners": _Banners,
    "slow_banners": _SlowBanners,
    "extensions": _Extensions,
    "questions": _Questions,
    "refusing": _Refusing,
    "dumb": _Dumb,
    "dropping": _Dropping,
}
_IN_A_COMMAND: dict[str, Callable[[_Server, paramiko.Channel], None]] = {
    way.__name__: way
    for way in (
        flood,
        flood_in_crumbs,
        wrong_code,
        no_code,
        cut_in_the_middle,
        garbage_later,
        never_closes,
        reads_nothing,
        rekeys_for_ever,
        small_window,
    )
}


def _serve(way: str, plug: socket.socket, host_key: paramiko.PKey) -> None:
    with contextlib.suppress(Exception):  # whatever the client does to get away
        if way in _RAW:
            _RAW[way](plug)
            return
        server = _AT_LOGIN.get(way, _Server)()
        window_bytes = 2**15 if way == "small_window" else 2**21
        transport = server.transport = paramiko.Transport(plug, default_window_size=window_bytes)
        transport.add_server_key(host_key)
        transport.start_server(server=server)
        for channel in _channels(transport):
            if way in _OF_A_JOB:
                threading.Thread(target=_OF_A_JOB[way].serve, args=(server, channel), daemon=True).start()
            elif way in _IN_A_COMMAND:
                server.asked.wait(60)
                _IN_A_COMMAND[way](server, channel)


def _channels(transport: paramiko.Transport) -> Iterator[paramiko.Channel]:
    kept = []  # paramiko forgets a channel that nobody holds
    while transport.is_active():
        channel = transport.accept(1)
        if channel is not None:
            kept.append(channel)
            yield channel


def main() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    text_file = io.StringIO(text.decode())
    host_key = paramiko.Ed25519Key.from_private_key(text_file)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], host_key.get_name(), host_key.get_base64(), flush=True)
    while True:
        plug, _ = listener.accept()
        threading.Thread(target=_serve, args=(sys.argv[1], plug, host_key), daemon=True).start()


if __name__ == "__main__":
    main()
