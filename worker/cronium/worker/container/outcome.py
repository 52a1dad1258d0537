"""How an attempt ended: decided from what its place said, what the engine saw, and what we did ourselves.

Pure. The `state` file knows why (deadline, cancel, exit code of the script); the engine knows about memory and about ends from
outside. Either may be missing.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from cronium.common.config.units import format_size
from cronium.common.errors import ExecutionError, Reason
from cronium.common.job import ScriptType
from cronium.worker.container.engine import ContainerState
from cronium.worker.container.limits import Plan
from cronium.worker.container.story import Story

_KILLED = 128 + signal.SIGKILL
_AT_THE_LIMIT = 0.98  # a peak so near to the memory limit touched it


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known. `fate`: the container after its end; None when it has vanished or the engine never told.

    `verdict`: why we ended it ourselves. `engine_was_away`: it may have missed an out-of-memory event. `said`: the launcher's own
    stderr.
    """

    plan: Plan
    story: Story
    fate: ContainerState | None
    verdict: ExecutionError | None = None
    cancelled: bool = False
    overdue: bool = False
    engine_was_away: bool = False
    said: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """The status of PROTOCOL.md, the exit code where there is one, the error unless it completed."""

    status: str
    exit_code: int | None
    error: ExecutionError | None


def decide(facts: Facts) -> Ending:
    """The one place where an attempt's end is judged."""
    story = facts.story
    code = _exit_code(facts)
    if facts.verdict is not None:
        return Ending("failed", code, facts.verdict)
    if story.failed is not None and story.started is None:
        return Ending("failed", code, _launch_error(facts))
    why = story.ended.why if story.ended is not None else None
    if why == "cancel" or (why is None and facts.cancelled):
        return Ending("cancelled", code, ExecutionError(Reason.CANCELLED, "the job was cancelled"))
    if why == "deadline" or (why is None and facts.overdue):
        return Ending("timeout", code, _timeout(facts))
    if code == 0 and (story.ended is not None or story.started is not None):
        return Ending("completed", 0, None)
    return Ending("failed", code, _failure(facts, code))


def _exit_code(facts: Facts) -> int | None:
    if facts.story.ended is not None:
        return facts.story.ended.code
    return facts.fate.exit_code if facts.fate is not None else None


def _failure(facts: Facts, code: int | None) -> ExecutionError:
    story, fate = facts.story, facts.fate
    if fate is None and story.ended is None:
        return ExecutionError(
            Reason.PLACE_VANISHED,
            "the job's container has vanished before the job had ended: look who removes containers (`docker events`)",
        )
    if _out_of_memory(facts, code):
        limit = facts.plan.limits.memory_bytes
        return _with_memory(
            facts,
            Reason.OOM,
            f"out of memory: the job's limit is {format_size(limit)}; ask for more (execution.resources.memoryLimit)",
            code,
        )
    if story.started is None:
        detail = (fate.error if fate is not None else "") or facts.said or f"exit code {code}"
        return ExecutionError(
            Reason.START_FAILED, f"the container ended before the script began ({detail}): see the engine's log", exit_code=code
        )
    if story.ended is None:
        return ExecutionError(
            Reason.PLACE_VANISHED,
            f"the job's container was ended from outside, or by a script that ends all processes it sees (exit code {code}): "
            "look who ends containers, and whether the engine restarts without live-restore",
            exit_code=code,
        )
    return _script_failure(facts, int(code or 0))


def _script_failure(facts: Facts, code: int) -> ExecutionError:
    usage = facts.story.usage
    if usage is not None and usage.pids_hits:
        return _with_memory(
            facts,
            Reason.PIDS,
            f"the script ended with exit code {code} after it could not start a process {usage.pids_hits} times: its limit is "
            f"{facts.plan.limits.pids}; ask for more (execution.resources.pidsLimit)",
            code,
        )
    lost = next((one for one in facts.story.lost if one.reason == "pump_lost"), None)
    if lost is not None:
        return ExecutionError(
            Reason.OUTPUT_LOST,
            f"the job has ended the program that writes its {lost.stream}: do not kill processes of others",
            exit_code=code,
        )
    name = _signal_name(code)
    if name is not None:
        return _with_memory(
            facts, Reason.SIGNAL, f"the script ended as by signal {name} (exit code {code}): see its output", code
        )
    hint = _HINTS.get(code, "see its output")
    return _with_memory(facts, Reason.SCRIPT_EXIT, f"the script ended with exit code {code}: {hint}", code)


_HINTS = {
    126: "a command of it could not be executed; see its output",
    127: "a command of it was not found in its image; see its output",
}


def _out_of_memory(facts: Facts, code: int | None) -> bool:
    if not code or facts.fate is None:
        return False
    if facts.fate.oom_killed:
        return True
    usage = facts.story.usage
    peak = usage.peak_memory_bytes if usage is not None else None
    near = peak is not None and peak >= facts.plan.limits.memory_bytes * _AT_THE_LIMIT
    return facts.engine_was_away and code == _KILLED and near


def _timeout(facts: Facts) -> ExecutionError:
    seconds = facts.plan.limits.timeout_s
    return ExecutionError(
        Reason.TIMEOUT,
        f"the script was still running after {seconds:g} s: ask for more (execution.timeout), or split it",
        timeout_s=seconds,
    )


def _launch_error(facts: Facts) -> ExecutionError:
    failed = facts.story.failed
    reason, detail = (failed.reason, failed.detail) if failed is not None else ("unknown", "")
    match reason:
        case "interpreter_missing":
            return ExecutionError(
                Reason.INTERPRETER_MISSING,
                f"there is no {detail or facts.plan.interpreter} in image {facts.plan.image}: choose an image for "
                f"{ScriptType(facts.plan.script.type).value} scripts",
                image=facts.plan.image,
            )
        case _:
            return ExecutionError(
                Reason.LAUNCH_FAILED,
                f"the script could not be started ({reason.replace('_', ' ')}{': ' + detail if detail else ''}): check the job's "
                "working directory, environment and image",
                launcher=reason,
            )


def _with_memory(facts: Facts, reason: Reason, message: str, code: int | None) -> ExecutionError:
    usage = facts.story.usage
    error = ExecutionError(reason, message, exit_code=code, memory_limit_bytes=facts.plan.limits.memory_bytes)
    if usage is not None and usage.peak_memory_bytes is not None:
        error.details["peak_memory_bytes"] = usage.peak_memory_bytes
    return error


def _signal_name(code: int) -> str | None:
    try:
        return signal.Signals(code - 128).name if code > 128 else None
    except ValueError:
        return None
