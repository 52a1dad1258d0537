"""A network namespace with one cable to us, which can be pulled out."""

from __future__ import annotations

import os
import secrets
import subprocess
from types import TracebackType
from typing import Self

_NOBODY = "02:00:00:00:00:01"  # an Ethernet address that no end of the cable has


class Namespace:
    """`address` is the other end's, in the namespace; `prefix` starts a program there. Use as a context manager."""

    def __init__(self) -> None:
        number = secrets.randbelow(2**14)
        self.name = f"crn{os.getpid() % 100000}-{secrets.token_hex(2)}"
        self._ours, self._theirs = f"cra{secrets.token_hex(4)}", f"crb{secrets.token_hex(4)}"
        # A /30 of the block for benchmarks between networks (RFC 2544), which nobody routes.
        base = f"198.18.{number // 64}.{number % 64 * 4}"
        first, last = base.rsplit(".", 1)
        self._our_address = f"{first}.{int(last) + 1}"
        self.address = f"{first}.{int(last) + 2}"
        self.prefix = ("ip", "netns", "exec", self.name)

    def __enter__(self) -> Self:
        try:
            _ip("netns", "add", self.name)
            _ip("link", "add", self._ours, "type", "veth", "peer", "name", self._theirs, "netns", self.name)
            _ip("addr", "add", f"{self._our_address}/30", "dev", self._ours)
            _ip("-n", self.name, "addr", "add", f"{self.address}/30", "dev", self._theirs)
            _ip("-n", self.name, "link", "set", "lo", "up")
            _ip("-n", self.name, "link", "set", self._theirs, "up")
            self.up()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for words in (("link", "del", self._ours), ("netns", "del", self.name)):
            subprocess.run(["ip", *words], check=False, stderr=subprocess.DEVNULL, timeout=20)

    def down(self) -> None:
        """Nothing comes through, in either direction, and nobody is told."""
        _ip("-n", self.name, "link", "set", self._theirs, "down")

    def swallow(self) -> None:
        """What we send arrives nowhere, as behind a firewall that drops it: no kernel notices, and a connect hangs."""
        _ip("neigh", "replace", self.address, "lladdr", _NOBODY, "nud", "permanent", "dev", self._ours)

    def up(self) -> None:
        """It works again."""
        forget = ("ip", "neigh", "del", self.address, "dev", self._ours)
        subprocess.run(forget, check=False, stderr=subprocess.DEVNULL, timeout=20)
        _ip("link", "set", self._ours, "up")
        _ip("-n", self.name, "link", "set", self._theirs, "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=20)
