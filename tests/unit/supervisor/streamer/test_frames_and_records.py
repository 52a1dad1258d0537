"""Bytes that others read: frames for the backend, records on disk."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cronium.common.messages import Announce, FileMark, Forget, Position, StreamTotals, Summary
from cronium.supervisor.streamer.frames import DamagedError, entries_of, log_frame
from cronium.supervisor.streamer.records import Head, Heads, Kind, Mark, Record, RecordError, decode, encode
from peers.streamer_parts import batch

counts = st.integers(0, 2**50)
totals = st.builds(StreamTotals, counts, counts, st.integers(0, 2**32 - 1))
marks = st.builds(FileMark, st.text(max_size=20), st.sampled_from(["stdout", "stderr"]), counts, st.booleans())
places = st.builds(Position, counts, totals, totals, st.lists(marks, max_size=4).map(tuple))
names = st.text(max_size=30)
records = st.one_of(
    st.builds(lambda after, payload: replace(batch(), after=after, payload=payload), places, st.binary(max_size=200)),
    st.builds(Announce, names, names, counts, counts, counts),
    st.builds(Forget, names, counts),
    st.builds(Summary, names, counts, places, counts, st.binary(max_size=100), st.binary(max_size=100), st.booleans()),
    st.builds(Mark, counts, counts),
    st.builds(Heads, st.lists(st.builds(Head, names, counts, counts, places, st.booleans()), max_size=4).map(tuple)),
)


@given(records)
def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    kind, body = encode(record)
    assert decode(kind, body) == record


@given(st.integers(0, 255), st.binary(max_size=100))
def test_garbage_is_no_record(kind: int, body: bytes) -> None:
    with contextlib.suppress(RecordError):
        decode(kind, body)


def test_a_record_of_a_newer_version_says_so() -> None:
    import msgpack

    with pytest.raises(RecordError, match="newer version"):
        decode(Kind.STATE, zlib.compress(msgpack.packb(["something new", 1])))


def test_a_small_batch_is_a_text_frame_of_the_protocol() -> None:
    binary, data = log_frame(41, batch(texts=("hi",), job="job-123"))
    assert not binary
    frame = json.loads(data)
    assert (frame["type"], frame["id"], frame["epoch"]) == ("log", 41, 1)
    assert frame["payload"][0]["jobId"] == "job-123"
    assert frame["payload"][0]["sequence"] == 1


@given(st.lists(st.text(max_size=50), min_size=1, max_size=20), st.integers(0, 2**53))
def test_a_compressed_frame_is_one_gzip_file_for_every_reader(texts: list[str], frame_id: int) -> None:
    """Its members are joined without decoding the payload (RFC 1952, 2.2)."""
    plain = batch(texts=tuple(text.replace("\ud800", "") for text in texts))
    packed = replace(plain, payload=zlib.compress(plain.payload, 1, 31), compressed=True)
    binary, data = log_frame(frame_id, packed)
    assert binary
    expected = log_frame(frame_id, plain)[1]
    assert gzip.decompress(data) == expected
    assert gzip.GzipFile(fileobj=io.BytesIO(data)).read() == expected
    assert entries_of(packed) == plain.payload


def test_a_damaged_payload_is_told() -> None:
    with pytest.raises(DamagedError, match="job job"):
        entries_of(replace(batch(), compressed=True, payload=b"no gzip"))
