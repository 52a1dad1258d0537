"""Frames are unpacked within their bounds, whatever they are."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cronium.supervisor.standalone.coverage import Totals
from cronium.supervisor.standalone.errors import ApiError
from cronium.supervisor.standalone.frames import batch_of, gunzip, unpacked
from cronium.supervisor.standalone.log_store import GZIP, PLAIN

LIMIT = 1_000_000

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
entries_of_a_job = st.lists(
    st.tuples(st.sampled_from(["stdout", "stderr", "system"]), texts, st.sampled_from([None, True, False])),
    min_size=1,
    max_size=40,
)


def as_entries(parts: list[tuple[str, str, bool | None]], first: int = 1) -> list[dict[str, Any]]:
    return [
        {"jobId": "j", "stream": stream, "line": text, "timestamp": 1, "sequence": first + index}
        | ({} if continued is None else {"continued": continued})
        for index, (stream, text, continued) in enumerate(parts)
    ]


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=8), st.integers(1, 9))
def test_any_gzip_members_give_the_text(parts: list[bytes], level: int) -> None:
    """Senders put a frame together from parts that they compressed one by one."""
    assert gunzip(b"".join(gzip.compress(part, level) for part in parts), LIMIT) == b"".join(parts)


@given(st.binary(max_size=2000))
def test_garbage_is_refused_as_garbage(data: bytes) -> None:
    """Nothing but an ApiError comes out of bad bytes."""
    with pytest.raises(ApiError):
        gunzip(b"\x1f\x8b" + data, LIMIT)


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1, 50 * LIMIT])
def test_the_bound_is_exact(size: int) -> None:
    """What fits is taken, one byte more is not, and a bomb never unfolds."""
    packed = zlib.compress(bytes(size), wbits=31)
    if size <= LIMIT:
        assert len(gunzip(packed, LIMIT)) == size
    else:
        with pytest.raises(ApiError) as refused:
            gunzip(packed, LIMIT)
        assert refused.value.status == 413


@given(entries_of_a_job, st.booleans(), st.data())
def test_a_part_of_a_batch_is_what_it_would_be_alone(
    parts: list[tuple[str, str, bool | None]], compressed: bool, data: st.DataObject
) -> None:
    """Partly known frames are cut: lines, sums and stored text of a piece are right, with pieces of lines too."""
    entries = as_entries(parts)
    text = orjson.dumps({"id": 1, "payload": entries})
    batch = batch_of(
        entries, zlib.compress(text, wbits=31) if compressed else text, GZIP if compressed else PLAIN, lambda: entries
    )
    first = data.draw(st.integers(1, len(entries)))
    last = data.draw(st.integers(first, len(entries)))
    extent, row = batch.piece(first, last)
    part = entries[first - 1 : last]
    assert unpacked(row, first, last, LIMIT) == part
    assert (row.first, row.last, extent.first, extent.last) == (first, last, first, last)
    for stream, found in (("stdout", extent.stdout), ("stderr", extent.stderr)):
        mine = [entry for entry in part if entry["stream"] == stream]
        said = "".join(entry["line"] + ("" if entry.get("continued") else "\n") for entry in mine).encode()
        assert found == Totals(sum(1 for e in mine if not e.get("continued")), len(said), zlib.crc32(said))
