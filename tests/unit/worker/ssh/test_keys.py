"""Who we are on a server: keys in every form that people have, and a clear word about those that will not do."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path

import paramiko
import pytest
from pydantic import SecretStr

from cronium.common.config.model import Ssh
from cronium.common.errors import ExecutionError, Reason
from cronium.common.servers import Address, Server
from cronium.worker.ssh.keys import Identity, load_identity
from peers.keygen import certificate, fingerprint, keypair

PASSPHRASE = "pass wörd"
KINDS = [("ed25519", 0), ("ecdsa", 256), ("ecdsa", 384), ("ecdsa", 521), ("rsa", 2048)]
NOBODY = 65534


def server(
    private: str | None = None, passphrase: str | None = None, cert: str | None = None, password: str | None = None
) -> Server:
    return Server("web", Address("web.example", 22, "deploy"), private, passphrase, cert, password)


def identity(private: str, passphrase: str | None = None, cert: str | None = None) -> Identity:
    return load_identity(server(private, passphrase, cert), Ssh())


def refused(given: Server, ssh: Ssh | None = None) -> str:
    with pytest.raises(ExecutionError) as caught:
        load_identity(given, ssh or Ssh())
    assert caught.value.reason is Reason.KEY_INVALID
    assert caught.value.retryable is False
    _no_secret_in(str(caught.value) + repr(caught.value.details), given)
    return str(caught.value)


def _no_secret_in(said: str, given: Server) -> None:
    """Promise 6: not a line of a key, no passphrase, no password."""
    bodies = [line for text in (given.private_key, given.certificate) for line in (text or "").split() if len(line) > 20]
    secrets = [secret for secret in (given.passphrase, given.password, *bodies) if secret]
    assert not [secret for secret in secrets if secret in said]


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "id"
    path.write_text(text)
    path.chmod(mode)
    return path


# --- what is taken


@pytest.mark.parametrize("passphrase", ["", PASSPHRASE], ids=["plain", "encrypted"])
@pytest.mark.parametrize("form", ["RFC4716", "PEM", "PKCS8"])
@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_every_kind_of_key_is_read_in_every_form(kind: str, bits: int, form: str, passphrase: str) -> None:
    private, public = keypair(kind, bits, passphrase, form)
    found = identity(private, passphrase or None)
    assert found.key is not None
    assert found.key.can_sign()
    assert found.fingerprint == fingerprint(public)
    assert found.key.get_base64() == public.split()[1]


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "no newline at its end": lambda text: text.rstrip("\n"),
    "CRLF": lambda text: text.replace("\n", "\r\n"),
    "CR": lambda text: text.replace("\n", "\r"),
    "indented": lambda text: "".join(f"    {line}\n" for line in text.splitlines()),
    "something around it": lambda text: f"\ufeffBag Attributes\n{text}\n\n# end\n",
    "escaped line ends": lambda text: text.replace("\n", "\\n"),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 in lines": lambda text: base64.encodebytes(text.encode()).decode(),
    "base64 in lines, CRLF": lambda text: base64.encodebytes(text.encode()).decode().replace("\n", "\r\n"),
    "base64 of CRLF": lambda text: base64.b64encode(text.replace("\n", "\r\n").encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("kind", "bits", "passphrase", "pem"),
    [("ed25519", 0, "", "RFC4716"), ("rsa", 2048, PASSPHRASE, "PEM"), ("ecdsa", 256, "", "PKCS8")],
)
def test_what_becomes_of_a_key_on_its_way_does_not_matter(kind: str, bits: int, passphrase: str, pem: str, form: str) -> None:
    private, public = keypair(kind, bits, passphrase, pem)
    assert identity(FORMS[form](private), passphrase or None).fingerprint == fingerprint(public)


def test_a_key_in_one_line_and_its_body_alone_are_read_too() -> None:
    private, public = keypair("ed25519")
    body = "".join(private.split("\n")[1:-2])
    for text in (private.replace("\n", " "), body):
        assert identity(text).fingerprint == fingerprint(public)


def test_a_passphrase_that_is_not_needed_is_ignored() -> None:
    private, public = keypair("ed25519")
    assert identity(private, PASSPHRASE).fingerprint == fingerprint(public)


@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_a_certificate_goes_with_its_key(kind: str, bits: int) -> None:
    private, public = keypair(kind, bits)
    text = certificate(public)
    for given in (text, text.rstrip("\n"), base64.b64encode(text.encode()).decode()):
        found = identity(private, cert=given)
        assert found.key is not None
        assert found.key.public_blob is not None
        assert found.key.public_blob.key_type.endswith("-cert-v01@openssh.com")
        assert found.key.public_blob.key_blob == base64.b64decode(text.split()[1])
        assert found.fingerprint == fingerprint(public)


def test_the_key_on_disk_serves_servers_that_bring_none(tmp_path: Path) -> None:
    private, public = keypair("ed25519", passphrase=PASSPHRASE)
    ssh = Ssh(key_path=key_file(tmp_path, private), key_passphrase=SecretStr(PASSPHRASE))
    assert load_identity(server(), ssh).fingerprint == fingerprint(public)
    own, own_public = keypair("ecdsa", 256)
    assert load_identity(server(own), ssh).fingerprint == fingerprint(own_public)


def test_the_certificate_beside_the_key_on_disk_goes_with_it(tmp_path: Path) -> None:
    private, public = keypair("ed25519")
    path = key_file(tmp_path, private)
    (tmp_path / "id-cert.pub").write_text(certificate(public))
    found = load_identity(server(), Ssh(key_path=path))
    assert found.key is not None
    assert found.key.public_blob is not None
    assert found.key.public_blob.key_type == "ssh-ed25519-cert-v01@openssh.com"


def test_a_password_is_used_only_where_it_is_allowed_and_there_is_no_key() -> None:
    allowed = Ssh(allow_password=True)
    found = load_identity(server(password="open sesame"), allowed)
    assert (found.key, found.password, found.fingerprint) == (None, "open sesame", "password")
    private, public = keypair("ed25519")
    found = load_identity(server(private, password="open sesame"), allowed)
    assert (found.password, found.fingerprint) == (None, fingerprint(public))


def test_an_identity_does_not_print_its_secret() -> None:
    assert "sesame" not in repr(load_identity(server(password="open sesame"), Ssh(allow_password=True)))
    private, _ = keypair("ed25519")
    assert private.split("\n")[1] not in repr(identity(private))


# --- what is refused, and what is said of it


def test_a_password_is_refused_as_long_as_it_is_not_allowed() -> None:
    said = refused(server(password="open sesame"))
    assert "server web" in said
    assert "ssh.allowPassword: true" in said


def test_nothing_at_all_is_told_with_both_ways_out() -> None:
    said = refused(server())
    assert "ssh.keyPath" in said
    assert "ssh-keygen -t ed25519" in said


PUBLIC = keypair("ed25519")[1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no private key"),
        ("hello", "no private key"),
        ("aGVsbG8gd29ybGQhIQ==", "no private key"),
        (PUBLIC, "it is a public key"),
        (base64.b64encode(PUBLIC.encode()).decode(), "it is a public key"),
        ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "puttygen"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "cut short"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "damaged"),
        ("-----BEGIN RSA PRIVATE KEY-----\n\x00\ud800é\n-----END RSA PRIVATE KEY-----\n", "damaged"),
        ("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "damaged"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no private key"),
    ],
    ids=[
        "empty",
        "text",
        "base64",
        "public",
        "public-base64",
        "putty",
        "cut",
        "damaged",
        "control-characters",
        "no-content",
        "certificate",
    ],
)
def test_what_is_no_private_key_is_called_by_its_name(text: str, told: str) -> None:
    said = refused(server(text))
    assert told in said
    assert said.startswith("the private key of server web: ")


@pytest.mark.parametrize("cut", [20, 60, 200, 240])
def test_a_damaged_key_is_told_as_such(cut: int) -> None:
    private, _ = keypair("ed25519")
    lines = private.split("\n")
    body = "".join(lines[1:-2])
    broken = "\n".join([lines[0], body[:cut], lines[-2], ""])
    assert "damaged" in refused(server(broken))


@pytest.mark.parametrize("form", ["RFC4716", "PEM", "PKCS8"])
def test_a_dsa_key_is_refused(form: str) -> None:
    assert "DSA" in refused(server(keypair("dsa", 1024, form=form)[0]))


@pytest.mark.parametrize("form", ["RFC4716", "PEM", "PKCS8"])
def test_a_short_rsa_key_is_refused_with_its_length(form: str) -> None:
    said = refused(server(keypair("rsa", 1024, form=form)[0]))
    assert "1024 bits" in said
    assert "2048" in said


def test_a_curve_that_ssh_does_not_know_is_refused() -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed448

    for key in (ec.generate_private_key(ec.SECP256K1()), ed448.Ed448PrivateKey.generate()):
        form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, form, plain).decode()
        assert "not supported" in refused(server(pem))


@pytest.mark.parametrize("form", ["RFC4716", "PEM", "PKCS8"])
def test_a_passphrase_that_is_missing_or_wrong_is_told_apart(form: str) -> None:
    private, _ = keypair("rsa", 2048, PASSPHRASE, form)
    assert "there is no passphrase" in refused(server(private))
    assert "does not open it" in refused(server(private, "not this one"))


def test_a_certificate_that_does_not_fit_is_refused() -> None:
    private, public = keypair("ed25519")
    _, other = keypair("ed25519", number=1)
    cases = {
        certificate(other): "another key",
        certificate(public, "-h"): "for hosts",
        certificate(public, "-V", "20200101:20200102"): "expired at 2020-01-02",
        public: "no OpenSSH certificate",
        "rubbish": "no OpenSSH certificate",
        "/etc/passwd": "no OpenSSH certificate",  # a name is never read as a file
        f"ssh-ed25519-cert-v01@openssh.com {certificate(public).split()[1][:200]}": "damaged",
        "ssh-ed25519-cert-v01@openssh.com ***": "no OpenSSH certificate",
    }
    for text, told in cases.items():
        said = refused(server(private, cert=text))
        assert told in said
        assert said.startswith("the certificate for the private key of server web: ")


# --- the key on disk


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777, 0o610])
def test_a_key_file_that_others_can_read_is_refused_with_the_command_that_mends_it(mode: int, tmp_path: Path) -> None:
    path = key_file(tmp_path, keypair("ed25519")[0], mode)
    said = refused(server(), Ssh(key_path=path))
    assert f"its mode is {mode:04o}" in said
    assert f"chmod {mode & 0o700:o} {path}" in said


def test_somebody_elses_key_file_may_be_handed_to_us_by_its_group_only(tmp_path: Path) -> None:
    path = key_file(tmp_path, keypair("ed25519")[0], 0o440)
    os.chown(path, NOBODY, os.getegid())
    assert load_identity(server(), Ssh(key_path=path)).key is not None
    path.chmod(0o444)
    assert "others can read it" in refused(server(), Ssh(key_path=path))


def test_a_key_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    missing = refused(server(), Ssh(key_path=tmp_path / "none"))
    assert f"{tmp_path}/none (ssh.keyPath): there is no such file" in missing
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    assert "no plain file" in refused(server(), Ssh(key_path=fifo))
    assert "cannot be read" in refused(server(), Ssh(key_path=tmp_path))
    large = key_file(tmp_path, "x" * 70_000)
    assert "more than 65536 bytes" in refused(server(), Ssh(key_path=large))


def test_a_bad_certificate_beside_the_key_is_named(tmp_path: Path) -> None:
    path = key_file(tmp_path, keypair("ed25519")[0])
    (tmp_path / "id-cert.pub").mkdir()
    assert f"{path}-cert.pub" in refused(server(), Ssh(key_path=path))


def test_a_key_signs_what_its_public_half_verifies() -> None:
    for kind, bits in KINDS:
        private, _ = keypair(kind, bits)
        key = identity(private).key
        assert key is not None
        signed = key.sign_ssh_data(b"data", "rsa-sha2-512") if kind == "rsa" else key.sign_ssh_data(b"data")
        public = paramiko.PKey.from_type_string(key.get_name(), key.asbytes())
        assert public.verify_ssh_sig(b"data", paramiko.Message(signed.asbytes()))
