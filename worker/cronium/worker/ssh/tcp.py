"""A TCP connection to a server: its name resolved, each address tried, dead peers found by the kernel.

Runs in a worker. Blocking, within a deadline (monotonic).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import queue
import socket
import threading
import time
from typing import Final, NamedTuple

from cronium.common.errors import ExecutionError, Reason
from cronium.common.servers import Address

_PROBES: Final = 3
_TIME_IS_UP: Final = "no answer in time"
# What to look at, by what the kernel says.
_STEPS: Final = {
    errno.ECONNREFUSED: "start its SSH server, or check the port",
    errno.EHOSTUNREACH: "check the address and the route to it",
    errno.ENETUNREACH: "check the address and the route to it",
    errno.ETIMEDOUT: "check that it is up, and that no firewall drops the packets",
}


class _Target(NamedTuple):
    family: socket.AddressFamily
    where: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


def connect(address: Address, deadline_s: float, dead_after_s: float) -> socket.socket:
    """A connected socket; its peer counts as dead `dead_after_s` after it stopped to answer.

    Raises ExecutionError(UNREACHABLE).
    """
    targets = _resolve(address, deadline_s)
    last: OSError | None = None
    for number, target in enumerate(targets):
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            break
        try:
            return _connected(target, left_s / (len(targets) - number), dead_after_s)  # a dead address leaves time for the others
        except OSError as error:
            last = error
    raise _unreachable(address, last)


def _connected(target: _Target, timeout_s: float, dead_after_s: float) -> socket.socket:
    plug = socket.socket(target.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        plug.settimeout(timeout_s)
        plug.connect(target.where)
        _watch(plug, dead_after_s)
    except BaseException:
        plug.close()
        raise
    return plug


def _resolve(address: Address, deadline_s: float) -> list[_Target]:
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        return _resolve_name(address, deadline_s)
    return _lookup(address)


def _resolve_name(address: Address, deadline_s: float) -> list[_Target]:
    """The system's resolver knows no deadline: it is asked in a thread that ends by itself."""
    answer: queue.SimpleQueue[list[_Target] | ExecutionError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(_lookup(address))
        except ExecutionError as error:
            answer.put(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    found: list[_Target] | ExecutionError | None = None
    with contextlib.suppress(queue.Empty):
        found = answer.get(timeout=max(0.001, deadline_s - time.monotonic()))
    if isinstance(found, list):
        return found
    raise found or _unresolved(address, _TIME_IS_UP)


def _lookup(address: Address) -> list[_Target]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _unresolved(address, getattr(error, "strerror", None) or str(error)) from error
    return [_Target(family, where) for family, _, _, _, where in found]


def _watch(plug: socket.socket, dead_after_s: float) -> None:
    probe_s = max(1, round(dead_after_s / _PROBES))
    for level, option, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, probe_s),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, probe_s),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(dead_after_s * 1000)),
    ):
        plug.setsockopt(level, option, value)


def _unresolved(address: Address, said: str) -> ExecutionError:
    return ExecutionError(
        Reason.UNREACHABLE,
        f"{address}: the name {address.host!r} was not resolved ({said}): check it with `getent hosts {address.host}`",
        server=str(address),
    )


def _unreachable(address: Address, error: OSError | None) -> ExecutionError:
    if error is None or isinstance(error, TimeoutError):
        said, step = _TIME_IS_UP, _STEPS[errno.ETIMEDOUT]
    else:
        said = (error.strerror or str(error)).lower()
        step = _STEPS.get(error.errno or 0, "check that it is up and that the network lasts")
    return ExecutionError(Reason.UNREACHABLE, f"{address} is not reached ({said}): {step}", server=str(address))
