"""The servers that a job names: checked at the boundary, all reasons of bad ones at once; and how it ended on all together.

Pure; used by the supervisor (which connections does a job need?) and by the worker (how is a server reached?). The secrets in a
`Server` never show in its repr, and never in a message about what is wrong.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from cronium.common.errors import ExecutionError, Reason
from cronium.common.job import InvalidJobError, Job, JobProblem
from cronium.common.messages import ServerOutcome

DEFAULT_PORT = 22
MAX_SERVERS = 100
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}\Z")  # resolved by the system; an address of version 6 is checked by itself
_JUMP = re.compile(r"(?P<user>[^@]+)@(?P<host>\[[^\]]+\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?\Z")
_THROUGH = " through "  # no user and no host has a space
_MAX_KEY_BYTES = 64 * 1024
_MAX_NAME = 100


@dataclass(frozen=True, slots=True)
class Address:
    """Where somebody logs in, and as whom; without a user where nobody does."""

    host: str
    port: int
    username: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.username}@{host}:{self.port}" if self.username else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a job. `name` labels its lines; the secrets are as the backend gave them (a key as PEM or base64 of it)."""

    name: str
    address: Address
    private_key: str | None = field(default=None, repr=False)
    passphrase: str | None = field(default=None, repr=False)
    certificate: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    proxy_jump: Address | None = None

    @property
    def key(self) -> str:
        """Which connections may serve it: those of the same host, port, user, identity and way there. Holds no secret."""
        identity = hashlib.sha256(repr((str(self.address), self.private_key, self.certificate, str(self.proxy_jump))).encode())
        digest = identity.digest()
        if self.passphrase is not None or self.password is not None:  # the key shows in logs, so guessing has to be slow
            digest = _slowly(digest, hashlib.sha256(repr((self.passphrase, self.password)).encode()).digest())
        way = "" if self.proxy_jump is None else f"{_THROUGH}{self.proxy_jump}"
        return f"{self.address}{way}#{digest.hex()[:12]}"


@lru_cache(maxsize=10 * MAX_SERVERS)
def _slowly(identity: bytes, guessable: bytes) -> bytes:
    """15 ms each, and a key is asked for again and again: once a server. Given digests, so that it keeps no secret."""
    return hashlib.scrypt(guessable, salt=identity, n=2**13, r=8, p=1)


def host_of(key: str) -> str:
    """`host:port` of a `Server.key`: what is down when a server is down, whoever wants to log in.

    `host:port through host:port` behind a jump host of its own: the same address behind another one is another server.
    """
    address, _, way = key.rpartition("#")[0].partition(_THROUGH)
    host = address.rpartition("@")[2]
    return f"{host}{_THROUGH}{way.rpartition('@')[2]}" if way else host


def servers_of(job: Job) -> tuple[Server, ...]:
    """The servers of a job with target `server`: `metadata.servers`, else its target's.

    Raises InvalidJobError with every reason.
    """
    target = job.execution.target
    several = job.metadata.get("servers")
    problems: list[JobProblem] = []
    if several is not None and not isinstance(several, list):
        raise InvalidJobError((JobProblem("metadata.servers", "must be a list of servers"),))
    if several:
        found = [(f"metadata.servers.{number}", raw) for number, raw in enumerate(several)]
    elif target.server_details is not None:
        found = [("execution.target.serverDetails", target.server_details)]
    else:
        problem = JobProblem("execution.target.serverDetails", "a job for a server needs to know it: host and username")
        raise InvalidJobError((problem,))
    if len(found) > MAX_SERVERS:
        raise InvalidJobError((JobProblem("metadata.servers", f"{len(found)} servers; at most {MAX_SERVERS} in one job"),))
    servers = []
    for path, raw in found:
        wrong = list(_problems(path, raw))
        problems += wrong
        if not wrong:
            servers.append(_server(raw))
    if problems:
        raise InvalidJobError(tuple(problems))
    if len({server.key for server in servers}) < len(servers):
        raise InvalidJobError((JobProblem("metadata.servers", "names the same server twice"),))
    return _named_apart(servers)


