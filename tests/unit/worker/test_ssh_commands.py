"""What a server's commands are made of, and what is made of what servers say: none of it may trust them."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cronium.worker.launcher import Segment, parse_state_line
from cronium.worker.ssh.commands import (
    MAX_BEFORE_MARKER_BYTES,
    Facts,
    KeepReader,
    Look,
    Marker,
    RemoteError,
    RemotePlace,
    Reply,
    Words,
    clean_command,
    described,
    keep_command,
    list_command,
    parse_cleaned,
    parse_listed,
    parse_reply,
    read_command,
    results_command,
    run_command,
)

PLACE = RemotePlace("/tmp/cro'nium \\ä!", "cronium-a-0011")
BOOT = "4a8c41ff-c7f3-42a4-bed5-f605f416a873"
READY = f"@cronium ready uid=1000 boot={BOOT} up=77 place=yes\n".encode()
FACTS = Facts(1000, BOOT, there=True, up_s=77)
LOOK = f"@cronium look launcher=alive begun=no gate=yes place=yes boot={BOOT}".encode()


@pytest.mark.parametrize(
    "command",
    [
        run_command(PLACE, 20, 86400, "r1"),
        read_command(PLACE, {"stdout": 5, "stderr": 0}, "r1"),
        keep_command(PLACE, 0, 0, "r1"),
        results_command(PLACE),
        clean_command("/tmp/c", ["cronium-a-1", "cronium-a-2"]),
        list_command("/tmp/c", "a"),
    ],
)
def test_any_login_shell_takes_a_command_as_it_is(command: str) -> None:
    """One line of ASCII; in its quotes nothing that sh, bash, fish or csh would change; short enough for one packet."""
    assert re.fullmatch(r"[ -~]+", command)
    words = re.fullmatch(r"""exec (env [^ ']+ )?sh -c 'eval "\$\(printf %b "\$0"\)"' '([^'!@]+)'""", command)
    assert words
    assert not re.search(r"\\(?!n|0[0-7]{3})", words[2])
    assert len(command) < 30_000


@pytest.mark.parametrize(
    "name", ["", "x", "cronium-", "cronium-a/b", "cronium-a b", "cronium-a\n", "../cronium-a", "cronium-$(x)", "cronium-ä"]
)
def test_a_place_s_name_is_a_plain_word(name: str) -> None:
    with pytest.raises(ValueError, match="place"):
        RemotePlace("/tmp/c", name)
    with pytest.raises(ValueError, match="place"):
        clean_command("/tmp/c", [name])


@pytest.mark.parametrize("temp_dir", ["", "tmp", "/", "/tmp/", "/tmp/a\nb", "/tmp/\0"])
def test_a_temp_dir_is_an_absolute_path(temp_dir: str) -> None:
    with pytest.raises(ValueError, match="temp_dir"):
        RemotePlace(temp_dir, "cronium-a-1")


def test_offsets_and_readers_are_checked() -> None:
    with pytest.raises(ValueError, match="offset"):
        read_command(PLACE, {"stdout": -1, "stderr": 0}, "r1")
    with pytest.raises(ValueError, match="reader"):
        keep_command(PLACE, 0, 0, "a/b")
    assert Words.credit(3, 0) + Words.next("stdout", 7) == b"credit 3 0\nnext stdout 7\n"


@given(st.binary(max_size=200).filter(lambda data: b"@" not in data), st.integers(0, 300), st.binary(max_size=50))
def test_the_marker_is_found_behind_what_a_login_shell_printed(before: bytes, cut: int, after: bytes) -> None:
    marker, whole = Marker(), before + READY + after
    cut = min(cut, len(whole))
    found = marker.feed(whole[:cut])
    if found is None:
        found = marker.feed(whole[cut:])
        assert found == (FACTS, after)
    else:
        assert found[0] == FACTS
        assert found[1] + whole[cut:] == after


def test_a_command_s_error_is_raised() -> None:
    with pytest.raises(RemoteError, match="taken: /tmp/a b") as caught:
        Marker().feed(b"hi\n@cronium error taken /tmp/a b\n")
    assert caught.value.code == "taken"


@pytest.mark.parametrize(
    "said",
    [
        bytes(MAX_BEFORE_MARKER_BYTES + 1),
        b"@cronium " + b"x" * 5000,
        b"@cronium ready\n",
        b"@cronium ready uid=-1 boot=x up=1 place=yes\n",
        b"@cronium ready uid=\xd9\xa1 boot=x up=1 place=yes\n",
        b"@cronium \xff\xfe\n",
    ],
)
def test_garbage_instead_of_the_marker_is_an_error_of_ours(said: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        Marker().feed(said)
    assert caught.value.code == "garbage"


def test_a_command_that_never_ran_says_what_was_said_instead() -> None:
    marker = Marker()
    assert marker.feed(b"This account is currently not available.\n") is None
    assert "not available" in marker.missing().detail


@given(
    st.lists(
        st.sampled_from(
            [LOOK + b"\n", b"@cronium claim won\n", b"started 1 2 x\n", b"ended 0 e", b"@cron", b"@", b"\n", b"@@cronium "]
        ),
        max_size=12,
    ),
    st.data(),
)
def test_replies_are_taken_out_of_the_state_wherever_they_fall(pieces: list[bytes], data: st.DataObject) -> None:
    """However the stream is cut: the same replies, and every other byte once and in order."""
    whole = b"".join(pieces)
    at_once = KeepReader()
    state, replies = at_once.feed(whole)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    reader, seen, found = KeepReader(), b"", []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        part, said = reader.feed(whole[start:end])
        seen += part
        found += said
    assert (seen, found) == (state, replies)
    rest = whole
    for _ in replies:
        rest = rest.replace(LOOK + b"\n", b"", 1) if LOOK + b"\n" in rest else rest.replace(b"@cronium claim won\n", b"", 1)
    assert len(state) <= len(whole) - sum(len(b"@cronium claim won\n") for _ in replies)


def test_a_reply_between_two_halves_of_a_line_of_state() -> None:
    state, replies = KeepReader().feed(b"ended 3 @cronium cancel told\nexit\n")
    assert (state, replies) == (b"ended 3 exit\n", [Reply("cancel", "told")])


def test_only_what_carries_the_sign_is_a_reply() -> None:
    """A script can write whatever it likes to its `state`; wherever the stream is cut."""
    forged = b"@cronium claim won\n@cronium 0b claim won\n@cronium 0 a claim won\n"
    whole = forged + b"start@cronium 0a claim lost\ned 1 2 -\n"
    for cut in range(len(whole)):
        reader = KeepReader("0a")
        parts = [reader.feed(whole[:cut]), reader.feed(whole[cut:])]
        assert b"".join(state for state, _ in parts) == forged + b"started 1 2 -\n"
        assert [reply for _, replies in parts for reply in replies] == [Reply("claim", "lost")]


def test_a_mark_that_leads_nowhere_is_not_kept_for_ever() -> None:
    reader = KeepReader()
    seen = b"".join(reader.feed(b"@cronium " + b"x" * 1000)[0] for _ in range(10))
    assert len(seen) >= 10 * 1009 - 4096


def test_replies() -> None:
    assert parse_reply(LOOK.removeprefix(b"@cronium ")) == Look(
        launcher_alive=True, begun="no", gate=True, there=True, boot_id=BOOT
    )
    assert parse_reply(b"claim lost") == Reply("claim", "lost")
    for line in (
        b"",
        b"look",
        b"claim maybe",
        b"look launcher=x",
        b"\xff",
        b"kill done x",
        b"@cronium kill done",
    ):
        assert parse_reply(line) is None


@given(st.binary(max_size=300))
def test_nothing_that_a_server_says_raises_anything_else(said: bytes) -> None:
    for parse in (parse_cleaned, parse_listed):
        for data in (said, READY + said):
            with contextlib.suppress(RemoteError):
                parse(data)
    parse_reply(said)
    KeepReader().feed(b"@cronium " + said)


def test_a_command_is_described_by_what_it_does_and_where() -> None:
    assert described(keep_command(PLACE, 0, 0, "r1")) == {"command": "keep", "place": PLACE.name}
    assert described(read_command(PLACE, {"stdout": 5, "stderr": 0}, "r1")) == {"command": "read_on", "place": PLACE.name}
    assert described(clean_command("/tmp/c", ["cronium-a-1", "cronium-a-2"])) == {"command": "clean"}
    assert described(list_command("/tmp/c", "a")) == {"command": "list"}
    assert described("uptime") == {"command": "other"}


def test_what_is_gone_and_what_is_there() -> None:
    gone = READY + b"@cronium gone cronium-a-1\n@cronium gone ../x\nnoise\n@cronium end\n"
    assert parse_cleaned(gone).names == {"cronium-a-1"}
    there = READY + b"@cronium place cronium-a-2\n@cronium end\n"
    assert parse_listed(there).names == {"cronium-a-2"}
    with pytest.raises(RemoteError):
        parse_listed(there[:-5])


def test_a_segment_is_an_event_of_state() -> None:
    assert parse_state_line(b"segment stdout 65536") == Segment("stdout", 65536)
    for line in (b"segment stdout", b"segment stdin 1", b"segment stdout -", b"segment stdout x", b"segment stdout 1 2"):
        assert parse_state_line(line) is None
