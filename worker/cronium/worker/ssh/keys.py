"""Who we are on a server: the private key of a login (or the password, where that is allowed), checked before anybody is dialled.

Runs in a worker, and in the command line's process. It reads key files, and never talks to a server. No error says anything of a
key but what is wrong with it; the next step is part of each.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import SSHCertificate, SSHCertificateType

from cronium.common.config.model import Ssh
from cronium.common.errors import ExecutionError, Reason
from cronium.common.servers import Server

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 16384  # as OpenSSL (rsa.h, OPENSSL_RSA_MAX_MODULUS_BITS): a larger one only burns time
_MAX_FILE_BYTES: Final = 64 * 1024
_ARMOUR: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----(.*?)-----END \1-----", re.DOTALL)
_OPENSSH_MAGIC: Final = b"openssh-key-v1\0"  # PROTOCOL.key
_MAKE_ONE: Final = "make one with `ssh-keygen -t ed25519`, and add its .pub to the server's authorized_keys"

_PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Identity:
    """What a login is done with: a key (its certificate loaded, where there is one) or a password, never both."""

    key: paramiko.PKey | None
    password: str | None = field(repr=False)
    fingerprint: str
    """`SHA256:…` of the public key, as `ssh-keygen -l` shows it; `password` for one."""


def load_identity(server: Server, ssh: Ssh) -> Identity:
    """The server's own key; else, where that is allowed, its own password; else the key at `ssh.keyPath`.

    Blocking (reads files; a passphrase costs some tenths of a second). Raises ExecutionError(KEY_INVALID).
    """
    if server.private_key is not None:
        where = f"the private key of server {server.name}"
        return _of_key(where, server.private_key, server.passphrase, server.certificate)
    if server.password is not None and ssh.allow_password:
        return Identity(None, server.password, "password")
    if ssh.key_path is not None:
        where = f"the private key {ssh.key_path} (ssh.keyPath)"
        text = _key_file(ssh.key_path, where)
        passphrase = None if ssh.key_passphrase is None else ssh.key_passphrase.get_secret_value()
        return _of_key(where, text, passphrase, server.certificate or _certificate_file(ssh.key_path))
    if server.password is not None:
        raise _wrong(
            f"server {server.name}",
            "it brings a password and no key, and passwords are not allowed",
            f"give it a private key ({_MAKE_ONE}), set ssh.keyPath, or allow passwords with ssh.allowPassword: true",
        )
    raise _wrong(f"server {server.name}", "there is no private key for it", f"give it one ({_MAKE_ONE}), or set ssh.keyPath")


def _of_key(where: str, text: str, passphrase: str | None, certificate: str | None) -> Identity:
    private = _private_key(where, text, passphrase)
    key = _for_paramiko(private)
    if certificate is not None:
        key.load_certificate(paramiko.Message(_certificate(f"the certificate for {where}", certificate, private)))
    return Identity(key, None, key.fingerprint)


def _private_key(where: str, text: str, passphrase: str | None) -> _PrivateKey:
    """The key in `text`. A passphrase that it does not need is ignored, as ssh does."""
    pem = _pem(where, text)
    load = serialization.load_ssh_private_key if b"OPENSSH PRIVATE KEY" in pem else serialization.load_pem_private_key
    try:
        try:
            loaded: object = load(pem, None)
        except TypeError:  # what cryptography says of one that is encrypted
            if not passphrase:
                step = "give it (passphrase of the server, or ssh.keyPassphrase)"
                raise _wrong(where, "it is encrypted, and there is no passphrase for it", step) from None
            try:
                loaded = load(pem, passphrase.encode())
            except (ValueError, TypeError):
                step = "check both with `ssh-keygen -y -f KEY`"
                raise _wrong(where, "the passphrase does not open it (or it is damaged)", step) from None
    except (ValueError, UnsupportedAlgorithm):
        step = "check it with `ssh-keygen -y -f KEY`; give the whole file, from its BEGIN line to its END line, or base64 of it"
        raise _wrong(where, "it is damaged, or of a type that is not supported (ed25519, ecdsa and rsa are)", step) from None
    return _strong(where, loaded)


def _strong(where: str, loaded: object) -> _PrivateKey:
    match loaded:
        case ed25519.Ed25519PrivateKey():
            return loaded
        case ec.EllipticCurvePrivateKey() if loaded.curve.name in ("secp256r1", "secp384r1", "secp521r1"):
            return loaded
        case rsa.RSAPrivateKey() if MIN_RSA_BITS <= loaded.key_size <= MAX_RSA_BITS:
            return loaded
        case rsa.RSAPrivateKey():
            what = f"it is an RSA key of {loaded.key_size} bits; from {MIN_RSA_BITS} to {MAX_RSA_BITS} are allowed"
            raise _wrong(where, what, _MAKE_ONE)
        case dsa.DSAPrivateKey():
            raise _wrong(where, "it is a DSA key, which nobody accepts any more", _MAKE_ONE)
        case _:
            raise _wrong(where, "it is of a type that is not supported (ed25519, ecdsa nistp256/384/521 and rsa are)", _MAKE_ONE)


def _for_paramiko(private: _PrivateKey) -> paramiko.PKey:
    """The same key as paramiko's own, whatever format it came in: it reads OpenSSH's for each type."""
    text = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    ).decode("ascii")
    kind: type[paramiko.PKey]
    match private:
        case ed25519.Ed25519PrivateKey():
            kind = paramiko.Ed25519Key
        case ec.EllipticCurvePrivateKey():
            kind = paramiko.ECDSAKey
        case _:
            kind = paramiko.RSAKey
    return kind.from_private_key(io.StringIO(text))


def _pem(where: str, text: str) -> bytes:
    """The key's armour with its lines in order, out of whatever became of them on the way: CRLF, one line, base64 of it all."""
    plain = text.replace("\\n", "\n") if "\\n" in text else text
    if "-----BEGIN" not in plain and (decoded := _decoded(plain)) is not None:
        if decoded.startswith(_OPENSSH_MAGIC):  # the body alone
            plain = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{plain}\n-----END OPENSSH PRIVATE KEY-----"
        else:
            plain = decoded.decode("utf-8", "replace")
    found = _ARMOUR.search(plain)
    if found is None:
        raise _wrong(where, *_what_it_is_instead(plain))
    label, body = found.groups()
    # Of PEM's older form the first lines are headers (`Proc-Type: 4,ENCRYPTED`), and the empty line after them counts.
    lines = [line.strip() for line in body.strip().splitlines()] if ":" in body else body.split()
    _no_other_kind(where, label, "".join(lines))
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode("utf-8", "replace")


