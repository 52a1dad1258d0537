"""Two threads on one connection, also with TLS, whose objects are not made for that."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cronium.supervisor.streamer.wire_socket import WireSocket

_BYTES = 8 * 1024 * 1024


def certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "peer.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(params=["plain", "tls"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[WireSocket, socket.socket]]:
    ours, theirs = socket.socketpair()
    if request.param == "tls":
        path = certificate(tmp_path)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(path)
        client = ssl.create_default_context(cafile=str(path))
        made: list[socket.socket] = []
        thread = threading.Thread(target=lambda: made.append(server.wrap_socket(theirs, server_side=True)))
        thread.start()
        ours = client.wrap_socket(ours, server_hostname="127.0.0.1")
        thread.join()
        theirs = made[0]
    ours.settimeout(20)
    wire = WireSocket(ours)
    yield wire, theirs
    wire.close()
    theirs.close()


def test_what_one_thread_writes_another_reads_back(pair: tuple[WireSocket, socket.socket]) -> None:
    wire, peer = pair
    data = os.urandom(_BYTES)

    def echo() -> None:
        left = _BYTES
        while left:
            some = peer.recv(65536)
            peer.sendall(some)
            left -= len(some)

    def write() -> None:
        sent = 0
        while sent < _BYTES:
            sent += wire.send(data[sent : sent + 50_000])

    threads = [threading.Thread(target=echo), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    back = bytearray()
    while len(back) < _BYTES:
        some = wire.recv(30_000)
        assert some
        back += some
    for thread in threads:
        thread.join()
    assert bytes(back) == data


def test_a_read_ends_in_time_and_at_once_when_broken_off(pair: tuple[WireSocket, socket.socket]) -> None:
    wire, _ = pair
    wire.settimeout(0.05)
    with pytest.raises(TimeoutError):
        wire.recv(1)
    wire.settimeout(20)
    threading.Timer(0.1, wire.break_off).start()
    with contextlib.suppress(OSError):  # with TLS an end without a farewell is an error
        assert wire.recv(1) == b""
