"""What a script gives back is its own word: whatever it is, only harmless things come through, and nothing is raised."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cronium.worker.events import Events
from cronium.worker.results import MAX_FILES, read_results, safe_path

MIB = 1024 * 1024


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    buffer.seek(0)
    return buffer


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_plain_files_come_through_with_their_paths() -> None:
    """Directories are only paths."""
    files, problems = read_results(
        archive((member("./", tarfile.DIRTYPE), b""), (member("./a/b.json"), b"{}"), (member("c"), b"")), MIB
    )
    assert [(file.path, file.mime_type, file.content) for file in files] == [
        ("a/b.json", "application/json", b"{}"),
        ("c", "application/octet-stream", b""),
    ]
    assert problems == ()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_devices_and_pipes_stay_behind(kind: bytes) -> None:
    """And are named."""
    files, problems = read_results(archive((member("x", kind, "/etc/passwd"), b"")), MIB)
    assert files == ()
    assert "'x'" in problems[0]


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../up", "a/..", "", "a\nb", "a\0b"[:1] + "\x07", "x" * 2000])
def test_paths_that_lead_out_or_are_odd_are_none(name: str) -> None:
    """Also for whoever unpacks them later."""
    assert safe_path(name) is None


@given(st.text(min_size=1, max_size=60))
def test_a_safe_path_stays_inside(name: str) -> None:
    """Whatever the name."""
    path = safe_path(name)
    if path is not None:
        assert not path.startswith("/")
        assert ".." not in path.split("/")


def test_a_huge_size_in_a_header_costs_nothing() -> None:
    """A sparse or lying archive."""
    info = member("x")
    info.size = 1 << 40
    files, problems = read_results(io.BytesIO(info.tobuf() + b"data"), MIB)
    assert files == ()
    assert problems


def test_more_files_than_allowed_are_left_out_and_told() -> None:
    """A million empty files are no result."""
    files, problems = read_results(archive(*((member(f"f{n}"), b"") for n in range(MAX_FILES + 50))), 64 * MIB)
    assert len(files) == MAX_FILES
    assert problems


def test_a_cut_archive_gives_what_was_whole() -> None:
    """The launcher cuts at the limit."""
    whole = archive((member("a"), b"1" * 600), (member("b"), b"2" * 60_000)).getvalue()
    files, problems = read_results(io.BytesIO(whole), 4096)
    assert [file.path for file in files] == ["a"]
    assert problems


@given(st.binary(max_size=4000))
@settings(max_examples=200)
def test_garbage_is_a_problem_and_not_an_error(data: bytes) -> None:
    """Random bytes."""
    files, _ = read_results(io.BytesIO(data), MIB)
    assert all(safe_path(file.path) for file in files)


@given(st.data())
@settings(max_examples=200)
def test_a_damaged_archive_is_a_problem_and_not_an_error(data: Any) -> None:
    """A real one with some bytes changed, also in extended headers."""
    long = member("é" * 150)
    long.pax_headers = {"mtime": "1.5", "path": "é" * 150}
    whole = bytearray(archive((member("a"), b"1" * 700), (long, b"2" * 300), (member("l", tarfile.SYMTYPE, "/"), b"")).getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    files, _ = read_results(io.BytesIO(bytes(whole)), MIB)
    assert all(safe_path(file.path) for file in files)


def test_the_last_word_of_each_kind_counts() -> None:
    """Output, condition, each variable."""
    events = Events(MIB)
    lines = [
        {"type": "output", "data": 1},
        {"type": "output", "data": {"a": [2]}},
        {"type": "condition", "value": True},
        {"type": "condition", "value": False},
        {"type": "variable", "key": "k", "value": 1},
        {"type": "variable", "key": "k", "value": None},
    ]
    events.feed(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    assert (events.script_output, events.condition, events.variables) == (b'{"a":[2]}', False, b'{"k":null}')
    assert events.problems == ()


def test_a_line_without_its_end_does_not_count_yet() -> None:
    """It may still be written."""
    events = Events(MIB)
    assert events.feed(b'{"type":"progress","percentage":5') is None
    progress = events.feed(b'0,"message":"half"}\n')
    assert progress is not None
    assert (progress.percentage, progress.message) == (50.0, "half")


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_are_taken_without_an_error(pieces: list[bytes]) -> None:
    """A script may write anything there."""
    events = Events(1000)
    for piece in pieces:
        events.feed(piece)
    assert events.taken_bytes <= 1000


@given(st.binary(max_size=300), st.integers(0, 300))
def test_how_it_is_cut_makes_no_difference(data: bytes, at: int) -> None:
    """Read live or at once."""
    said = b'{"type":"output","data":"x"}\n' + data + b'\n{"type":"condition","value":true}\n'
    whole, parts = Events(MIB), Events(MIB)
    whole.feed(said)
    parts.feed(said[:at])
    parts.feed(said[at:])
    assert (whole.script_output, whole.condition, whole.ignored_lines) == (
        parts.script_output,
        parts.condition,
        parts.ignored_lines,
    )


def test_too_many_events_are_told() -> None:
    """The rest is left out."""
    events = Events(100)
    events.feed(b'{"type":"output","data":1}\n' * 100)
    assert events.script_output == b"1"
    assert "maxEvents" in events.problems[-1]


@pytest.mark.parametrize(
    "line",
    [
        b"1e999",
        b'{"type":"progress","percentage":"x"}',
        b'{"type":"condition","value":1}',
        b'{"type":"variable","key":1,"value":2}',
        b"[]",
    ],
)
def test_odd_events_harm_nobody(line: bytes) -> None:
    """Right JSON, wrong shape."""
    events = Events(MIB)
    events.feed(line + b"\n")
    assert events.condition is None
    assert events.variables is None
