"""How an attempt ended: decided from what its place said, what the engine saw, and what we did ourselves.

Pure. The `state` file knows why (deadline, cancel, exit code of the script); the engine knows about memory and about ends from
outside. Either may be missing.
"""

from __future__ import annotations

from dataclasses import dataclass

from cronium.common.config.units import format_size
from cronium.common.errors import ExecutionError, Reason
from cronium.common.job import ScriptType
from cronium.worker.container.engine import ContainerState
from cronium.worker.container.limits import Plan
from cronium.worker.judgement import Ending, launch_failure, overtime, script_failure, with_details
from cronium.worker.story import Story


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known. `fate`: the container after its end; None when it has vanished or the engine never told.

    `verdict`: why we ended it ourselves. `said`: the launcher's own stderr.
    """

    plan: Plan
    story: Story
    fate: ContainerState | None
    verdict: ExecutionError | None = None
    cancelled: bool = False
    overdue: bool = False
    said: str = ""


def decide(facts: Facts) -> Ending:
    """The one place where an attempt's end is judged."""
    story = facts.story
    code = _exit_code(facts)
    if facts.verdict is not None:
        return Ending("failed", code, facts.verdict)
    if story.failed is not None and story.started is None:
        return Ending("failed", code, _launch_error(facts))
    why = story.ended.why if story.ended is not None else None
    if facts.cancelled and why in (None, "cancel"):
        return Ending("cancelled", code, ExecutionError(Reason.CANCELLED, "the job was cancelled"))
    if why == "cancel" and code != 0:  # by somebody else: the engine when it stops without live-restore, `docker stop`
        return Ending("failed", code, _ended_from_outside(code))
    if why == "deadline" or (why is None and facts.overdue):
        return Ending("timeout", code, overtime(facts.plan.limits.timeout_s))
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
        return _ended_from_outside(code)
    return _script_failure(facts, int(code or 0))


def _ended_from_outside(code: int | None) -> ExecutionError:
    return ExecutionError(
        Reason.PLACE_VANISHED,
        f"the job's container was ended from outside, or by a script that ends all processes it sees (exit code {code}): "
        "look who ends containers (`docker events`), and whether the engine restarts without live-restore",
        exit_code=code,
    )


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
    return script_failure(facts.story, code, _memory(facts))


def _out_of_memory(facts: Facts, code: int | None) -> bool:
    """By the engine's word, or the kernel's own count in the place: the engine may have been away, or hear of it too late."""
    if not code:
        return False
    if facts.fate is not None and facts.fate.oom_killed:
        return True
    return facts.story.usage is not None and bool(facts.story.usage.oom_kills)


def _launch_error(facts: Facts) -> ExecutionError:
    image = facts.plan.image
    where = f"image {image}: choose an image for {ScriptType(facts.plan.script.type).value} scripts"
    return launch_failure(facts.story, facts.plan.interpreter, where)


def _memory(facts: Facts) -> dict[str, object]:
    details: dict[str, object] = {"memory_limit_bytes": facts.plan.limits.memory_bytes}
    usage = facts.story.usage
    if usage is not None and usage.peak_memory_bytes is not None:
        details["peak_memory_bytes"] = usage.peak_memory_bytes
    return details


def _with_memory(facts: Facts, reason: Reason, message: str, code: int | None) -> ExecutionError:
    return with_details(ExecutionError(reason, message, exit_code=code), _memory(facts))
