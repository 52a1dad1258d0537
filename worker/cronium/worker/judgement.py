"""How a script's own end is judged: the same for every kind of place.

Pure. What only one kind of place can know (memory limits, a container's fate, a server that was rebooted) its executor adds.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass

from cronium.common.errors import ExecutionError, Reason
from cronium.worker.story import Story

_HINTS = {
    126: "a command of it could not be executed; see its output",
    127: "a command of it was not found there; see its output",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """The status of PROTOCOL.md, the exit code where there is one, the error unless it completed."""

    status: str
    exit_code: int | None
    error: ExecutionError | None


def script_failure(story: Story, code: int, details: Mapping[str, object]) -> ExecutionError:
    """Why a script that ended by itself with another code than 0 has failed."""
    lost = next((one for one in story.lost if one.reason == "pump_lost"), None)
    if lost is not None:
        return ExecutionError(
            Reason.OUTPUT_LOST,
            f"the job has ended the program that writes its {lost.stream}: do not kill processes of others",
            exit_code=code,
        )
    name = _signal_name(code)
    if name is not None:
        message = f"the script ended as by signal {name} (exit code {code}): see its output"
        return with_details(ExecutionError(Reason.SIGNAL, message, exit_code=code), details)
    message = f"the script ended with exit code {code}: {_HINTS.get(code, 'see its output')}"
    return with_details(ExecutionError(Reason.SCRIPT_EXIT, message, exit_code=code), details)


def with_details(error: ExecutionError, details: Mapping[str, object]) -> ExecutionError:
    """The error, knowing more."""
    error.details.update(details)
    return error


def cancelled_before_start() -> ExecutionError:
    """People wanted its end before it had begun."""
    return ExecutionError(Reason.CANCELLED, "the job was cancelled before its script was started")


def overtime(timeout_s: float) -> ExecutionError:
    """The script was still running at its deadline."""
    return ExecutionError(
        Reason.TIMEOUT,
        f"the script was still running after {timeout_s:g} s: ask for more (execution.timeout), or split it",
        timeout_s=timeout_s,
    )


def launch_failure(story: Story, interpreter: str, where: str) -> ExecutionError:
    """The launcher could not start the script. `where` ends `there is no node in …`."""
    failed = story.failed
    reason, detail = (failed.reason, failed.detail) if failed is not None else ("unknown", "")
    if reason == "interpreter_missing":
        return ExecutionError(Reason.INTERPRETER_MISSING, f"there is no {detail or interpreter} in {where}")
    return ExecutionError(
        Reason.LAUNCH_FAILED,
        f"the script could not be started ({reason.replace('_', ' ')}{': ' + detail if detail else ''}): check the job's "
        f"working directory and environment, and {where.partition(':')[0]}",
        launcher=reason,
    )


def _signal_name(code: int) -> str | None:
    try:
        return signal.Signals(code - 128).name if code > 128 else None
    except ValueError:
        return None
