"""The exit code of a command that stands for a job."""

import pytest

from cronium.common.errors import Reason
from cronium.supervisor.cli.exit_codes import of_job


@pytest.mark.parametrize(
    ("status", "exit_code", "reason", "signal", "expected"),
    [
        ("completed", 0, None, None, 0),
        ("failed", 3, "script_exit", None, 3),
        ("failed", 139, "signal", None, 139),
        ("failed", 137, "oom", None, 137),
        ("timeout", 143, "timeout", None, 124),
        ("cancelled", 143, "cancelled", None, 130),
        ("cancelled", 0, "cancelled", 15, 143),
        ("cancelled", None, "cancelled", 13, 141),
        ("failed", None, "image_missing", None, 125),
        ("failed", 1, "start_failed", None, 125),
        ("failed", 137, "place_vanished", None, 125),
        ("failed", None, None, None, 125),
    ],
)
def test_it_says_how_the_job_ended(
    status: str, exit_code: int | None, reason: str | None, signal: int | None, expected: int
) -> None:
    assert of_job(status, exit_code, reason, signal) == expected


@pytest.mark.parametrize("reason", list(Reason))
def test_a_job_that_failed_never_ends_with_0(reason: Reason) -> None:
    assert of_job("failed", 0, reason.value) != 0
    assert of_job("failed", None, reason.value) != 0
