"""Messages between our processes: each survives the way, and anything else is refused without harm.

A frame of another version or shape must never be half read: positions and outcomes travel in them (promises 3 and 4).
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cronium.common import wire
from cronium.common.config.model import Container
from cronium.common.errors import ErrorReport, ExecutionError, Reason
from cronium.common.messages import MESSAGES, AttemptEnded, Message, Outcome, StopWorker, WorkerReady
from cronium.common.wire import VERSION, WireError, pack, unpack

_INTS = st.integers(-(1 << 63), (1 << 64) - 1)
_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_PLAIN = st.recursive(
    st.none() | st.booleans() | _INTS | st.floats(allow_nan=False) | _TEXTS | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Any value that a field of this type may have."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return st.builds(hint, **{f.name: values_of(hints[f.name]) for f in dataclasses.fields(hint)})
    if origin is types.UnionType:
        return st.one_of(*map(values_of, args))
    if origin is tuple:
        return st.lists(values_of(args[0]), max_size=3).map(tuple)
    if origin is Mapping:
        return st.dictionaries(_TEXTS, _PLAIN, max_size=3)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        int: _INTS,
        str: _TEXTS,
        bytes: st.binary(max_size=30),
        bool: st.booleans(),
        float: st.floats(allow_nan=False),
        types.NoneType: st.none(),
    }
    return simple[hint]


_MESSAGES = st.one_of(*map(values_of, MESSAGES.values()))


@pytest.mark.parametrize("number", MESSAGES)
def test_every_message_survives_the_way(number: int) -> None:
    @settings(max_examples=15, deadline=None)
    @given(message=values_of(MESSAGES[number]))
    def there_and_back(message: Any) -> None:
        again = unpack(pack(message))
        assert again == message
        assert type(again) is type(message)

    there_and_back()


@settings(max_examples=120, deadline=None)
@given(frame=st.binary(max_size=200))
def test_garbage_is_refused_and_raises_nothing_else(frame: bytes) -> None:
    with pytest.raises(WireError):
        unpack(frame)


@settings(max_examples=100, deadline=None)
@given(message=_MESSAGES, data=st.data())
def test_a_frame_that_is_cut_short_is_refused(message: Any, data: st.DataObject) -> None:
    frame = pack(message)
    with pytest.raises(WireError):
        unpack(frame[: data.draw(st.integers(0, len(frame) - 1))])
    with pytest.raises(WireError):
        unpack(frame + b"\0")


@settings(max_examples=120, deadline=None)
@given(message=_MESSAGES, data=st.data())
def test_a_frame_with_a_wrong_byte_is_refused_or_is_another_whole_message(message: Any, data: st.DataObject) -> None:
    frame = bytearray(pack(message))
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        other = unpack(bytes(frame))
    except WireError:
        return
    assert unpack(pack(other)) == other or "nan" in repr(other)


@settings(max_examples=120, deadline=None)
@given(message=_MESSAGES, data=st.data(), wrong=st.sampled_from([None, 1.5, "text", b"bytes", 7, True, [1], {"a": 1}, [], {}]))
def test_a_field_of_another_type_is_refused(message: Any, data: st.DataObject, wrong: Any) -> None:
    parts = msgpack.unpackb(pack(message), strict_map_key=False)
    if len(parts) == 2:
        return
    at = data.draw(st.integers(2, len(parts) - 1))
    field = dataclasses.fields(message)[at - 2]
    parts[at] = wrong
    try:
        other = unpack(msgpack.packb(parts))
    except WireError as refused:
        text = str(refused)
    else:
        text = ""
    if text:
        assert field.name in text
        return
    hint = typing.get_type_hints(type(message))[field.name]
    assert _fits(getattr(other, field.name), hint)


def _fits(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(_fits(value, arg) for arg in args)
    if origin is tuple:
        return type(value) is tuple and all(_fits(item, args[0]) for item in value)
    return type(value) is (dict if origin is Mapping else hint)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (msgpack.packb([VERSION + 1, 4]), "version"),
        (msgpack.packb([VERSION, 9999]), "unknown message number"),
        (msgpack.packb([VERSION]), "no version and number"),
        (msgpack.packb([True, 4]), "no version and number"),
        (msgpack.packb({"a": 1}), "no version and number"),
        (msgpack.packb([VERSION, 4, 1]), "0 fields"),
        (msgpack.packb([VERSION, 10, "worker"]), "2 fields"),
        (msgpack.packb([VERSION, 10, "worker", True]), "pid"),
        (msgpack.packb([VERSION, 10, "worker", msgpack.ExtType(5, b"x")]), "pid"),
    ],
)
def test_what_is_wrong_with_a_frame_is_said(frame: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        unpack(frame)


@pytest.mark.parametrize(
    "odd", [{b"key": 1}, {1: 2}, {"a": msgpack.Timestamp(1)}, {"a": msgpack.ExtType(5, b"")}, {"a": [{b"k": 1}]}]
)
def test_details_hold_plain_values_under_names_only(odd: Any) -> None:
    frame = msgpack.unpackb(pack(_ended(ErrorReport("script", "oom", "m", retryable=False, details={}))))
    frame[5][2][4] = odd
    with pytest.raises(WireError):
        unpack(msgpack.packb(frame))


def test_an_error_report_travels_whatever_somebody_put_into_its_details() -> None:
    """A worker must not die of its own report: the job would be run down to maxWorkerDeaths."""
    report = ExecutionError(
        Reason.OOM, "file \udcff", limit=1 << 70, path=Outcome, parts=[{1: {2}}], share=0.5, none=None
    ).report()
    again = unpack(pack(_ended(report)))
    assert isinstance(again, AttemptEnded)
    assert again.outcome.error is not None
    assert again.outcome.error.details["limit"] == str(1 << 70)
    assert again.outcome.error.details["parts"] == ({"1": "{2}"},)
    assert again.outcome.error.message == "file ?"


def test_a_frame_larger_than_any_message_is_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 10)
    assert isinstance(unpack(pack(StopWorker())), StopWorker)
    with pytest.raises(WireError, match="larger than any message"):
        unpack(pack(WorkerReady("a-long-name", 1)))


def _ended(report: ErrorReport) -> AttemptEnded:
    return AttemptEnded("w", "j", 1, Outcome("failed", None, report, 1, 2))


def shapes() -> str:
    """Every message and every value within one, a line each."""
    lines = [f"version {VERSION}"]
    parts: dict[str, str] = {}

    def name_of(hint: Any) -> str:
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            parts[hint.__name__] = fields_of(hint)
        elif origin is types.UnionType:
            return " | ".join(map(name_of, args))
        elif origin is tuple:
            return f"tuple[{name_of(args[0])}, ...]"
        return "mapping" if origin is Mapping else str(hint.__name__)

    def fields_of(cls: Any) -> str:
        hints = typing.get_type_hints(cls)
        return ", ".join(f"{field.name}: {name_of(hints[field.name])}" for field in dataclasses.fields(cls))

    lines += [f"{number} {cls.__name__}({fields_of(cls)})" for number, cls in sorted(MESSAGES.items())]
    return "\n".join([*lines, *(f"{name}({fields})" for name, fields in sorted(parts.items()))]) + "\n"


def test_a_changed_shape_has_a_new_version() -> None:
    """A supervisor that is updated in place must not half understand what an old process says."""
    written = (Path(__file__).parent / "wire_shapes.txt").read_text()
    assert shapes() == written, (
        "a message has another shape: raise wire.VERSION if the version in wire_shapes.txt was ever released, "
        f"and put this into wire_shapes.txt:\n\n{shapes()}"
    )


def test_what_nobody_would_take_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 100)
    with pytest.raises(wire.FrameTooLargeError):
        pack(WorkerReady("w" * 100, 1))


def test_the_most_that_the_configuration_allows_to_give_back_fits_into_a_message() -> None:
    """What is left of the bound is for paths, problems and numbers that grow when they are written anew (1e15)."""
    most = {name: Container.model_fields[name].metadata for name in ("max_results", "max_events")}
    assert sum(bound.le for found in most.values() for bound in found if hasattr(bound, "le")) <= wire.MAX_FRAME_BYTES * 0.95


def test_numbers_of_messages_are_used_once() -> None:
    assert len(set(MESSAGES.values())) == len(MESSAGES)
    assert set(typing.get_args(Message)) == set(MESSAGES.values())
