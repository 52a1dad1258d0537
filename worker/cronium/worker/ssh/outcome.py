"""How an attempt ended on one server: decided from what its place said and what we saw.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cronium.common.errors import ExecutionError, Reason
from cronium.common.messages import ResultFile, Results, ServerOutcome
from cronium.common.servers import Server
from cronium.worker.judgement import Ending, cancelled_before_start, launch_failure, overtime, script_failure
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
            return Ending("cancelled", None, cancelled_before_start())
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


def outcome_on(server: Server, ending: Ending, *, touched: bool) -> ServerOutcome:
    """The same as data."""
    error = ending.error
    reason, message = (error.reason.value, error.message) if error is not None else (None, None)
    return ServerOutcome(server.key, server.name, ending.status, ending.exit_code, reason, message, touched)


def folders_of(servers: Sequence[Server]) -> Mapping[str, str]:
    """The folder of each server's files, by the server's key: its name as far as a folder can have it, each another."""
    folders: dict[str, str] = {}
    for server in servers:
        plain = server.name.replace("/", "_").lstrip(".") or "server"
        names = (plain, *(f"{plain} ({number})" for number in range(2, len(servers) + 1)))
        folders[server.key] = next(name for name in names if name not in folders.values())
    return folders


def results_together(parts: Sequence[tuple[Server, Results]], folders: Mapping[str, str], max_bytes: int) -> Results:
    """What several gave back: files below a folder of their server's, problems with their server.

    `max_bytes`: of all files. Each server's own are within it already; together they go through one message.
    """
    all_of_them = Results()
    for server, results in parts:
        folder = folders[server.key]
        files = tuple(ResultFile(f"{folder}/{file.path}", file.mime_type, file.content) for file in results.files)
        problems = tuple(f"{server.name}: {problem}" for problem in results.problems)
        all_of_them = all_of_them.then(replace(results, files=files, problems=problems))
    return all_of_them.within(max_bytes)
