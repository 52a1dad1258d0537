"""Messages as bytes and back: msgpack arrays `[version, number, field, field, …]`, checked field by field.

A frame that is not ours (garbage, cut short, another version, another shape) raises `WireError` and changes nothing. Codecs are
built once per class from its type hints, so a message has its shape in one place. Used by every process; does no I/O.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import msgpack

from cronium.common.errors import CroniumError
from cronium.common.messages import MESSAGES, Message

VERSION = 1
MAX_FRAME_BYTES = 128 * 1024 * 1024  # an outcome with the largest results allowed (config), and to spare

_Codec = Callable[[Any], Any]


class WireError(CroniumError):
    """A frame is no message of this version; the text says what is wrong with it."""


class FrameTooLargeError(WireError):
    """A message that nobody would take."""


def pack(message: Message) -> bytes:
    """A message as one frame. Text that is no Unicode (half a surrogate pair, from a file's name) goes with `?` in it.

    Raises FrameTooLargeError for one that `unpack` would refuse: said again and again, it would never be heard.
    """
    cls: Any = type(message)
    frame: bytes = msgpack.packb([VERSION, _numbers()[cls], *_encoder(cls)(message)], unicode_errors="replace")
    _check_size(len(frame))
    return frame


def unpack(frame: bytes) -> Message:
    """The message of a frame. Raises WireError when it is none of this version."""
    _check_size(len(frame))
    try:
        parts = msgpack.unpackb(frame, use_list=False, strict_map_key=True)
    except Exception as error:  # msgpack raises many unrelated types on bad input
        raise WireError(f"not a message: {type(error).__name__}: {error}") from error
    if not isinstance(parts, tuple) or len(parts) < 2 or type(parts[0]) is not int or type(parts[1]) is not int:
        raise WireError("not a message: no version and number")
    if parts[0] != VERSION:
        raise WireError(
            f"a message of version {parts[0]}, this process speaks {VERSION}: restart all of the supervisor's processes"
        )
    cls: Any = MESSAGES.get(parts[1])
    if cls is None:
        raise WireError(f"an unknown message number {parts[1]}")
    return typing.cast("Message", _decoder(cls)(parts[2:]))


def build_codecs() -> None:
    """Build the codecs of all messages now: before a fork, for all that are forked; each would take its first message longer."""
    for cls in _numbers():
        _encoder(cls)
        _decoder(cls)


def _check_size(size: int) -> None:
    if size > MAX_FRAME_BYTES:
        raise FrameTooLargeError(f"a frame of {size} bytes is larger than any message ({MAX_FRAME_BYTES} bytes)")


@cache
def _numbers() -> Mapping[Any, int]:
    return {cls: number for number, cls in MESSAGES.items()}


@cache
def _encoder(cls: Any) -> _Codec:
    hints = typing.get_type_hints(cls)
    codecs = [(f.name, _encode(hints[f.name])) for f in dataclasses.fields(cls)]

    def encode(value: Any) -> list[Any]:
        return [codec(getattr(value, name)) if codec else getattr(value, name) for name, codec in codecs]

    return encode


def _encode(hint: Any) -> _Codec | None:
    """How a field is made plain; None where it already is."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if _is_message_part(hint):
        return _encoder(hint)
    if origin is types.UnionType and type(None) in args:
        (inner,) = (a for a in args if a is not type(None))
        inner_codec = _encode(inner)
        return None if inner_codec is None else lambda value: None if value is None else inner_codec(value)
    if origin is tuple:
        item_codec = _encode(args[0])
        return None if item_codec is None else lambda value: [item_codec(item) for item in value]
    if origin is Mapping:
        return _made_plain
    return None


def _made_plain(value: Any) -> Any:
    """Free-form details as msgpack can carry them: an error's report must never fail for what somebody put into it."""
    if isinstance(value, Mapping):
        return {str(key): _made_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_made_plain(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -(1 << 63) <= value < 1 << 64:
        return str(value)
    return value if isinstance(value, str | bytes | bool | int | float | None) else str(value)


@cache
def _decoder(cls: Any) -> _Codec:
    hints = typing.get_type_hints(cls)
    codecs = [(f.name, _decode(hints[f.name])) for f in dataclasses.fields(cls)]
    count = len(codecs)

    def decode(parts: Any) -> Any:
        if not isinstance(parts, tuple) or len(parts) != count:
            raise WireError(f"{cls.__name__} has {count} fields, not {_shape(parts)}")
        values = []
        for (name, codec), part in zip(codecs, parts, strict=True):
            try:
                values.append(codec(part))
            except WireError as error:
                raise WireError(f"{cls.__name__}.{name}: {error}") from None
        return cls(*values)

    return decode


def _decode(hint: Any) -> _Codec:
    """How a plain value becomes a field; the codec raises WireError when it does not fit."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if _is_message_part(hint):
        return _decoder(hint)
    if origin is types.UnionType and type(None) in args:
        (inner,) = (a for a in args if a is not type(None))
        codec = _decode(inner)
        return lambda value: None if value is None else codec(value)
    if origin is tuple:
        codec = _decode(args[0])
        return lambda value: tuple(codec(item) for item in _checked(tuple, value))
    if origin is Mapping:
        return _plain_mapping
    if hint is float:
        return lambda value: float(value) if type(value) is int else _checked(float, value)
    return lambda value: _checked(hint, value)


def _plain_mapping(value: Any) -> Any:
    for key, item in _checked(dict, value).items():
        _checked(str, key)
        _check_plain(item)
    return value


def _check_plain(value: Any) -> None:
    if type(value) is tuple:
        for item in value:
            _check_plain(item)
    elif type(value) is dict:
        _plain_mapping(value)
    elif value is not None and type(value) not in (str, bytes, bool, int, float):
        raise WireError(f"a plain value expected, not {_shape(value)}")


def _is_message_part(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint)


def _checked(cls: type, value: Any) -> Any:
    if type(value) is not cls:  # exact: a bool is no int here
        raise WireError(f"{cls.__name__} expected, not {_shape(value)}")
    return value


def _shape(value: Any) -> str:
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | dict) else type(value).__name__
