"""Sums of lines that come in any order are those of the lines in order."""

from __future__ import annotations

import itertools
import zlib

from hypothesis import given
from hypothesis import strategies as st

from cronium.supervisor.standalone.coverage import Expected, Extent, Totals, check, joined, uncovered

lines = st.lists(st.tuples(st.sampled_from(["stdout", "stderr", "system"]), st.text(max_size=20)), min_size=1, max_size=60)


def totals(texts: list[str]) -> Totals:
    text = "".join(t + "\n" for t in texts).encode("utf-8", "surrogatepass")
    return Totals(len(texts), len(text), zlib.crc32(text))


def extent(sent: list[tuple[str, str]], first: int, last: int) -> Extent:
    part = sent[first - 1 : last]
    return Extent(first, last, totals([t for s, t in part if s == "stdout"]), totals([t for s, t in part if s == "stderr"]))


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_crc_of_two_parts_combines_as_zlib_reckons_the_whole(before: bytes, after: bytes) -> None:
    """The check never reads the lines again, so the combination must be exact."""
    whole = Totals(1, len(before), zlib.crc32(before)) + Totals(1, len(after), zlib.crc32(after))
    assert whole.crc32 == zlib.crc32(before + after)


def test_crc_combines_whatever_the_length() -> None:
    """Doubling reaches 16 GiB in 34 steps; it must be what grouping the same bytes otherwise gives."""
    one = Totals(1, 1, zlib.crc32(b"x"))
    doubled = one
    for _ in range(20):
        doubled = doubled + doubled
    assert doubled == Totals(2**20, 2**20, zlib.crc32(b"x" * 2**20))
    for _ in range(14):
        doubled = doubled + doubled
    assert one + doubled == doubled + one


@given(lines, st.data())
def test_frames_in_any_order_and_overlapping_make_one_extent(sent: list[tuple[str, str]], data: st.DataObject) -> None:
    """Whatever is sent again, late or framed anew: each line counts once, and the check passes when all are here."""
    expected_extent = extent(sent, 1, len(sent))
    expected = Expected(1, len(sent), expected_extent.stdout, expected_extent.stderr)
    bounds = st.integers(1, len(sent))
    frames = data.draw(st.lists(st.tuples(bounds, bounds), max_size=30))
    here: list[Extent] = []
    seen: set[int] = set()
    for a, b in [*frames, (1, len(sent))]:
        first, last = min(a, b), max(a, b)
        gaps = uncovered(here, first, last)
        assert {n for gap in gaps for n in range(gap[0], gap[1] + 1)} == set(range(first, last + 1)) - seen
        for gap in gaps:
            whole, gone = joined(here, extent(sent, *gap))
            here = sorted([e for e in here if e not in gone] + [whole], key=lambda e: e.first)
        seen |= set(range(first, last + 1))
        assert {n for e in here for n in range(e.first, e.last + 1)} == seen
        assert all(one.last + 1 < other.first for one, other in itertools.pairwise(here))
        verdict = check(expected, here)
        assert verdict.state == ("true" if len(seen) == len(sent) else "pending")
        assert {n for gap in verdict.missing for n in range(gap[0], gap[1] + 1)} == set(range(1, len(sent) + 1)) - seen
    assert here == [expected_extent]


@given(lines)
def test_a_changed_line_is_found_out(sent: list[tuple[str, str]]) -> None:
    """Sums that differ are said, by stream."""
    there = extent(sent, 1, len(sent))
    said = Expected(1, len(sent), there.stdout + totals(["more"]), there.stderr)
    verdict = check(said, [there])
    assert verdict.state == "false"
    assert "stdout" in verdict.problems[0]


def test_no_line_at_all_is_complete_and_lines_beyond_are_not() -> None:
    """The edges of the check."""
    assert check(Expected(1, 0, Totals(), Totals()), []).state == "true"
    assert check(Expected(5, 4, Totals(), Totals()), []).state == "true"
    assert check(Expected(1, 0, Totals(), Totals()), [Extent(1, 1, totals(["x"]), Totals())]).state == "false"
    assert check(Expected(2, 2, totals(["x"]), Totals()), [Extent(1, 2, totals(["x"]), Totals())]).state == "false"
