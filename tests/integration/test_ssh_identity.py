"""What `load_identity` makes of a key is let in by a real sshd: each kind of key, and certificates."""

from __future__ import annotations

import socket
from pathlib import Path

import paramiko
import pytest

from cronium.common.config.model import Ssh
from cronium.common.servers import Address, Server
from cronium.worker.ssh.keys import load_identity
from peers.keygen import certificate, keypair
from peers.sshd import Sshd

_TIMEOUT_S = 30
KINDS = [("ed25519", 0), ("ecdsa", 256), ("ecdsa", 384), ("ecdsa", 521), ("rsa", 2048)]


def logged_in(sshd: Sshd, given: Server) -> bool:
    found = load_identity(given, Ssh())
    assert found.key is not None
    with (
        socket.create_connection((sshd.address, sshd.port), _TIMEOUT_S) as connection,
        paramiko.Transport(connection) as transport,
    ):
        transport.start_client(timeout=_TIMEOUT_S)
        try:
            transport.auth_publickey(sshd.user, found.key)
        except paramiko.AuthenticationException:
            return False
        return transport.is_authenticated()


def server(sshd: Sshd, private: str, passphrase: str | None = None, cert: str | None = None) -> Server:
    return Server("web", Address(sshd.address, sshd.port, sshd.user), private, passphrase, cert)


@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_a_key_of_each_kind_is_let_in(kind: str, bits: int) -> None:
    private, _ = keypair(kind, bits)
    locked, _ = keypair(kind, bits, "pass phrase", "PEM")
    with Sshd(key=private) as sshd:
        assert logged_in(sshd, server(sshd, private))
        assert not logged_in(sshd, server(sshd, locked, "pass phrase"))


def test_a_certificate_is_let_in_where_its_key_alone_is_not(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pub"
    authority.write_text(keypair("ed25519", number=99)[1] + "\n")
    with Sshd(f"TrustedUserCAKeys {authority}") as sshd:
        for kind, bits in KINDS:
            private, public = keypair(kind, bits, number=7)
            assert not logged_in(sshd, server(sshd, private))
            assert logged_in(sshd, server(sshd, private, cert=certificate(public))), kind
