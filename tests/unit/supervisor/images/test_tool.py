"""Commands of the builders: nothing of them may go on when the reading ends, and their last words are kept."""

import time
from pathlib import Path

import pytest

from cronium.supervisor.images.tool import ToolError, lines_of


def is_gone(pid: int, deadline_s: float = 10) -> bool:
    deadline = time.monotonic() + deadline_s
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not Path(f"/proc/{pid}").exists()


def test_both_streams_come_line_by_line_also_without_a_last_newline() -> None:
    assert list(lines_of(["sh", "-c", "echo one; echo two >&2; printf three"], timeout_s=30)) == ["one", "two", "three"]


def test_a_failure_has_the_exit_code_and_the_last_words() -> None:
    with pytest.raises(ToolError, match="exit code 3") as failure:
        list(lines_of(["sh", "-c", "echo no such mirror; exit 3"], timeout_s=30))
    assert failure.value.lines == ("no such mirror",)


def test_a_command_that_is_not_there_is_a_failure_of_the_same_kind() -> None:
    with pytest.raises(ToolError, match="No such file"):
        list(lines_of(["/nowhere/mmdebstrap"], timeout_s=30))


def test_a_command_that_takes_too_long_is_ended_with_its_children() -> None:
    with pytest.raises(ToolError, match="not done after") as failure:
        list(lines_of(["sh", "-c", "sleep 600 & echo $!; wait"], timeout_s=0.5))
    assert is_gone(int(failure.value.lines[0]))


def test_whoever_stops_reading_ends_the_command_with_its_children() -> None:
    lines = lines_of(["sh", "-c", "sleep 600 & echo $!; wait"], timeout_s=60)
    child = int(next(lines))
    assert Path(f"/proc/{child}").exists()
    lines.close()
    assert is_gone(child)
