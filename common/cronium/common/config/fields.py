"""The kinds of value a key may have: how each is read from text, what is allowed, how it is shown.

Used by the model only, in whichever process reads the configuration. A value arrives as text (from the YAML or the
environment) or as a Python value (from a test or a program); both are taken. Nothing here knows a key or does I/O.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from cronium.common.config.units import format_duration, format_size, parse_duration, parse_size
from cronium.common.servers import parse_jump

HIDDEN: Final = "********"
"""What is shown in a secret's place; its length says nothing about the secret's."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a type of value is called for people, and how one is written in YAML."""

    allowed: str
    show: Callable[[Any], str] = str


@dataclass(frozen=True, slots=True)
class Env:
    """Environment variables of a key beside its own CRONIUM_<PATH>: `names` win over the file, `last` gives way to it."""

    names: tuple[str, ...] = ()
    last: tuple[str, ...] = ()


def _items(value: object) -> object:
    """A list as people write it in one environment variable: `a,b`, or `[]` for none."""
    if not isinstance(value, str):
        return value
    items = (item.strip().strip("\"'") for item in _without(value, "[", "]").split(","))
    return tuple(item for item in items if item)


def _without(text: str, opening: str, closing: str) -> str:
    """`text` without the brackets around it; one bracket alone is part of an item, like `3.2[01]`."""
    text = text.strip()
    return text[1:-1] if text.startswith(opening) and text.endswith(closing) else text


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [item.partition("=") for item in _without(value, "{", "}").split(",") if item.strip()]
    if any(not separator for _, separator, _ in pairs):
        raise ValueError("is not a list of name=value pairs")
    return {name.strip(): text.strip() for name, _, text in pairs}


def _url(*schemes: str, user: bool = False) -> Callable[[str], str]:
    def check(value: str) -> str:
        try:
            parts = urlsplit(value)
            host, _ = parts.hostname, parts.port
        except ValueError as wrong:
            raise ValueError(f"is not a URL: {wrong}") from None
        if parts.scheme not in schemes or not host or re.search(r"[\s\x00-\x1f\x7f]", value):
            raise ValueError("is not such a URL")
        if parts.password is not None or (parts.username is not None and not user):
            raise ValueError("must have no user name or password in it")
        if parts.query or parts.fragment:
            raise ValueError("must have no query or fragment")
        return value.rstrip("/")

    return check


def _engine(value: str) -> str:
    if not value.startswith("unix://"):
        return _url("tcp", "http", "https", "ssh", user=value.startswith("ssh://"))(value)
    if not value.startswith("unix:///"):
        raise ValueError("must name the socket by its absolute path: unix:///path")
    return value


def _matching(pattern: str, *, refused: Mapping[str, str] | None = None) -> Callable[[str], str]:
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if reason := (refused or {}).get(value):
            raise ValueError(reason)
        if not compiled.fullmatch(value):
            raise ValueError("is not written as allowed")
        return value

    return check


def _absolute(value: Path) -> Path:
    if not value.is_absolute() or ".." in value.parts or not str(value).isprintable():
        raise ValueError("is not an absolute path")
    return value


def _token(value: SecretStr) -> SecretStr:
    # It becomes an HTTP header: a newline in it would be an error in every request, far from its cause.
    if not re.fullmatch(r"[\x21-\x7e]+", value.get_secret_value()):
        raise ValueError("has spaces, line breaks or characters that are not ASCII in it")
    return value


def _passphrase(value: SecretStr) -> SecretStr:
    # A person types it in one line; a file that was read into it by mistake, as the key itself, is found here.
    if re.search(r"[\x00-\x1f\x7f]", value.get_secret_value()):
        raise ValueError("has line breaks or control characters in it")
    return value


def _jump(value: str) -> str:
    if parse_jump(value) is None:
        raise ValueError("is not written as allowed")
    return value


def _not_root(value: str) -> str:
    if int(value.partition(":")[0]) == 0:
        raise ValueError("is root: jobs never run as root")
    return value


def _label(value: str) -> str:
    if value.startswith("cronium."):
        raise ValueError("is kept for our own labels, by which leftover containers are found")
    return value


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("is not an IP address") from None


def _lower(value: object) -> object:
    text = value.strip().lower() if isinstance(value, str) else value
    return "warning" if text == "warn" else text


def _show_items(value: tuple[object, ...]) -> str:
    return f"[{', '.join(str(item) for item in value)}]"


