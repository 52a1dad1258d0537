"""Promise 3: every output line has its number, no holes, whatever the script printed and wherever a reader was cut off."""

from __future__ import annotations

import itertools
import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cronium.common.messages import Position
from cronium.worker.lines import MAX_BATCH_BYTES, MAX_ENTRY_BYTES, EncodedBatch, LineEncoder

PLACE = "place"


def taken(encoder: LineEncoder) -> list[EncodedBatch]:
    batches = []
    while batch := encoder.take():
        batches.append(batch)
    return batches


def entries_of(batches: list[EncodedBatch]) -> list[dict[str, object]]:
    return [entry for batch in batches for entry in json.loads(batch.payload)]


def joined(entries: list[dict[str, object]], stream: str) -> list[str]:
    """The lines of a stream, pieces put together."""
    lines, piece = [], ""
    for entry in entries:
        if entry["stream"] == stream:
            piece += str(entry["line"])
            if not entry.get("continued"):
                lines.append(piece)
                piece = ""
    assert not piece
    return lines


def expected(data: bytes) -> list[str]:
    lines = data.decode("utf-8", "replace").split("\n")
    return lines if lines[-1] else lines[:-1]


texts = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=200).map(lambda t: t.encode("utf-8", "surrogatepass")),
    st.lists(st.sampled_from([b"line\n", b"\n", b"\r", b"\0", "äöü€😀".encode(), b"x" * 20_000])).map(b"".join),
)


@settings(max_examples=300, deadline=None)
@given(data=texts, cuts=st.lists(st.integers(0, 400), max_size=6), flush=st.booleans())
def test_any_bytes_cut_anywhere_arrive_as_their_lines(data: bytes, cuts: list[int], flush: bool) -> None:
    encoder = LineEncoder("job", Position())
    edges = sorted({0, len(data), *(min(c, len(data)) for c in cuts)})
    batches = []
    for now, (start, stop) in enumerate(itertools.pairwise(edges)):
        encoder.feed(PLACE, "stdout", data[start:stop], stop, now, 1)
        if flush:
            encoder.flush_unfinished(now, 1)
        batches += taken(encoder)
    encoder.finish(PLACE, "stdout", 1)
    batches += taken(encoder)
    entries = entries_of(batches)
    assert [e["sequence"] for e in entries] == list(range(1, len(entries) + 1))
    assert joined(entries, "stdout") == expected(data)
    assert encoder.position.next_sequence == len(entries) + 1
    assert encoder.position.mark(PLACE, "stdout").offset == len(data)
    sent = "".join(line + "\n" for line in expected(data)).encode()
    totals = encoder.position.stdout
    assert (totals.lines, totals.bytes, totals.crc32) == (len(expected(data)), len(sent), zlib.crc32(sent))


@settings(max_examples=200, deadline=None)
@given(data=texts, step=st.integers(1, 5000), stop_after=st.integers(0, 5))
def test_a_reader_that_takes_over_at_any_batch_loses_and_doubles_nothing(data: bytes, step: int, stop_after: int) -> None:
    encoder, taken_over = LineEncoder("job", Position()), Position()
    kept: list[EncodedBatch] = []
    for start in range(0, len(data), step):
        encoder.feed(PLACE, "stdout", data[start : start + step], min(start + step, len(data)), start, 1)
        encoder.flush_unfinished(start - 2 * step, 1)
        kept += taken(encoder)
        if len(kept) > stop_after:
            kept = kept[: stop_after + 1]
            break
    if kept:
        taken_over = kept[-1].after
    second = LineEncoder("job", taken_over)
    offset = taken_over.mark(PLACE, "stdout").offset
    second.feed(PLACE, "stdout", data[offset:], len(data), 0, 1)
    second.finish(PLACE, "stdout", 1)
    entries = entries_of([*kept, *taken(second)])
    assert [e["sequence"] for e in entries] == list(range(1, len(entries) + 1))
    assert joined(entries, "stdout") == expected(data)
    assert second.position.stdout.crc32 == zlib.crc32("".join(line + "\n" for line in expected(data)).encode())


