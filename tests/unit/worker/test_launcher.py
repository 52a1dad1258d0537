"""What goes to the launcher and what comes back, as values: archive, state lines, credit."""

import io
import subprocess
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cronium.worker.launcher import (
    CREDIT_BYTES,
    MAX_LINE_BYTES,
    RUNTIME_COMMANDS,
    RUNTIME_HELPERS,
    Credit,
    Drained,
    Ended,
    Failed,
    LaunchSpec,
    OutputLost,
    OutputWaits,
    Results,
    Started,
    StateEvent,
    StateReader,
    Usage,
    format_credit,
    launch_stream,
    launcher_text,
    parse_credit,
)


def members(spec: LaunchSpec) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(launch_stream(spec))) as archive:
        for member in archive:
            assert member.isreg()
            data = archive.extractfile(member)
            assert data
            found[member.name] = data.read()
    return found


def test_the_archive_has_everything_and_says_complete_last() -> None:
    spec = LaunchSpec(
        interpreter="node",
        script=b"\x00\xff",
        working_directory="/a b",
        deadline_s=1.5,
        grace_s=2,
        max_unread_bytes=65536,
        max_results_bytes=7,
        helpers={"mine.txt": b"m", "cronium.sh": b"not ours"},
        input_json=b"[1]",
    )
    found = members(spec)
    assert next(iter(found)) == "spec"
    assert list(found)[-1] == "complete"
    assert found["spec"] == b"1\nnode\n/a b\n1.5\n2\n65536\n7\n"
    assert (found["script"], found["input.json"], found["helpers/mine.txt"]) == (b"\x00\xff", b"[1]", b"m")
    assert {f"helpers/{name}" for name in (*RUNTIME_HELPERS, *RUNTIME_COMMANDS)} <= found.keys()
    assert found["helpers/cronium.sh"] != b"not ours"
    assert len(launch_stream(spec)) % tarfile.RECORDSIZE == 0


_NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)
_VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.dictionaries(_NAMES, _VALUES, max_size=4))
def test_any_environment_is_text_that_a_shell_reads_back(environment: dict[str, str]) -> None:
    environment = {f"T{name}": value for name, value in environment.items()}
    text = members(LaunchSpec(interpreter="bash", script=b"", environment=environment))["env"]
    script = text.decode() + "exec /usr/bin/env -0"
    done = subprocess.run(["sh", "-c", script], env={}, stdout=subprocess.PIPE, timeout=30, check=True)
    said = dict(line.split("=", 1) for line in done.stdout.decode().split("\0") if line)
    assert {name: said.get(name) for name in environment} == environment


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"interpreter": "perl"}, "interpreter 'perl'"),
        ({"working_directory": "tmp"}, "absolute"),
        ({"working_directory": "/a\nb"}, "newline"),
        ({"working_directory": "/a\0"}, "NUL"),
        ({"deadline_s": -1}, "deadline_s"),
        ({"deadline_s": float("nan")}, "deadline_s"),
        ({"grace_s": float("inf")}, "grace_s"),
        ({"deadline_s": 1e-9}, "finer"),
        ({"max_unread_bytes": 65535}, "max_unread_bytes"),
        ({"max_results_bytes": -1}, "max_results_bytes"),
        ({"environment": {"A-B": "x"}}, "'A-B'"),
        ({"environment": {"": "x"}}, "environment name"),
        ({"environment": {"1A": "x"}}, "'1A'"),
        ({"environment": {"A": "x\0"}}, "NUL"),
        ({"environment": {"A": "\ud800"}}, "surrogate"),
        ({"environment": {"A": "x" * 131072}}, "131071"),
        ({"environment": {f"A{i}": "x" * 100_000 for i in range(20)}}, "inputData"),
        ({"helpers": {"a/b": b""}}, "plain file name"),
        ({"helpers": {"..": b""}}, "plain file name"),
        ({"helpers": {"": b""}}, "plain file name"),
        ({"helpers": {"x" * 91: b""}}, "longer"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_reason(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LaunchSpec(**{"interpreter": "bash", "script": b"", **wrong})  # type: ignore[arg-type]


def test_a_spec_shows_no_secret() -> None:
    spec = LaunchSpec(interpreter="bash", script=b"s3cret", environment={"K": "s3cret"}, input_json=b"s3cret")
    assert "s3cret" not in repr(spec)


LINES = {
    b"started 12 3456 4a8c": Started(12, 3456, "4a8c"),
    b"started - - -": Started(None, None, None),
    b"ended 137 deadline": Ended(137, "deadline"),
    b"usage 1 2 - 4 5": Usage(1, 2, None, 4, 5),  # of a launcher older than this one
    b"usage 1 2 - 4 5 6": Usage(1, 2, None, 4, 5, 6),
    b"usage 1 2 - 4 5 -": Usage(1, 2, None, 4, 5, None),
    b"output_waits stdout disk_full": OutputWaits("stdout", "disk_full"),
    b"output_lost stderr disk_full read_1+0": OutputLost("stderr", "disk_full", "read_1+0"),
    b"results 10240": Results(10240),
    b"results_too_large 99": Results(99, too_large=True),
    b"results_failed tar_exit_2": Results(None, failure="tar_exit_2"),
    b"drained 5 0": Drained(5, 0),
    b"failed working_directory /a b": Failed("working_directory", "/a b"),
    b"failed no_input": Failed("no_input", ""),
}


@given(st.lists(st.sampled_from(sorted(LINES))), st.lists(st.integers(0, 600)))
def test_state_means_the_same_however_it_is_cut(lines: list[bytes], cuts: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    reader = StateReader()
    seen: list[StateEvent] = []
    begin = 0
    for cut in (*sorted(cuts), len(data)):
        seen += reader.feed(data[begin:cut])
        begin = max(begin, min(cut, len(data)))
    assert seen == [LINES[line] for line in lines]
    assert reader.ignored_lines == 0


@given(st.lists(st.binary(max_size=9000), max_size=6))
def test_garbage_never_raises_and_a_good_line_after_it_counts(pieces: list[bytes]) -> None:
    """A script can write there what it likes."""
    reader = StateReader()
    for piece in pieces:
        reader.feed(piece)
    assert reader.feed(b"\nended 0 exit\n")[-1] == Ended(0, "exit")


def test_a_line_without_its_newline_does_not_count() -> None:
    reader = StateReader()
    assert reader.feed(b"ended 0 exi") == []
    assert reader.feed(b"t") == []
    assert reader.feed(b"\n") == [Ended(0, "exit")]


_MEANINGLESS = (
    b"",
    b"ended",
    b"ended 256 exit",
    b"ended -1 exit",
    b"ended 0 why",
    b"drained 1",
    b"started x 1 b",
    b"usage 1 2 3 4",
    b"usage 1 2 3 4 5 6 7",
    b"output_lost stdin x -",
    b"output_waits stdin disk_full",
    b"\xff\xfe",
)


@pytest.mark.parametrize("line", _MEANINGLESS)
def test_a_line_that_means_nothing_is_counted(line: bytes) -> None:
    reader = StateReader()
    assert reader.feed(line + b"\n") == []
    assert reader.ignored_lines == 1


def test_an_endless_line_is_skipped_and_not_kept() -> None:
    reader = StateReader()
    for _ in range(100):
        assert reader.feed(b"x" * MAX_LINE_BYTES) == []
    assert len(reader._partial) <= MAX_LINE_BYTES
    assert reader.feed(b"ended 0 exit\nended 1 exit\n") == [Ended(1, "exit")]
    assert reader.ignored_lines == 1


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_credit_is_always_of_one_size_and_comes_back(stdout: int, stderr: int) -> None:
    data = format_credit(Credit(stdout, stderr))
    assert len(data) == CREDIT_BYTES
    assert parse_credit(data) == Credit(stdout, stderr)


@pytest.mark.parametrize("data", [b"", b"1 2\n", b" " * 42, format_credit(Credit(1, 2))[:-1], b"%020d x%18d\n" % (1, 2)])
def test_another_credit_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="credit"):
        parse_credit(data)


def test_a_credit_that_is_no_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="credit -1"):
        format_credit(Credit(-1, 0))


def test_the_launcher_fits_into_one_argument() -> None:
    """MAX_ARG_STRLEN: 128 KiB."""
    assert len(launcher_text()) < 64 * 1024