def together(servers: Sequence[ServerOutcome]) -> tuple[str, int | None, ExecutionError | None]:
    """A job's status, exit code and error: it succeeds when all do; else it ends as the first that did not, and says which.

    The exit code is the first that is not 0 (PROTOCOL.md).
    """
    bad = [server for server in servers if server.status != "completed"]
    if not bad:
        return "completed", 0, None
    code = next((server.exit_code for server in bad if server.exit_code), None)
    ranks = {"cancelled": 0, "timeout": 1, "failed": 2}
    first = min(bad, key=lambda server: ranks.get(server.status, 2))
    said = "; ".join(f"{server.name}: {server.message or server.status}" for server in bad[:20])
    text = f"{len(bad)} of {len(servers)} servers did not succeed: {said}"
    retryable = any(ExecutionError(_reason(server), "").retryable for server in bad)
    return first.status, code, ExecutionError(_reason(first), text, retryable=retryable, exit_code=code)


def _reason(server: ServerOutcome) -> Reason:
    try:
        return Reason(server.reason or Reason.INTERNAL)
    except ValueError:  # written down by a version that knew more of them
        return Reason.INTERNAL


def parse_jump(text: str) -> Address | None:
    """`USER@HOST[:PORT]`; None when it is written otherwise."""
    match = _JUMP.match(text.strip())
    if match is None:
        return None
    host, port = match["host"].strip("[]"), int(match["port"] or DEFAULT_PORT)
    return (
        Address(one_form(host), port, match["user"]) if is_host(host) and 0 < port < 65536 and _is_user(match["user"]) else None
    )


def _problems(path: str, raw: Any) -> Iterator[JobProblem]:
    if not isinstance(raw, Mapping):
        yield JobProblem(path, "must be an object with host and username")
        return
    host, user, port = raw.get("host"), raw.get("username"), raw.get("port")
    if not isinstance(host, str) or not is_host(host):
        yield JobProblem(f"{path}.host", "must be a host name or an IP address")
    if not isinstance(user, str) or not _is_user(user):
        yield JobProblem(f"{path}.username", "must be a user's name on the server")
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536):
        yield JobProblem(f"{path}.port", "must be a number from 1 to 65535")
    for name in ("privateKey", "passphrase", "certificate", "password"):
        value = raw.get(name)
        if value is not None and (not isinstance(value, str) or len(value.encode("utf-8", "replace")) > _MAX_KEY_BYTES):
            yield JobProblem(f"{path}.{name}", f"must be a text of at most {_MAX_KEY_BYTES} bytes")
    jump = raw.get("proxyJump")
    if jump is not None and (not isinstance(jump, str) or (jump and parse_jump(jump) is None)):
        yield JobProblem(f"{path}.proxyJump", "must be USER@HOST or USER@HOST:PORT")


def _server(raw: Mapping[str, Any]) -> Server:
    address = Address(one_form(raw["host"]), raw.get("port") or DEFAULT_PORT, raw["username"])
    name = raw.get("name")
    shown = "".join(char for char in name if char.isprintable()).strip()[:_MAX_NAME] if isinstance(name, str) else ""
    return Server(
        name=shown or raw["host"],
        address=address,
        private_key=raw.get("privateKey") or None,
        passphrase=raw.get("passphrase") or None,
        certificate=raw.get("certificate") or None,
        password=raw.get("password") or None,
        proxy_jump=parse_jump(raw.get("proxyJump") or ""),
    )


def _named_apart(servers: list[Server]) -> tuple[Server, ...]:
    """Two servers of one name are told apart by their address, or a label would say nothing; of one address, by a number."""
    count = Counter(server.name for server in servers)
    servers = [replace(server, name=str(server.address)) if count[server.name] > 1 else server for server in servers]
    taken: set[str] = set()
    named = []
    for server in servers:
        names = (server.name, *(f"{server.name} ({number})" for number in range(2, len(servers) + 1)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        named.append(replace(server, name=name))
    return tuple(named)


def is_host(text: str) -> bool:
    """Whether it is a host's name, or an address (without a scope: that is this machine's affair)."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return bool(_HOST.match(text)) and not text.startswith("-")
    return "%" not in text


def one_form(host: str) -> str:
    """A host as it is always written, so that two spellings of it are one server."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()


def _is_user(text: str) -> bool:
    # '#' would end the name in a Server.key, '@' and ':' in an address; a leading '-' is an option to somebody.
    return bool(text) and len(text) <= 64 and text.isprintable() and not text.startswith("-") and not set(text) & set("@:# /")
