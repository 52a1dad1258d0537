"""The exit code of a command that stands for a job. Pure. The numbers are those of timeout(1), docker-run(1) and the shell."""

from __future__ import annotations

from typing import Final

NOT_RUN: Final = 125
TIMEOUT: Final = 124
_SIGNALLED: Final = 128
_SIGINT: Final = 2

# The script's own end: its exit code says something.
_OF_THE_SCRIPT: Final = frozenset({"script_exit", "signal", "oom", "pids", "disk_full", "output_lost"})


def of_job(status: str, exit_code: int | None, reason: str | None, ended_by: int | None = None) -> int:
    """For a job that ended as `status`, with `reason` as in `error.details.reason`; `ended_by` is the signal that we got."""
    match status:
        case "completed":
            return exit_code or 0
        case "timeout":
            return TIMEOUT
        case "cancelled":
            return of_signal(ended_by or _SIGINT)
        case _:
            return (exit_code or NOT_RUN) if reason in _OF_THE_SCRIPT else NOT_RUN


def of_signal(number: int) -> int:
    """As a shell has it for a program that ended by a signal."""
    return _SIGNALLED + number
