"""How an attempt's end is judged from what is known: place, engine, ourselves; each may be silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cronium.common.config.model import Container
from cronium.common.errors import ExecutionError, Reason
from cronium.common.job import parse_job
from cronium.worker.container.engine import ContainerState
from cronium.worker.container.limits import plan
from cronium.worker.container.outcome import Facts, decide
from cronium.worker.container.settings import Settings
from cronium.worker.story import Story

MIB = 1024 * 1024
_PLAN = plan(
    parse_job({"id": "j", "execution": {"script": {"type": "bash", "content": ""}, "resources": {"memoryLimit": 64 * MIB}}}),
    Settings(Container(), "i", Path("/s"), 60, 600, 10, MIB),
)
STARTED = b"started 7 100 boot\n"


def fate(code: int, oom: bool = False) -> ContainerState:
    return ContainerState("c", "exited", code, oom, "", "", "", {}, ())


def ending(state: bytes, seen: ContainerState | None, **facts: Any) -> tuple[str, int | None, str | None]:
    story = Story()
    story.feed(state)
    decided = decide(Facts(_PLAN, story, seen, **facts))
    return decided.status, decided.exit_code, decided.error.reason.value if decided.error else None


@pytest.mark.parametrize(
    ("state", "seen", "facts", "expected"),
    [
        (STARTED + b"ended 0 exit\n", fate(0), {}, ("completed", 0, None)),
        (STARTED + b"ended 0 exit\n", None, {}, ("completed", 0, None)),
        (STARTED + b"ended 3 exit\n", fate(3), {}, ("failed", 3, "script_exit")),
        (STARTED + b"ended 143 deadline\n", fate(143), {}, ("timeout", 143, "timeout")),
        (STARTED + b"ended 143 cancel\n", fate(143), {"cancelled": True}, ("cancelled", 143, "cancelled")),
        (STARTED + b"ended 143 cancel\n", fate(143), {}, ("failed", 143, "place_vanished")),
        (STARTED + b"ended 0 cancel\n", fate(0), {}, ("completed", 0, None)),
        (STARTED + b"ended 0 cancel\n", fate(0), {"cancelled": True}, ("cancelled", 0, "cancelled")),
        (STARTED + b"ended 0 exit\n", fate(0), {"cancelled": True}, ("completed", 0, None)),
        (STARTED, fate(137), {"cancelled": True}, ("cancelled", 137, "cancelled")),
        (STARTED, fate(137), {"overdue": True}, ("timeout", 137, "timeout")),
        (STARTED, fate(137), {}, ("failed", 137, "place_vanished")),
        (STARTED, None, {}, ("failed", None, "place_vanished")),
        (STARTED + b"ended 137 exit\n", fate(137, oom=True), {}, ("failed", 137, "oom")),
        (STARTED + b"ended 0 exit\n", fate(0, oom=True), {}, ("completed", 0, None)),
        (STARTED + b"ended 137 exit\n", fate(137), {}, ("failed", 137, "signal")),
        (STARTED + b"ended 200 exit\n", fate(200), {}, ("failed", 200, "script_exit")),
        (STARTED + b"ended 1 exit\nusage 1 1 1 1 5\n", fate(1), {}, ("failed", 1, "pids")),
        (STARTED + b"output_lost stderr pump_lost -\nended 137 exit\n", fate(137), {}, ("failed", 137, "output_lost")),
        (b"failed interpreter_missing python3\n", fate(127), {}, ("failed", 127, "interpreter_missing")),
        (b"failed working_directory /x\n", fate(125), {}, ("failed", 125, "launch_failed")),
        (b"", fate(127), {}, ("failed", 127, "start_failed")),
        (b"", fate(0), {}, ("failed", 0, "start_failed")),
    ],
)
def test_every_end_has_its_reason(
    state: bytes, seen: ContainerState | None, facts: dict[str, Any], expected: tuple[str, int | None, str | None]
) -> None:
    """One table."""
    assert ending(state, seen, **facts) == expected


def test_our_own_verdict_comes_first() -> None:
    """A job that was ended for flooding did not fail by a signal."""
    verdict = ExecutionError(Reason.OUTPUT_FLOOD, "much")
    assert ending(STARTED + b"ended 137 exit\n", fate(137), verdict=verdict) == ("failed", 137, "output_flood")


def test_out_of_memory_is_known_even_when_the_engine_slept_through_it() -> None:
    """The kernel's count in the place tells; a peak at the limit does not, for files in memory count too."""
    state = STARTED + b"ended 137 exit\nusage %d 1 1 1 0 " % (64 * MIB)
    assert ending(state + b"1\n", fate(137))[2] == "oom"
    assert ending(state + b"1\n", None) == ("failed", 137, "oom")
    assert ending(state + b"0\n", fate(137))[2] == "signal"
    assert ending(state + b"-\n", fate(137))[2] == "signal"
    assert ending(STARTED + b"ended 0 exit\nusage 1 1 1 1 0 1\n", fate(0))[0] == "completed"


def test_the_launcher_has_the_last_word_on_the_exit_code() -> None:
    """A script can write to the state file, but only before its end."""
    assert ending(STARTED + b"ended 0 exit\nended 4 exit\n", fate(4)) == ("failed", 4, "script_exit")


def test_an_error_ends_with_what_to_do_and_carries_its_figures() -> None:
    """For people."""
    story = Story()
    story.feed(STARTED + b"ended 137 exit\nusage 67108864 1 1 1 0\n")
    error = decide(Facts(_PLAN, story, fate(137, oom=True))).error
    assert error is not None
    assert "memoryLimit" in error.message
    assert error.details["peak_memory_bytes"] == error.details["memory_limit_bytes"] == 64 * MIB