def _no_other_kind(where: str, label: str, body: str) -> None:
    blob = _decoded(body) or b""
    if label.startswith("DSA") or b"ssh-dss" in blob:
        raise _wrong(where, "it is a DSA key, which nobody accepts any more", _MAKE_ONE)
    if b"sk-ssh-" in blob or b"sk-ecdsa-" in blob:
        raise _wrong(where, "it belongs to a security key that somebody has to touch", _MAKE_ONE)


def _what_it_is_instead(text: str) -> tuple[str, str]:
    if text.startswith("PuTTY-User-Key-File"):
        return "it is a key of PuTTY's own format", "convert it with `puttygen KEY -O private-openssh`"
    if re.match(r"(ssh-|ecdsa-|-----BEGIN (SSH2 )?PUBLIC KEY|---- BEGIN SSH2 PUBLIC)", text.lstrip()):
        return "it is a public key", "give the private one: the file beside it without .pub"
    if "-----BEGIN" in text:
        return "it is cut short, or no private key", "give the whole file, from its BEGIN line to its END line, or base64 of it"
    return (
        "it is no private key",
        "give the whole file that ssh-keygen made, from its BEGIN line to its END line, or base64 of it",
    )


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def _certificate(where: str, text: str, private: _PrivateKey) -> bytes:
    """A user's certificate for `private`, as it goes to the server. Who signed it, and for whom, is the server's question."""
    fields = text.split()
    if len(fields) == 1 and (decoded := _decoded(text)) is not None:
        fields = decoded.decode("utf-8", "replace").split()
    step = "give what `ssh-keygen -s` wrote into KEY-cert.pub"
    blob = _decoded(fields[1]) if len(fields) > 1 else None
    if blob is None or "-cert-v01@openssh.com" not in fields[0]:
        raise _wrong(where, "it is no OpenSSH certificate", step)
    try:
        loaded = serialization.load_ssh_public_identity(f"{fields[0]} {fields[1]}".encode())
    except (ValueError, UnsupportedAlgorithm):
        raise _wrong(where, "it is damaged, or of a type that is not supported", step) from None
    if not isinstance(loaded, SSHCertificate) or _public(loaded.public_key()) != _public(private.public_key()):
        raise _wrong(where, "it was made for another key", "sign this key's .pub with `ssh-keygen -s`")
    if loaded.type is not SSHCertificateType.USER:
        raise _wrong(where, "it is one for hosts", "sign the key for a user: `ssh-keygen -s` without -h")
    if loaded.valid_before < time.time():  # one that is not valid yet may be by the server's clock, so that is left to it
        ended = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(loaded.valid_before))
        raise _wrong(where, f"it has expired at {ended}", "have the key signed again with `ssh-keygen -s`")
    return blob


def _public(key: object) -> bytes:
    if not isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return b""
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def _key_file(path: Path, where: str) -> str:
    try:
        text, status = _read(path)
    except FileNotFoundError:
        raise _wrong(where, "there is no such file", "make one with `ssh-keygen`, or set ssh.keyPath to where it is") from None
    except OSError as error:
        step = f"check with `ls -l {path}`; uid {os.geteuid()} must be able to read it"
        raise _wrong(where, f"it cannot be read ({error.strerror})", step) from None
    # As ssh has it: what belongs to us nobody else may read. Somebody else's was handed to us by its group, and to no more.
    forbidden = 0o077 if status.st_uid == os.geteuid() else 0o007
    if status.st_mode & forbidden:
        mode = stat.S_IMODE(status.st_mode)
        step = f"run `chmod {mode & ~forbidden:o} {path}`; if it has been so for long, make a new key"
        raise _wrong(where, f"others can read it (its mode is {mode:04o})", step)
    return text


def _certificate_file(key_path: Path) -> str | None:
    path = key_path.with_name(f"{key_path.name}-cert.pub")
    try:
        return _read(path)[0]
    except FileNotFoundError:
        return None
    except OSError as error:
        what = f"it cannot be read ({error.strerror})"
        raise _wrong(f"the certificate {path}", what, f"check with `ls -l {path}`, or remove it") from None


def _read(path: Path) -> tuple[str, os.stat_result]:
    """The text of a plain file, and its status. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not hold us
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "it is no plain file")
        data = file.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise OSError(0, f"it has more than {_MAX_FILE_BYTES} bytes")
    return data.decode("utf-8", "replace"), status


def _wrong(where: str, what: str, step: str) -> ExecutionError:
    return ExecutionError(Reason.KEY_INVALID, f"{where}: {what}: {step}")
