"""Durations and sizes: what people write is what is meant, in both directions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cronium.common.config.units import GIB, KIB, MIB, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("100ms", 0.1),
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("3600s", 3600.0),
        ("1h30m", 5400.0),
        ("1m0.5s", 60.5),
        ("2.5", 2.5),
        ("7", 7.0),
        (" 1s ", 1.0),
        (7, 7.0),
        (0.25, 0.25),
        ("0", 0.0),
    ],
)
def test_a_duration_is_read_as_people_write_it(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "s", "1d", "1 h", "-1s", -1, "1h-", "1s1", "1e3", "inf", float("inf"), float("nan"), True, None, [], "٣s", "9" * 5000],
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.floats(min_value=1e-6, max_value=1e9) | st.just(0.0))
def test_a_duration_survives_being_shown(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 10**9))
def test_a_duration_in_whole_milliseconds_survives_being_shown(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1, "100ms"), (30, "30s"), (90, "90s"), (300, "5m"), (3600, "1h"), (86400, "24h"), (1.5, "1.5s"), (0, "0s")],
)
def test_a_duration_is_shown_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MB", 512 * MIB),
        ("512Mi", 512 * MIB),
        ("512MiB", 512 * MIB),
        ("512m", 512 * MIB),
        ("512 mb", 512 * MIB),
        ("2GB", 2 * GIB),
        ("1.5g", 1536 * MIB),
        ("1KB", KIB),
        ("4096", 4096),
        ("4096B", 4096),
        (4096, 4096),
        ("0", 0),
    ],
)
def test_a_size_means_what_docker_run_means(text: object, size: int) -> None:
    """The limit that a person writes is the limit that the engine is given: 1 MB is 1024 * 1024 bytes there."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", -1, "1.5", 1.5, "1PB", "1 M B", "0x10", True, None, "1e9", "9" * 5000])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@given(st.integers(0, 2**60))
def test_a_size_survives_being_shown(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(("size", "text"), [(512 * MIB, "512MB"), (2 * GIB, "2GB"), (1500, "1500"), (0, "0"), (KIB, "1KB")])
def test_a_size_is_shown_short(size: int, text: str) -> None:
    assert format_size(size) == text
