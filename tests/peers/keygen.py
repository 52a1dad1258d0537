"""Keys and certificates as OpenSSH's own ssh-keygen makes them. Each kind of key is made once in a test process."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

_TIMEOUT_S = 60


def ssh_keygen(*arguments: str | Path) -> str:
    """Run it, and give what it says."""
    command = ["ssh-keygen", *map(str, arguments)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def keypair(kind: str, bits: int = 0, passphrase: str = "", form: str = "RFC4716", number: int = 0) -> tuple[str, str]:
    """A private key and its public line. `form`: RFC4716 (OpenSSH's own), PEM or PKCS8; another `number` is another key."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "key"
        size = ("-b", str(bits)) if bits else ()
        ssh_keygen("-q", "-t", kind, *size, "-N", passphrase, "-m", form, "-C", f"key {number}", "-f", path)
        return path.read_text(), path.with_name("key.pub").read_text().strip()


def fingerprint(public: str) -> str:
    """`SHA256:…` of a public key's line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "key.pub"
        path.write_text(public + "\n")
        return ssh_keygen("-l", "-f", path).split()[1]


def certificate(public: str, *options: str) -> str:
    """A certificate for a public key, by an authority that nobody else knows. `options` as ssh-keygen's: -h, -V …"""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "key.pub"
        path.write_text(public + "\n")
        authority = Path(folder) / "ca"
        authority.write_text(keypair("ed25519", number=99)[0])
        authority.chmod(0o600)
        ssh_keygen("-q", "-s", authority, "-I", "somebody", "-n", "root", *options, path)
        return path.with_name("key-cert.pub").read_text()