def _show_pairs(value: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{name}: {text}' for name, text in value.items())}}}"


_ITEMS = (BeforeValidator(_items),)
_NETWORK = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
_NOT_A_NETWORK = {"host": "is the host's own network: a job there could reach everything that listens on this machine"}

Seconds = Annotated[float, BeforeValidator(parse_duration), Kind("a duration", format_duration)]
"""Seconds, as a float."""
Bytes = Annotated[int, BeforeValidator(parse_size), Kind("a size", format_size)]
"""Bytes, as an int."""

HttpUrl = Annotated[str, AfterValidator(_url("http", "https")), Kind("a URL: http://… or https://…")]
WebSocketUrl = Annotated[str, AfterValidator(_url("ws", "wss")), Kind("a URL: ws://… or wss://…")]
EngineUrl = Annotated[str, AfterValidator(_engine), Kind("unix:///path, tcp://host:port, http(s)://… or ssh://…")]
Token = Annotated[SecretStr, AfterValidator(_token), Kind("printable ASCII without spaces", lambda _: HIDDEN)]
Passphrase = Annotated[SecretStr, AfterValidator(_passphrase), Kind("one line of text", lambda _: HIDDEN)]

AbsolutePath = Annotated[Path, AfterValidator(_absolute), Kind("an absolute path")]
UrlPath = Annotated[str, AfterValidator(_matching(r"/[A-Za-z0-9._~/-]*")), Kind("a path that begins with /")]
UnixPath = Annotated[
    str, AfterValidator(_matching(r"(/[^/\x00-\x1f\x7f]+)+")), Kind("an absolute path on the server, without a slash at its end")
]
Host = Annotated[str, AfterValidator(_matching(r"[A-Za-z0-9._:-]{1,253}")), Kind("an IP address or a host name")]
JumpHost = Annotated[str, AfterValidator(_jump), Kind("USER@HOST or USER@HOST:PORT")]
InstallationId = Annotated[
    str,
    AfterValidator(_matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")),
    Kind("1 to 64 letters, digits, dots, dashes and underscores"),
]

ApiVersion = Annotated[str, AfterValidator(_matching(r"auto|[0-9]{1,3}\.[0-9]{1,3}")), Kind("auto, or like 1.41")]
ImageReference = Annotated[
    str,
    # As the engine's own grammar, a little wider: the engine says the rest.
    AfterValidator(_matching(r"[a-z0-9][A-Za-z0-9._/:@-]{0,254}")),
    Kind("an image's name"),
]
ImagePatterns = Annotated[
    tuple[Annotated[str, AfterValidator(_matching(r"[A-Za-z0-9*?\[\]!._/:@-]{1,255}"))], ...],
    *_ITEMS,
    Kind("a list of image names, with * ? [a-z] as in file names", _show_items),
]
ContainerUser = Annotated[
    str,
    AfterValidator(_matching(r"[0-9]{1,9}(:[0-9]{1,9})?")),
    AfterValidator(_not_root),
    Kind('"UID:GID" in numbers, not root'),
]
Capabilities = Annotated[
    tuple[Annotated[str, AfterValidator(_matching(r"[A-Z_]{2,40}"))], ...],
    *_ITEMS,
    Kind("a list of capabilities like ALL, NET_RAW", _show_items),
]
NetworkName = Annotated[
    str, AfterValidator(_matching(_NETWORK, refused=_NOT_A_NETWORK)), Kind("none, bridge, or a network's name")
]
NetworkNames = Annotated[
    tuple[Annotated[str, AfterValidator(_matching(_NETWORK, refused=_NOT_A_NETWORK))], ...],
    *_ITEMS,
    Kind("a list of network names", _show_items),
]
Addresses = Annotated[tuple[Annotated[str, AfterValidator(_address)], ...], *_ITEMS, Kind("a list of IP addresses", _show_items)]
Labels = Annotated[
    dict[Annotated[str, AfterValidator(_matching(r"[A-Za-z0-9._/-]{1,128}")), AfterValidator(_label)], str],
    BeforeValidator(_pairs),
    Kind("names with a text each", _show_pairs),
]

AsItems = BeforeValidator(_items)
"""For a list of choices: takes `a,b` as well."""
AsLower = BeforeValidator(_lower)
"""For a choice that people write in capitals too; `warn` is `warning`."""
show_items = _show_items