@pytest.mark.parametrize("line", [b"a" * 10_000_000, "ä€😀".encode() * 40_000, b"\xff" * 100_000])
def test_a_very_long_line_goes_in_pieces_and_batches_stay_small(line: bytes) -> None:
    encoder = LineEncoder("job", Position())
    encoder.feed(PLACE, "stderr", line + b"\n", len(line) + 1, 0, 1)
    batches = taken(encoder)
    assert joined(entries_of(batches), "stderr") == [line.decode("utf-8", "replace")]
    assert max(len(b.payload) for b in batches) <= MAX_BATCH_BYTES + 3 * MAX_ENTRY_BYTES
    assert encoder.position.stderr.lines == 1


def test_a_prompt_is_shown_when_it_has_waited_and_its_line_ends_later() -> None:
    encoder = LineEncoder("job", Position())
    encoder.feed(PLACE, "stdout", b"Name? ", 6, 10.0, 1)
    encoder.flush_unfinished(9.5, 1)
    assert encoder.take() is None
    encoder.flush_unfinished(10.0, 1)
    (piece,) = entries_of(taken(encoder))
    assert piece["line"] == "Name? "
    assert piece["continued"] is True
    encoder.finish(PLACE, "stdout", 1)
    (end,) = entries_of(taken(encoder))
    assert end["line"] == ""
    assert "continued" not in end


def test_short_lines_fill_batches_up_to_their_size() -> None:
    encoder = LineEncoder("job", Position())
    data = b"x\n" * 100_000
    encoder.feed(PLACE, "stdout", data, len(data), 0, 1)
    batches = taken(encoder)
    assert max(len(b.payload) for b in batches) <= MAX_BATCH_BYTES
    assert sum(b.lines for b in batches) == 100_000
    assert batches[-1].after.mark(PLACE, "stdout").offset == len(data)


def test_a_long_job_id_makes_batches_no_larger() -> None:
    """The id stands in each entry: what may be on its way is counted in encoded bytes."""
    encoder = LineEncoder("j" * 200, Position(), {PLACE: "s" * 100})
    encoder.feed(PLACE, "stdout", b"x\n" * 20_000, 40_000, 0, 1)
    batches = taken(encoder)
    assert max(len(b.payload) for b in batches) <= MAX_BATCH_BYTES
    assert sum(b.lines for b in batches) == 20_000


def test_half_a_character_does_not_keep_the_rest_of_its_line_from_being_shown() -> None:
    """A line that stays unfinished is shown within a second or two, also when it was first looked at inside a character."""
    encoder = LineEncoder("job", Position())
    encoder.feed(PLACE, "stdout", "█".encode()[:2], 2, 10.0, 1)
    encoder.flush_unfinished(11.0, 1)
    assert encoder.unfinished_since() is None
    encoder.feed(PLACE, "stdout", "█".encode()[2:] + b" 50%", 7, 12.0, 1)
    assert encoder.unfinished_since() == 12.0
    encoder.flush_unfinished(12.0, 1)
    (piece,) = entries_of(taken(encoder))
    assert (piece["line"], piece["continued"]) == ("█ 50%", True)


def test_system_lines_are_numbered_but_count_in_no_stream() -> None:
    encoder = LineEncoder("job", Position())
    encoder.system("12 lines were skipped", 5)
    (entry,) = entries_of(taken(encoder))
    assert (entry["stream"], entry["sequence"]) == ("system", 1)
    assert encoder.position.stdout.lines == encoder.position.stderr.lines == 0


def test_what_was_begun_before_a_gap_does_not_grow_together_with_what_follows_it() -> None:
    encoder = LineEncoder("job", Position())
    encoder.feed("p", "stdout", b"whole\nbeg", 9, 0.0, 0)
    encoder.flush_unfinished(0.0, 0)
    encoder.feed("p", "stdout", b"un", 11, 0.0, 0)
    encoder.skip("p", "stdout", 500, 0)
    encoder.feed("p", "stdout", b"after\n", 506, 0.0, 0)
    assert joined(entries_of(taken(encoder)), "stdout") == ["whole", "begun", "after"]
    assert encoder.position.mark("p", "stdout").offset == 506
    assert encoder.position.stdout.lines == 3
