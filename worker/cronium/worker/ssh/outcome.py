"""How an attempt ended on one server, and how a job on several did: decided from what the places said and what we saw.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import ResultFile, Results, ServerOutcome
from cronium.common.servers import Server
from cronium.worker.judgement import Ending, launch_failure, overtime, script_failure
from cronium.worker.story import Story


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of one server's part. `verdict`: why it is over without the script's own word.

    `cancelled`: we have asked for its end.
    """

    server: Server
    story: Story
    timeout_s: float
    interpreter: str
    verdict: ExecutionError | None = None
    cancelled: bool = False


def decide(facts: Facts) -> Ending:
    """The one place where the end on a server is judged.

    The place's own word on the script's end counts before all else, unless its server has shown that no word of it counts.
    """
    story, name = facts.story, facts.server.name
    code = story.ended.code if story.ended is not None else None
    if facts.verdict is not None and (story.ended is None or facts.verdict.reason is Reason.SSH_PROTOCOL):
        status = "cancelled" if facts.verdict.reason is Reason.CANCELLED else "failed"
        if facts.verdict.reason is Reason.TIMEOUT:
            status = "timeout"
        return Ending(status, code, facts.verdict)
    if story.failed is not None and story.started is None:
        if story.failed.reason == "cancelled":
            return Ending(
                "cancelled", None, ExecutionError(Reason.CANCELLED, "the job was cancelled before its script was started")
            )
        if story.failed.reason == "disk_full":
            text = f"the script could not be started, for the disk of {name} is full: make room there"
            return Ending("failed", None, ExecutionError(Reason.DISK_FULL, text, server=name))
        return Ending("failed", None, launch_failure(story, facts.interpreter, f"{name}: install it there"))
    if story.ended is None:
        return Ending("failed", None, ExecutionError(Reason.INTERNAL, "the place ended without a word: please report it"))
    if story.ended.why == "cancel" and not facts.cancelled and code != 0:  # so does a server that is shut down
        text = f"the job was ended on {name} from outside (SIGTERM): was it shut down? look who ends processes there"
        return Ending("failed", code, ExecutionError(Reason.PLACE_VANISHED, text, exit_code=code, server=name))
    if story.ended.why == "cancel" and facts.cancelled:
        return Ending("cancelled", code, ExecutionError(Reason.CANCELLED, "the job was cancelled"))
    if story.ended.why == "deadline":
        return Ending("timeout", code, overtime(facts.timeout_s))
    if code == 0:
        return Ending("completed", 0, None)
    full = next((lost for lost in story.lost if lost.reason == "disk_full"), None)
    if full is not None:
        text = f"the script ended with exit code {code} after the disk of {name} was full: make room there"
        return Ending("failed", code, ExecutionError(Reason.DISK_FULL, text, exit_code=code, server=name))
    return Ending("failed", code, script_failure(story, story.ended.code, {"server": name}))


def outcome_on(server: Server, ending: Ending) -> ServerOutcome:
    """The same as data."""
    error = ending.error
    reason, message = (error.reason.value, error.message) if error is not None else (None, None)
    return ServerOutcome(server.key, server.name, ending.status, ending.exit_code, reason, message)


def together(parts: Sequence[tuple[Server, Ending]], finished: Sequence[ServerOutcome]) -> Ending:
    """The job succeeds when all do; otherwise it ends as the first that did not, and says which did not.

    `finished`: those on which an earlier attempt has succeeded. The exit code is the first that is not 0 (PROTOCOL.md).
    """
    bad = [(server, ending) for server, ending in parts if ending.status != "completed"]
    if not bad:
        return Ending("completed", 0, None)
    code = next((ending.exit_code for _, ending in bad if ending.exit_code), None)
    ranks = {"cancelled": 0, "timeout": 1, "failed": 2}
    first = min((ending for _, ending in bad), key=lambda ending: ranks.get(ending.status, 2))
    said = "; ".join(f"{server.name}: {ending.error.message if ending.error else ending.status}" for server, ending in bad[:20])
    count = len(parts) + len(finished)
    reason = first.error.reason if first.error is not None else Reason.INTERNAL
    error = ExecutionError(
        reason,
        f"{len(bad)} of {count} servers did not succeed: {said}",
        retryable=any(ending.error is not None and ending.error.retryable for _, ending in bad),
        exit_code=code,
    )
    return Ending(first.status, code, error)


def results_together(parts: Sequence[tuple[Server, Results]]) -> Results:
    """What all gave back: files below a folder of their server's name, the last word of each kind, problems with their server."""
    if len(parts) == 1:
        return parts[0][1]
    output = condition = variables = None
    files: list[ResultFile] = []
    problems: list[str] = []
    for server, results in parts:
        output = results.script_output if results.script_output is not None else output
        if results.condition is not None:
            condition = results.condition if condition is None else condition and results.condition
        variables = results.variables if results.variables is not None else variables
        folder = server.name.replace("/", "_").lstrip(".") or "server"
        files += (ResultFile(f"{folder}/{file.path}", file.mime_type, file.content) for file in results.files)
        problems += (f"{server.name}: {problem}" for problem in results.problems)
    return Results(output, condition, variables, tuple(files), tuple(problems))
