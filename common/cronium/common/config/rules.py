"""What must hold between several keys, and between a key and this machine.

Pure but for a look at the seccomp profile. Each rule names its keys, so that one whose keys are wrong already is left
out: a mistake is told once.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from cronium.common.config.dirs import RUNTIME_DIR_BYTES, SOCKET_NAME_BYTES
from cronium.common.config.keys import all_keys
from cronium.common.config.model import Config
from cronium.common.config.problems import ConfigProblem
from cronium.common.config.units import format_duration

REQUIRED: Final = ("api.endpoint", "api.token", "logging.websocket.endpoint")
"""Needed to work for a backend; the embedded queue needs none of them."""

_AT_MOST: Final = (
    ("api.retry.initialDelay", "api.retry.maxDelay"),
    ("jobs.pollInterval", "jobs.pollMaxInterval"),
    ("jobs.defaultTimeout", "jobs.maxTimeout"),
    ("container.resources.defaultCPU", "container.resources.maxCPU"),
    ("container.resources.defaultMemory", "container.resources.maxMemory"),
    ("container.resources.defaultDisk", "container.resources.maxDisk"),
    ("container.resources.defaultPids", "container.resources.maxPids"),
    # A job may put all of its space into one file, and all that waits unread is one.
    ("container.resources.maxDisk", "container.resources.maxFileSize"),
    ("logging.maxUnread", "container.resources.maxFileSize"),
    ("logging.websocket.reconnectInterval", "logging.websocket.reconnectMaxInterval"),
    ("logging.websocket.maxUnacked", "logging.buffer.size"),
    ("logging.spool.maxBacklog", "logging.spool.maxSize"),
)

_BACK_AGAIN_S: Final = 60.0  # the longest pause between two tries to get to a server, and a login


@dataclass(frozen=True, slots=True)
class _Rule:
    """`wrong` says what is wrong with the first of `paths`, and what is allowed there; None when all is well."""

    paths: tuple[str, ...]
    wrong: Callable[[Config], tuple[str, str] | None]


def check(config: Config, sources: Mapping[str, str], broken: frozenset[str]) -> Iterator[ConfigProblem]:
    """The rules that `config` breaks; those about a path in `broken` are left out."""
    pairs = [(low, high) for low, high in _AT_MOST if not {low, high} & broken]
    for low, high in pairs:
        value, most = all_keys()[low].value_in(config), all_keys()[high].value_in(config)
        if value > most:
            shown = f"{all_keys()[high].show(most)} ({sources[high]})"
            message = f"is more than {high}, which is {shown}: lower this or raise that"
            yield _problem(config, sources, low, message, f"at most {high}")
    for rule in _RULES:
        if not set(rule.paths) & broken and (wrong := rule.wrong(config)):
            yield _problem(config, sources, rule.paths[0], *wrong)


def missing(config: Config, broken: frozenset[str]) -> Iterator[ConfigProblem]:
    """The required keys that nobody has set."""
    for path in REQUIRED:
        key = all_keys()[path]
        if path not in broken and key.value_in(config) is None:
            either = f"set {key.env[-1]}{f' or {key.env[-1]}_FILE' if key.secret else ''}, or {path} in the file"
            message = f"is missing: {either} (with --standalone it is not needed)"
            yield ConfigProblem(path, message, allowed=key.allowed)


def _problem(config: Config, sources: Mapping[str, str], path: str, message: str, allowed: str) -> ConfigProblem:
    key = all_keys()[path]
    return ConfigProblem(path, message, key.show(key.value_in(config)), allowed, source=sources[path])


def _default_network(config: Config) -> tuple[str, str] | None:
    network = config.container.network
    if network.default in network.allowed:
        return None
    return "is not one of container.network.allowed: add it there", f"one of {', '.join(network.allowed)}"


def _segments(config: Config) -> tuple[str, str] | None:
    spool = config.logging.spool
    if 2 * spool.segment_size <= spool.max_size:
        return None
    # Space comes back by whole files, and never from the one that is being written.
    return "leaves no room for two files in logging.spool.maxSize", "at most half of logging.spool.maxSize"


def _one_port(config: Config) -> tuple[str, str] | None:
    metrics, health = config.monitoring.metrics, config.monitoring.health
    if not metrics.enabled or metrics.port != health.port or metrics.port == 0 or metrics.path != health.path:
        return None
    return "is also monitoring.metrics.path, on the same port: change one of the two", "another path or another port"


def _socket_names(config: Config) -> tuple[str, str] | None:
    length = len(os.fsencode(config.runtime_dir))
    if length <= RUNTIME_DIR_BYTES:
        return None
    message = (
        f"is {length} bytes long: a socket's path has at most 107, of which {SOCKET_NAME_BYTES + 1} are for its name. "
        "Choose a shorter one (CRONIUM_RUNTIME_DIR)"
    )
    return message, f"an absolute path of at most {RUNTIME_DIR_BYTES} bytes"


def _remote_ttl(config: Config) -> tuple[str, str] | None:
    least_s = config.ssh.unreachable_after + _BACK_AGAIN_S
    if config.ssh.execution.remote_ttl >= least_s:
        return None
    least, after = format_duration(least_s), format_duration(config.ssh.unreachable_after)
    message = (
        f"is too short: a server is waited for longer (ssh.unreachableAfter is {after}), and what its job has left there "
        f"would be gone: raise this to {least} or more, or lower that"
    )
    return message, f"at least {least}"


def _seccomp(config: Config) -> tuple[str, str] | None:
    profile = config.container.security.seccomp_profile
    if profile is None:
        return None
    allowed = "a seccomp profile as the engine takes it: a JSON file with defaultAction"
    try:
        content = orjson.loads(profile.read_bytes())
    except OSError as wrong:
        return f"cannot be read: {wrong.strerror}", allowed
    except orjson.JSONDecodeError as wrong:
        return f"is not JSON: {wrong}", allowed
    return None if isinstance(content, dict) and "defaultAction" in content else ("is no seccomp profile", allowed)


_RULES: Final = (
    _Rule(("container.network.default", "container.network.allowed"), _default_network),
    _Rule(("container.security.seccompProfile",), _seccomp),
    _Rule(("logging.spool.segmentSize", "logging.spool.maxSize"), _segments),
    _Rule(
        ("monitoring.health.path", "monitoring.metrics.path", "monitoring.health.port", "monitoring.metrics.port"),
        _one_port,
    ),
    _Rule(("runtimeDir",), _socket_names),
    _Rule(("ssh.execution.remoteTtl", "ssh.unreachableAfter"), _remote_ttl),
)
